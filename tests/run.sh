#!/usr/bin/env bash
# Every check of this repository, in one command; run as root with cargo and rustc on PATH.
#
#   tests/run.sh          everything: installs Debian packages it needs, about 20 minutes on 2 cores
#   tests/run.sh quick    for developers: no packages, no Debian tree, no engines
#
# Each step has its own time limit. The last line sums up all test binaries:
# "N passed, N failed"; the exit status is non-zero if anything failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
mode=${1:-full}
export CARGO_TERM_COLOR=never CARGO_NET_RETRY=5 DEBIAN_FRONTEND=noninteractive
log=$(mktemp -d /tmp/runsc-tests.XXXXXX)
trap 'rm -rf "$log"' EXIT
passed=0 failed=0 broken=()

# step NAME SECONDS COMMAND... : runs it, shows its output, remembers a failure.
step() {
    local name=$1 limit=$2 start=$SECONDS status
    shift 2
    echo "=== $name"
    timeout -k 20 "$limit" "$@" >"$log/out" 2>&1
    status=$?
    # Thousands of passing cases are of no interest: failures, summaries and messages are.
    grep -vE '^test .* \.\.\. ok|^running [0-9]+ test|^ok$|^$' "$log/out" | tail -n 400
    local sums
    sums=$(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed.*/\1 \2/p' "$log/out" |
        awk '{ p += $1; f += $2 } END { print p + 0, f + 0 }')
    passed=$((passed + ${sums% *})) failed=$((failed + ${sums#* }))
    if [ $status -ne 0 ]; then
        [ $status -ge 124 ] && echo "--- $name: stopped after $limit s"
        [ "${sums#* }" -eq 0 ] && failed=$((failed + 1)) # a failure no case stands for
        broken+=("$name")
    fi
    echo "--- $name: $([ $status -eq 0 ] && echo ok || echo "FAILED ($status)") in $((SECONDS - start)) s"
    return $status
}

# The command (or file) each Debian package is needed for.
needs=(
    gcc:gcc /usr/include/stdio.h:libc6-dev make:make git:git debootstrap:debootstrap crun:crun runc:runc podman:podman
    ctr:containerd dockerd:docker.io docker:docker.io /bin/busybox:busybox-static tmux:tmux script:bsdutils
    strace:strace ip:iproute2 unshare:util-linux setpriv:util-linux perl:perl conmon:conmon
    /usr/lib/cni/ptp:containernetworking-plugins /usr/lib/python3/dist-packages/grpc:python3-grpcio
    /usr/lib/systemd/systemd:systemd dbus-daemon:dbus /usr/lib/systemd/system/dbus.socket:dbus
    /usr/lib/podman/netavark:netavark /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
)
install_packages() {
    local missing=() need
    for need in "${needs[@]}"; do
        command -v "${need%%:*}" >/dev/null || [ -e "${need%%:*}" ] || missing+=("${need#*:}")
    done
    [ ${#missing[@]} -eq 0 ] && { echo "all packages are there"; return 0; }
    # Daemons are started by the tests alone, never by the packages.
    local policy=/usr/sbin/policy-rc.d made_policy=
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made_policy=1
    fi
    apt-get update -q && apt-get install -q -y --no-install-recommends "${missing[@]}"
    local status=$?
    # Later Debians have the client in a package of its own.
    command -v docker >/dev/null || apt-get install -q -y --no-install-recommends docker-cli || status=$?
    [ -n "$made_policy" ] && rm -f $policy
    return $status
}
# Not a step of its own kind: it needs the array above, which no child process sees.
install_step() {
    echo "=== packages"
    install_packages >"$log/out" 2>&1 || {
        tail -n 40 "$log/out"
        failed=$((failed + 1)) broken+=(packages)
    }
    tail -n 1 "$log/out"
}

if [ "$(id -u)" -ne 0 ]; then
    echo "tests/run.sh: must run as root (it makes chroots, cgroups and sandboxes)" >&2
    exit 1
fi

[ "$mode" = quick ] || install_step

step "format" 60 cargo fmt --all --check
step "lints" 900 cargo clippy --workspace --all-targets -q -- -D warnings
# The tests use the development profile: its checks for overflow and lock order are on, and it builds quickly. The
# release binary, which users run, is built and tried below.
if step "build" 1200 cargo build --workspace --all-targets -q; then
    step "unit tests" 600 cargo test -p runsc -p runsc-syscalls -p runsc-test-harness --lib --bins -q
    step "package tests" 300 cargo test -p runsc-abi -p runsc-allowlist -p runsc-platform -p runsc-gofer -p runsc-gofer-wire -p runsc-sentry -q --tests
    step "layering" 60 cargo test -p runsc -q --test layering
    step "ratchet" 60 cargo test -p runsc -q --test ratchet
    step "guest programs" 600 cargo test -p runsc -q --test guest
    step "do" 240 cargo test -p runsc -q --test do_command
    step "security" 240 cargo test -p runsc -q --test security --test sentry_filter
    step "idle" 300 cargo test -p runsc -q --test idle
    step "host sockets" 120 cargo test -p runsc -q --test host_sockets
    step "opened ahead" 120 cargo test -p runsc -q --test opened_ahead
    step "oci" 360 cargo test -p runsc -q --test oci
    step "lifecycle" 480 cargo test -p runsc -q --test lifecycle
    if [ "$mode" != quick ]; then
        if step "debian tree" 900 tests/debian_root.sh; then
            step "real programs" 600 cargo test -p runsc -q --test programs
        fi
        step "release" 900 tests/release.sh
        step "systemd" 180 cargo test -p runsc -q --test systemd
        step "containerd" 300 cargo test -p runsc -q --test containerd
        step "kubernetes" 360 cargo test -p runsc -q --test kubernetes
        step "podman" 300 cargo test -p runsc -q --test podman
        step "docker" 420 cargo test -p runsc -q --test docker
    fi
fi

[ ${#broken[@]} -gt 0 ] && printf 'failed step: %s\n' "${broken[@]}"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ ${#broken[@]} -eq 0 ]
