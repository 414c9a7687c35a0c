#!/usr/bin/env bash
# Starts a systemd and its D-Bus in namespaces of their own and stays. tests/systemd.rs calls it.
#
#   start.sh NAME DIRECTORY VERSION     VERSION of cgroups: 1 (as the machine has it) or 2
#
# They see no cgroups but those below NAME, and no units but the few in DIRECTORY/units: the machine's own would clean up its /tmp.
set -eu
name=$1 directory=$2 version=$3

if [ -z "${INSIDE:-}" ]; then
    for hierarchy in $(awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/self/mounts); do
        mkdir "$hierarchy/$name"
        # A cpuset takes no process before it has processors and memory.
        for file in cpuset.cpus cpuset.mems; do
            [ -e "$hierarchy/$name/$file" ] && [ -z "$(cat "$hierarchy/$name/$file")" ] &&
                cat "$hierarchy/$file" >"$hierarchy/$name/$file"
        done
        [ -e "$hierarchy/$name/cgroup.clone_children" ] && echo 1 >"$hierarchy/$name/cgroup.clone_children"
        echo $$ >"$hierarchy/$name/cgroup.procs"
    done
    echo $$ >"$directory/pid"
    INSIDE=1 exec unshare --cgroup --mount --pid --fork --kill-child --uts --ipc --net --propagation private "$0" "$@"
fi

mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus
hierarchies=$(awk '$3 ~ /^cgroup2?$/ && $2 != "/sys/fs/cgroup" { print $2, $3, $4 }' /proc/self/mounts)
umount -R /sys/fs/cgroup
if [ "$version" = 2 ] || [ -z "$hierarchies" ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    mount -t tmpfs tmpfs /sys/fs/cgroup
    while read -r place kind options; do
        mkdir -p "$place"
        mount -t "$kind" -o "$(grep -oE 'name=[a-z]+|cpuset|cpuacct|cpu|memory|devices|freezer|net_cls|blkio|perf_event|net_prio|hugetlb|pids|rdma|misc' \
            <<<"$options" | sed 's/^name=/none,name=/' | paste -sd,)" cgroup "$place"
    done <<<"$hierarchies"
fi

units=$directory/units
mkdir "$units"
for unit in sysinit basic shutdown; do
    printf '[Unit]\nDescription=nothing\nDefaultDependencies=no\n' >"$units/$unit.target"
done
cp /usr/lib/systemd/system/dbus.service /usr/lib/systemd/system/dbus.socket "$units/"
printf '[Unit]\nDescription=bus\nRequires=dbus.service\nAfter=dbus.service\n' >"$units/bus.target"
export container=other SYSTEMD_UNIT_PATH=$units SYSTEMD_LOG_TARGET=null
exec /usr/lib/systemd/systemd --unit=bus.target --show-status=no
