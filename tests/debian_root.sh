#!/usr/bin/env bash
# Makes the Debian tree that the program tests run in, and prints its path.
#
# The tree is cached under .cache/debian-<hash of the package list>. It is built under
# another name and renamed when it is complete, so an interrupted build is never
# mistaken for a finished one; a lock keeps two builders apart.
#
#   tests/debian_root.sh           build if needed, print the path
#   tests/debian_root.sh --path    print where it would be, build nothing
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
suite=${DEBIAN_SUITE:-bookworm}
packages=(
    bash bsdutils coreutils diffutils dpkg findutils gawk gcc git grep gzip libc6-dev
    make ncurses-base ncurses-bin perl procps python3 sed tar tmux util-linux xz-utils
)

# The archive the host itself uses, so that a mirror or cache set up there serves us too.
mirror_of_host() {
    {
        sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null || true
        awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) { print $i; break } }' \
            /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true
    } | tr ' ' '\n' | grep -E '/debian/?$' | head -n 1
}
mirror=${DEBIAN_MIRROR:-$(mirror_of_host || true)}
mirror=${mirror:-http://deb.debian.org/debian}

key=$(printf '%s\n' "$suite" "${packages[@]}" | sha256sum | cut -c1-12)
cache=${RUNSC_TEST_CACHE:-$top/.cache}
root=$cache/debian-$key

if [ "${1:-}" = --path ]; then
    echo "$root"
    exit 0
fi

mkdir -p "$cache"
exec 9>"$cache/debian.lock"
flock -w 1200 9

if [ ! -e "$root" ]; then
    part=$cache/part-debian-$key
    # A build that was killed may have left /proc mounted inside.
    awk -v p="$part/" 'index($2, p) == 1 { print $2 }' /proc/mounts | sort -r | while read -r m; do
        umount -l "$m"
    done
    rm -rf --one-file-system "$part"
    include=$(IFS=,; echo "${packages[*]}")
    if ! timeout -k 10 1200 unshare --mount --propagation private \
        debootstrap --variant=minbase --include="$include" "$suite" "$part" "$mirror" \
        >"$cache/debootstrap.log" 2>&1; then
        echo "debian_root.sh: debootstrap of $suite from $mirror failed; last lines of $cache/debootstrap.log:" >&2
        tail -n 15 "$cache/debootstrap.log" >&2
        exit 1
    fi
    rm -rf "$part"/var/cache/apt/archives/*.deb "$part"/var/lib/apt/lists/*
    printf 'sandbox\n' >"$part/etc/hostname"
    printf '127.0.0.1 localhost sandbox\n' >"$part/etc/hosts"
    mkdir -p "$part/work" "$part/guest"
    mv "$part" "$root"
fi
echo "$root"
