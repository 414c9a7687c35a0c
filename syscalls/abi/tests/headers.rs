//! Every constant and structure of the crate agrees with the C headers.
//!
//! A C program is generated for each family of headers (the kernel's own, and the C library's for
//! what the kernel's do not publish), compiled with gcc, and run; it prints values, sizes and
//! offsets. gcc is required. Names newer than the installed headers are listed in [`NEWER`]; the
//! program compares them too once the headers know them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use abi::define::{Layout, Names};
use bitflags::Flags;

/// Names that older headers lack.
const NEWER: &[&str] = &[
    "ARCH_GET_XCOMP_SUPP",
    "AT_RSEQ_ALIGN",
    "AT_RSEQ_FEATURE_SIZE",
    "CLOCK_TAI",
    "F_CREATED_QUERY",
    "F_DUPFD_QUERY",
    "F_SEAL_EXEC",
    "FUTEX2_NUMA",
    "FUTEX2_PRIVATE",
    "FUTEX2_SIZE_U32",
    "MADV_GUARD_INSTALL",
    "MADV_GUARD_REMOVE",
    "MAP_ABOVE4G",
    "MEMBARRIER_CMD_GET_REGISTRATIONS",
    "MFD_EXEC",
    "MFD_NOEXEC_SEAL",
    "MOVE_MOUNT_BENEATH",
    "MPOL_WEIGHTED_INTERLEAVE",
    "PIDFD_THREAD",
    "PR_GET_AUXV",
    "PR_GET_MDWE",
    "PR_GET_MEMORY_MERGE",
    "PR_SET_MDWE",
    "PR_SET_MEMORY_MERGE",
    "RWF_ATOMIC",
    "RWF_DONTCACHE",
    "RWF_NOAPPEND",
    "SECBIT_EXEC_DENY_INTERACTIVE",
    "SECBIT_EXEC_DENY_INTERACTIVE_LOCKED",
    "SECBIT_EXEC_RESTRICT_FILE",
    "SECBIT_EXEC_RESTRICT_FILE_LOCKED",
    "SOL_VSOCK",
    "STATX_DIO_READ_ALIGN",
    "STATX_MNT_ID_UNIQUE",
    "STATX_SUBVOL",
    "STATX_WRITE_ATOMIC",
    "ST_NOSYMFOLLOW",
];

/// Names that only the kernel's own sources have.
const UNPUBLISHED: &[&str] = &["ST_VALID", "UIO_FASTIOV"];

/// What one C program is asked and should answer.
struct Questions {
    headers: &'static [&'static str],
    /// Lines of C, and the answers expected, by key.
    body: String,
    expected: BTreeMap<String, i64>,
}

impl Questions {
    fn new(headers: &'static [&'static str]) -> Self {
        Self { headers, body: String::new(), expected: BTreeMap::new() }
    }

    fn ask(&mut self, key: &str, expression: &str, expected: i64, guard: Option<&str>) {
        if let Some(guard) = guard {
            let _ = writeln!(self.body, "#ifdef {guard}");
        }
        let _ = writeln!(self.body, "printf(\"%s\\t%lld\\n\", \"{key}\", (long long)({expression}));");
        if guard.is_some() {
            let _ = writeln!(self.body, "#else\nprintf(\"%s\\t-\\n\", \"{key}\");\n#endif");
        }
        let previous = self.expected.insert(key.to_owned(), expected);
        assert!(previous.is_none_or(|previous| previous == expected), "{key} has two values");
    }

    fn constant(&mut self, name: &str, value: i64) {
        if !UNPUBLISHED.contains(&name) {
            self.ask(name, name, value, NEWER.contains(&name).then_some(name));
        }
    }

    fn names(&mut self, names: Names) {
        names.iter().for_each(|(name, value)| self.constant(name, *value));
    }

    fn flags<F: Flags<Bits: Into<i128>>>(&mut self) {
        for flag in F::FLAGS {
            let bits: i128 = flag.value().bits().into();
            self.constant(flag.name(), i64::try_from(bits).unwrap());
        }
    }

    /// Compares size and offsets; `renamed` gives C's name of a field where it differs.
    fn layout<T: Layout>(&mut self, c_type: &str, renamed: &[(&str, &str)]) {
        self.ask(&format!("sizeof {c_type}"), &format!("sizeof({c_type})"), size(size_of::<T>()), None);
        for (field, offset) in T::FIELDS {
            let name = renamed.iter().find(|(rust, _)| rust == field).map_or(*field, |(_, c)| c);
            if (field.starts_with("__") && name == *field) || name.is_empty() {
                continue;
            }
            let name = name.trim_start_matches("r#");
            self.ask(
                &format!("offsetof {c_type}.{name}"),
                &format!("offsetof({c_type}, {name})"),
                size(*offset),
                None,
            );
        }
    }

    /// Compiles and runs the program, and returns what differs.
    fn differences(&self) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let (source, program) = (directory.path().join("ask.c"), directory.path().join("ask"));
        let includes: String = self.headers.iter().fold(String::new(), |mut text, line| {
            let _ = if line.starts_with('<') {
                writeln!(text, "#include {line}")
            } else {
                writeln!(text, "{line}")
            };
            text
        });
        let text = format!(
            "#define _GNU_SOURCE\n#include <stddef.h>\n#include <stdio.h>\n{includes}int main(void) {{\n{}}}\n",
            self.body
        );
        std::fs::write(&source, text).unwrap();
        let compiled = Command::new("gcc").arg("-w").arg("-o").arg(&program).arg(&source).output();
        let compiled = compiled.expect("gcc is needed to compare with the C headers");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let output = Command::new(&program).output().unwrap();
        let answers = String::from_utf8(output.stdout).unwrap();
        let mut seen = 0;
        let mut differences = Vec::new();
        for line in answers.lines() {
            let (key, answer) = line.split_once('\t').unwrap();
            seen += 1;
            if answer == "-" {
                continue;
            }
            let (expected, answer) = (self.expected[key], answer.parse::<i64>().unwrap());
            // Headers write the highest bit of a 32-bit flag now signed, now not.
            let same_word = expected == answer & 0xffff_ffff && i32::try_from(answer).is_ok();
            if expected != answer && !same_word {
                differences.push(format!("{key}: ours {expected:#x}, C's {answer:#x}"));
            }
        }
        assert!(seen >= self.expected.len(), "the program answered {seen} questions only");
        differences
    }
}

fn size(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap()
}

/// The kernel's published headers.
const KERNEL: &[&str] = &[
    "<linux/types.h>",
    "<asm/stat.h>",
    "<asm/statfs.h>",
    "<linux/signal.h>",
    "<asm/siginfo.h>",
    "<asm/sigcontext.h>",
    "<asm/ucontext.h>",
    "<linux/stat.h>",
    "<linux/fcntl.h>",
    "<linux/openat2.h>",
    "<linux/falloc.h>",
    "<linux/fs.h>",
    "<linux/xattr.h>",
    "<linux/memfd.h>",
    "<linux/mqueue.h>",
    "<linux/close_range.h>",
    "<linux/fadvise.h>",
    "<linux/limits.h>",
    "<linux/uio.h>",
    "<linux/kcmp.h>",
    "<linux/utime.h>",
    "<linux/eventpoll.h>",
    "<linux/inotify.h>",
    "<linux/poll.h>",
    "<linux/mount.h>",
    "<linux/magic.h>",
    "<linux/mman.h>",
    "<linux/mempolicy.h>",
    "<linux/membarrier.h>",
    "<linux/sched.h>",
    "<linux/sched/types.h>",
    "<linux/wait.h>",
    "<linux/pidfd.h>",
    "<linux/random.h>",
    "<linux/resource.h>",
    "<linux/prctl.h>",
    "<asm/prctl.h>",
    "<linux/sysinfo.h>",
    "<linux/utsname.h>",
    "<linux/times.h>",
    "<linux/rseq.h>",
    "<linux/capability.h>",
    "<linux/securebits.h>",
    "<linux/futex.h>",
    "<linux/seccomp.h>",
    "<linux/filter.h>",
    "<linux/audit.h>",
    "<linux/auxvec.h>",
    "<linux/personality.h>",
    "<linux/reboot.h>",
    "<linux/ioprio.h>",
    "<linux/time.h>",
    "<linux/timex.h>",
    "<linux/timerfd.h>",
    "<linux/signalfd.h>",
    "<linux/tty.h>",
    "<asm/termbits.h>",
    "<asm/termios.h>",
    "<asm/ioctls.h>",
    "<linux/fiemap.h>",
    "<linux/sockios.h>",
    "<linux/nsfs.h>",
    "<linux/if_tun.h>",
    "<linux/netlink.h>",
    "<linux/if_packet.h>",
    "<linux/errno.h>",
    "<asm/unistd.h>",
    "#define O_ASYNC FASYNC",
    "typedef struct stat kernel_stat;",
    "struct rt_sigframe { char *pretcode; struct ucontext uc; struct siginfo info; };",
];

/// The C library's headers, for what the kernel publishes elsewhere or not at all.
const LIBC: &[&str] = &[
    "<unistd.h>",
    "<fcntl.h>",
    "<dirent.h>",
    "<sched.h>",
    "<sys/epoll.h>",
    "<sys/eventfd.h>",
    "<sys/signalfd.h>",
    "<sys/timerfd.h>",
    "<sys/inotify.h>",
    "<sys/file.h>",
    "<sys/mount.h>",
    "<sys/resource.h>",
    "<sys/select.h>",
    "<sys/socket.h>",
    "<sys/stat.h>",
    "<sys/statvfs.h>",
    "<sys/timex.h>",
    "<sys/un.h>",
    "<signal.h>",
    "<netinet/in.h>",
    "<netinet/tcp.h>",
    "<netinet/udp.h>",
    "<linux/netlink.h>",
    "<linux/if_packet.h>",
    "<linux/in6.h>",
];

#[test]
fn numbers_and_errors_are_linuxs() {
    let mut ask = Questions::new(KERNEL);
    for (number, name) in abi::numbers::NUMBERS {
        // Headers of Linux 6.1 end at 450; later ones are compared where they are known.
        let name = format!("__NR_{name}");
        let guard = (*number > 450 || matches!(number, 335 | 336)).then_some(name.as_str());
        ask.ask(&name, &name, size(*number), guard);
    }
    for number in 1..=4095 {
        if let Some(name) = abi::errno::Errno::from_raw(number).name() {
            ask.constant(name, number.into());
        }
    }
    assert_eq!(ask.differences(), [""; 0]);
}

#[test]
fn signals_are_linuxs() {
    use abi::signal_info::*;
    use abi::{signal_frame, signals};
    let mut ask = Questions::new(KERNEL);
    ask.names(signals::SIGNAL_NAMES);
    ask.names(signals::SIG_HOW_NAMES);
    ask.names(signals::SIG_HANDLER_NAMES);
    ask.constant("MINSIGSTKSZ", signals::MINSIGSTKSZ.try_into().unwrap());
    for names in [
        SI_CODE_NAMES,
        ILL_CODE_NAMES,
        FPE_CODE_NAMES,
        SEGV_CODE_NAMES,
        BUS_CODE_NAMES,
        TRAP_CODE_NAMES,
        CLD_CODE_NAMES,
        POLL_CODE_NAMES,
        SYS_CODE_NAMES,
        signal_frame::FP_MAGIC_NAMES,
    ] {
        ask.names(names);
    }
    ask.constant("AUDIT_ARCH_X86_64", AUDIT_ARCH_X86_64.into());
    ask.flags::<signals::SaFlags>();
    ask.flags::<signals::StackFlags>();
    ask.flags::<signals::SignalfdFlags>();
    ask.flags::<signal_frame::UcFlags>();
    ask.layout::<signals::SigAction>("struct sigaction", &[]);
    ask.layout::<signals::StackT>("stack_t", &[]);
    ask.layout::<SigInfo>("siginfo_t", &[("fields", "_sifields")]);
    ask.layout::<SignalfdSiginfo>("struct signalfd_siginfo", &[]);
    ask.layout::<signal_frame::SigContext>("struct sigcontext", &[]);
    ask.layout::<signal_frame::UContext>("struct ucontext", &[]);
    ask.layout::<signal_frame::RtSigFrame>("struct rt_sigframe", &[]);
    ask.layout::<signal_frame::FpxSwBytes>("struct _fpx_sw_bytes", &[]);
    // The union's members, which the accessors of `SigInfo` read by word.
    for (field, offset) in [
        ("si_pid", 16),
        ("si_uid", 20),
        ("si_value", 24),
        ("si_tid", 16),
        ("si_overrun", 20),
        ("si_status", 24),
        ("si_utime", 32),
        ("si_stime", 40),
        ("si_addr", 16),
        ("si_band", 16),
        ("si_fd", 24),
        ("si_call_addr", 16),
        ("si_syscall", 24),
        ("si_arch", 28),
    ] {
        ask.ask(&format!("siginfo {field}"), &format!("offsetof(siginfo_t, {field})"), offset, None);
    }
    assert_eq!(ask.differences(), [""; 0]);
}

#[test]
fn files_are_linuxs() {
    use abi::{file_calls::*, files::*, ioctls, mounts::*, polling::*, terminals::*};
    let mut ask = Questions::new(KERNEL);
    for names in [
        AT_FD_NAMES,
        AT_EACCESS_NAMES,
        SEEK_NAMES,
        PATH_LIMIT_NAMES,
        FCNTL_NAMES,
        LOCK_TYPE_NAMES,
        OWNER_TYPE_NAMES,
        FD_FLAG_NAMES,
        FADVISE_NAMES,
        XATTR_LIMIT_NAMES,
        IOV_LIMIT_NAMES,
        KCMP_NAMES,
        HUGE_NAMES,
        EPOLL_CTL_NAMES,
        FS_MAGIC_NAMES,
        FSCONFIG_NAMES,
        MOUNT_MAGIC_NAMES,
        CONTROL_FIELD_NAMES,
        TAB_NAMES,
        CONTROL_CHARACTER_NAMES,
        FLOW_NAMES,
        FLUSH_NAMES,
        PACKET_NAMES,
        LINE_DISCIPLINE_NAMES,
    ] {
        ask.names(names);
    }
    ioctls::FAMILIES.iter().for_each(|family| ask.names(family));
    ask.flags::<OpenFlags>();
    ask.flags::<AtFlags>();
    ask.flags::<StatxMask>();
    ask.flags::<StatxAttributes>();
    ask.flags::<ResolveFlags>();
    ask.flags::<FlockOperation>();
    ask.flags::<Seals>();
    ask.flags::<MemfdFlags>();
    ask.flags::<FallocateMode>();
    ask.flags::<RenameFlags>();
    ask.flags::<XattrFlags>();
    ask.flags::<RwFlags>();
    ask.flags::<SyncRangeFlags>();
    ask.flags::<CloseRangeFlags>();
    ask.flags::<PipeFlags>();
    ask.flags::<PollEvents>();
    ask.flags::<EpollEvents>();
    ask.flags::<EpollFlags>();
    ask.flags::<InotifyMask>();
    ask.flags::<InotifyFlags>();
    ask.flags::<MountFlags>();
    ask.flags::<OpenTreeFlags>();
    ask.flags::<MoveMountFlags>();
    ask.flags::<MountAttr>();
    ask.flags::<InputFlags>();
    ask.flags::<OutputFlags>();
    ask.flags::<ControlFlags>();
    ask.flags::<LocalFlags>();
    ask.layout::<Stat>("kernel_stat", &[]);
    ask.layout::<StatxTimestamp>("struct statx_timestamp", &[]);
    ask.layout::<Statx>("struct statx", &[]);
    ask.layout::<Statfs>("struct statfs", &[]);
    ask.layout::<OpenHow>("struct open_how", &[]);
    ask.layout::<Flock>("struct flock", &[]);
    ask.layout::<MqAttr>("struct mq_attr", &[]);
    ask.layout::<FOwnerEx>("struct f_owner_ex", &[]);
    ask.layout::<Iovec>("struct iovec", &[]);
    ask.layout::<Utimbuf>("struct utimbuf", &[]);
    ask.layout::<PollFd>("struct pollfd", &[]);
    ask.layout::<EpollEvent>("struct epoll_event", &[]);
    ask.layout::<InotifyEvent>("struct inotify_event", &[]);
    ask.layout::<MountAttrArgument>("struct mount_attr", &[]);
    ask.layout::<Termios>("struct termios", &[]);
    ask.layout::<Termios2>("struct termios2", &[]);
    ask.layout::<Winsize>("struct winsize", &[]);
    assert_eq!(ask.differences(), [""; 0]);
}

#[test]
fn processes_and_memory_are_linuxs() {
    use abi::{capabilities::*, exec, futexes::*, memory::*, process::*, seccomp::*};
    let mut ask = Questions::new(KERNEL);
    for names in [
        WAITID_NAMES,
        RUSAGE_NAMES,
        PRIO_NAMES,
        RLIMIT_NAMES,
        ARCH_PRCTL_NAMES,
        PRCTL_NAMES,
        PR_CAP_AMBIENT_NAMES,
        PR_SET_MM_NAMES,
        PR_SET_VMA_NAMES,
        PR_TSC_NAMES,
        SCHED_FLAG_NAMES,
        IOPRIO_WHO_NAMES,
        REBOOT_NAMES,
        STRUCT_VERSION_NAMES,
        RSEQ_NAMES,
        CAPABILITY_NAMES,
        CAPABILITY_VERSION_NAMES,
        VFS_CAP_NAMES,
        FUTEX_NAMES,
        FUTEX_WORD_NAMES,
        FUTEX_OP_NAMES,
        FUTEX_OP_CMP_NAMES,
        FUTEX_LIMIT_NAMES,
        FUTEX_BITSET_NAMES,
        SECCOMP_MODE_NAMES,
        SECCOMP_OP_NAMES,
        SECCOMP_RET_NAMES,
        SECCOMP_MASK_NAMES,
        exec::AUXV_NAMES,
        MAP_KIND_NAMES,
        PROT_NONE_NAMES,
        MAP_HUGE_NAMES,
        MADVISE_NAMES,
        MPOL_NAMES,
        MEMBARRIER_NAMES,
    ] {
        ask.names(names);
    }
    ask.constant("BPF_MAXINSNS", size(BPF_MAXINSNS));
    ask.flags::<CloneFlags>();
    ask.flags::<WaitOptions>();
    ask.flags::<PidfdFlags>();
    ask.flags::<GetrandomFlags>();
    ask.flags::<SchedFlags>();
    ask.flags::<SecureBits>();
    ask.flags::<FutexFlags>();
    ask.flags::<Futex2Flags>();
    ask.flags::<SeccompFilterFlags>();
    ask.flags::<exec::Personality>();
    ask.flags::<Prot>();
    ask.flags::<MapFlags>();
    ask.flags::<MremapFlags>();
    ask.flags::<MsyncFlags>();
    ask.flags::<MlockFlags>();
    ask.flags::<MlockallFlags>();
    ask.layout::<CloneArgs>("struct clone_args", &[]);
    ask.layout::<Rusage>("struct rusage", &[]);
    ask.layout::<Rlimit>("struct rlimit64", &[]);
    ask.layout::<SchedAttr>("struct sched_attr", &[]);
    ask.layout::<Sysinfo>("struct sysinfo", &[]);
    ask.layout::<UtsName>("struct new_utsname", &[]);
    ask.layout::<Tms>("struct tms", &[]);
    ask.layout::<Rseq>("struct rseq", &[("node_id", ""), ("mm_cid", "")]);
    ask.layout::<RseqCs>("struct rseq_cs", &[]);
    ask.layout::<CapUserHeader>("struct __user_cap_header_struct", &[]);
    ask.layout::<CapUserData>("struct __user_cap_data_struct", &[]);
    let words = [
        ("permitted_low", "data[0].permitted"),
        ("inheritable_low", "data[0].inheritable"),
        ("permitted_high", "data[1].permitted"),
        ("inheritable_high", "data[1].inheritable"),
    ];
    ask.layout::<VfsCapData>("struct vfs_cap_data", &words);
    ask.layout::<FutexWaitv>("struct futex_waitv", &[]);
    ask.layout::<RobustListHead>("struct robust_list_head", &[]);
    ask.layout::<SeccompData>("struct seccomp_data", &[]);
    ask.layout::<SockFilter>("struct sock_filter", &[]);
    ask.layout::<SockFprog>("struct sock_fprog", &[]);
    assert_eq!(ask.differences(), [""; 0]);
}

#[test]
fn times_are_linuxs() {
    use abi::time::*;
    let mut ask = Questions::new(KERNEL);
    for names in [CLOCK_NAMES, ITIMER_NAMES, SIGEV_NAMES, TIME_STATE_NAMES] {
        ask.names(names);
    }
    ask.flags::<TimerFlags>();
    ask.flags::<TimerfdSetFlags>();
    ask.flags::<TimerfdFlags>();
    ask.layout::<Timespec>("struct timespec", &[]);
    ask.layout::<Timeval>("struct timeval", &[]);
    ask.layout::<Itimerspec>("struct itimerspec", &[]);
    ask.layout::<Itimerval>("struct itimerval", &[]);
    ask.layout::<Timezone>("struct timezone", &[]);
    ask.layout::<Timex>("struct timex", &[]);
    ask.layout::<Sigevent>("struct sigevent", &[]);
    assert_eq!(ask.differences(), [""; 0]);
}

#[test]
fn what_only_the_c_library_publishes_agrees_with_it() {
    use abi::{
        directories, file_calls::*, files::*, mounts::*, process::*, socket_options as options, sockets::*,
    };
    let mut ask = Questions::new(LIBC);
    for names in [
        ACCESS_MODE_NAMES,
        FILE_TYPE_NAMES,
        UTIME_NAMES,
        directories::DT_NAMES,
        SCHED_NAMES,
        ADDRESS_FAMILY_NAMES,
        SOCKET_TYPE_NAMES,
        IP_PROTOCOL_NAMES,
        SHUTDOWN_NAMES,
        SCM_NAMES,
        TCP_STATE_NAMES,
        SOMAXCONN_NAMES,
        options::SOL_NAMES,
        options::SO_NAMES,
        options::TCP_OPTION_NAMES,
        options::UDP_OPTION_NAMES,
        options::IP_OPTION_NAMES,
        options::IPV6_OPTION_NAMES,
        options::PMTUDISC_NAMES,
        options::NETLINK_OPTION_NAMES,
        options::PACKET_OPTION_NAMES,
    ] {
        ask.names(names);
    }
    ask.constant("FD_SETSIZE", size(abi::polling::FD_SETSIZE));
    ask.flags::<AccessMode>();
    ask.flags::<Mode>();
    ask.flags::<SpliceFlags>();
    ask.flags::<EventfdFlags>();
    ask.flags::<UmountFlags>();
    ask.flags::<StatfsFlags>();
    ask.flags::<SocketFlags>();
    ask.flags::<MsgFlags>();
    ask.layout::<FileHandle>("struct file_handle", &[]);
    ask.layout::<SchedParam>("struct sched_param", &[]);
    ask.layout::<MsgHdr>("struct msghdr", &[]);
    ask.layout::<MMsgHdr>("struct mmsghdr", &[]);
    ask.layout::<CmsgHdr>("struct cmsghdr", &[]);
    ask.layout::<SockaddrUn>("struct sockaddr_un", &[]);
    ask.layout::<SockaddrIn>("struct sockaddr_in", &[]);
    ask.layout::<SockaddrIn6>("struct sockaddr_in6", &[]);
    ask.layout::<SockaddrNl>("struct sockaddr_nl", &[]);
    ask.layout::<SockaddrLl>("struct sockaddr_ll", &[]);
    ask.layout::<Ucred>("struct ucred", &[]);
    ask.layout::<Linger>("struct linger", &[]);
    ask.layout::<InPktinfo>("struct in_pktinfo", &[]);
    ask.layout::<In6Pktinfo>("struct in6_pktinfo", &[]);
    ask.layout::<IpMreqn>("struct ip_mreqn", &[]);
    ask.layout::<Ipv6Mreq>("struct ipv6_mreq", &[("ipv6mr_ifindex", "ipv6mr_interface")]);
    assert_eq!(ask.differences(), [""; 0]);
}

/// Families that no installed header publishes.
const NOT_COMPARED: &[&str] = &[
    "ARCH_PRCTL_NEW_NAMES",
    "AuxEntry",
    "MQUEUE_MAGIC_NAMES",
    "SCM_NEW_NAMES",
    "SO_NEW_NAMES",
    "SigSetArgument",
    "VfsCapRoot",
];

#[test]
fn every_family_is_compared() {
    let tests = include_str!("headers.rs");
    let mut forgotten = Vec::new();
    let mut found = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        // Families stand one level inside the macros that define them.
        let mut defining = false;
        let families = text.lines().filter_map(|line| {
            if !line.starts_with(' ') && !line.is_empty() {
                defining = ["constants! {", "flags! {", "plain! {"].contains(&line);
            }
            let name = line.strip_prefix("    ")?.split([':', ' ']).next()?;
            (defining && name.starts_with(|first: char| first.is_ascii_uppercase())).then_some(name)
        });
        let compared = |name: &&str| {
            NOT_COMPARED.contains(name) || tests.contains(*name) || name.ends_with("_IOCTL_NAMES")
        };
        let families: Vec<&str> = families.collect();
        found += families.len();
        forgotten.extend(families.into_iter().filter(|name| !compared(name)).map(str::to_owned));
    }
    assert!(found > 200, "only {found} families were found");
    assert_eq!(forgotten, [""; 0]);
}

#[test]
fn a_wrong_value_is_noticed() {
    let mut ask = Questions::new(KERNEL);
    ask.constant("MS_NODEV", 5);
    ask.layout::<abi::files::StatxTimestamp>("struct statx_timestamp", &[("tv_nsec", "__reserved")]);
    assert_eq!(
        ask.differences(),
        ["MS_NODEV: ours 0x5, C's 0x4", "offsetof struct statx_timestamp.__reserved: ours 0x8, C's 0xc"]
    );
}
