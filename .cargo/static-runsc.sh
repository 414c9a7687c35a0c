#!/bin/sh
# How cargo calls rustc for the crates of this workspace. The runtime itself is linked statically, as a position-independent
# program: it is executed three times for each container, and to load the C library took longer than all else that an execution
# does. It needs the C library's archive, which is in Debian's libc6-dev and in Fedora's glibc-static. Cargo has no setting for a
# single crate's code generation, and crt-static for all of them would forbid procedural macros.
# Where the program begins: runsc-cli/src/entry.rs.
case " $* " in
*" --crate-name runsc "*" --crate-type bin "*)
    exec "$@" -C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs -C link-arg=-Wl,-e,runsc_entry
    ;;
esac
exec "$@"
