//! Making a sandbox: gofer and sentry are forked, recorded, put into their cgroups, and only then told what to do.
//!
//! Key function: [`create`]. Neighbours: `spawn.rs` forks, `boot.rs` and `gofer.rs` are the children, `container/store.rs`
//! records. Invariants: both processes wait for their instructions until they are recorded, and end if none come, so `delete --force` finds them whatever is
//! killed when; on failure nothing is left behind but the container's directory, which the caller removes.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::SystemTime;

use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getegid, geteuid};
use sentry::spec::NetworkMode;

use super::boot::{self, BootData, BootReply};
use super::channel::{Channel, ChannelError};
use super::control::{ControlError, ErrorKind};
use super::gofer::{self, GoferData, GoferReply, UserNamespace};
use super::spawn::{ExecOutcome, Launch, Launched, launch};
use crate::container::cgroup::Doors;
use crate::container::hooks;
use crate::container::plan::{IdRange, Namespaces, NetworkNamespace, Plan};
use crate::container::process_identity::ProcessIdentity;
use crate::container::store::{ContainerState, Entry, Phase, Status};
use crate::failure::{Attempt, Failure, NOT_EXECUTABLE, NOT_FOUND};
use crate::logging::ChildLog;
use crate::options::Globals;
use crate::timestamp;

/// Whom the sentry is on the host when the runtime is root: nobody.
const SENTRY_HOST_ID: u32 = 65_534;

/// What the first process's descriptors are.
#[derive(Debug)]
pub enum InitStdio {
    /// These three.
    Files([OwnedFd; 3]),
    /// The slave of a pseudo-terminal.
    Terminal(OwnedFd),
}

impl InitStdio {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Files(files) => files.iter().map(AsFd::as_fd).collect(),
            Self::Terminal(slave) => vec![slave.as_fd()],
        }
    }

    /// Where the sentry says that it is dying: never our own standard error, which our caller may be reading to its end.
    fn last_words(&self) -> BorrowedFd<'_> {
        match self {
            Self::Files([_, _, error]) => error.as_fd(),
            Self::Terminal(slave) => slave.as_fd(),
        }
    }
}

/// When the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// When `start` says so.
    OnStart,
    /// At once: saves `run` and `do` a connection and a round trip.
    AtOnce,
}

/// Everything for [`create`].
#[derive(Debug)]
pub struct Creation<'a> {
    /// Options before the command.
    pub globals: &'a Globals,
    /// The container's locked directory.
    pub entry: &'a Entry,
    /// What to make.
    pub plan: &'a Plan,
    /// Its standard descriptors.
    pub stdio: InitStdio,
    /// More descriptors for it, from 3 upwards.
    pub preserved: Vec<OwnedFd>,
    /// The sandbox is to die with the calling process (`do`).
    pub die_with_caller: bool,
    /// Whether the program is to run as soon as it can.
    pub begin: Begin,
}

/// A process that was forked, and is killed and reaped unless it is kept.
struct Child {
    pid: Pid,
    outcome: Option<ExecOutcome>,
    keep: bool,
}

impl Child {
    /// Why the role did not even begin, if it did not.
    fn exec_error(&mut self) -> Option<io::Error> {
        self.outcome.take().and_then(ExecOutcome::error)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.keep {
            // It may have ended by itself; either way there is a zombie of ours to reap.
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

/// A sandbox that was made.
#[derive(Debug)]
pub struct Made {
    /// Its record.
    pub state: ContainerState,
    /// Is closed by the sentry when it begins to end, which takes it a while; nothing else comes from it.
    pub life: UnixStream,
}

/// Makes the sandbox and boots its kernel; the container is then in OCI's state "created" or "running".
pub fn create(creation: &Creation<'_>) -> Result<Made, Failure> {
    let Creation { globals, entry, plan, .. } = creation;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let log = ChildLog::open(globals, &plan.sandbox.container.id, "boot")?;
    let listener = entry.listen()?;
    let (boot_here, boot_there) = UnixStream::pair()?;
    let (gofer_here, gofer_there) = UnixStream::pair()?;
    let (file_sentry, file_gofer) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let log_descriptor = log.as_ref().map_or(null.as_fd(), |log| log.file.as_fd());
    let words = creation.stdio.last_words();
    let common = [null.as_fd(), null.as_fd(), words];

    // Its filter lets the gofer write to standard error only.
    let gofer_words = match (&log, &creation.stdio) {
        (Some(log), _) => log.file.as_fd(),
        (None, InitStdio::Files(_)) => words,
        (None, InitStdio::Terminal(_)) => null.as_fd(),
    };
    let gofer_fds = [null.as_fd(), null.as_fd(), gofer_words, gofer_there.as_fd(), file_gofer.as_fd()];
    let fixed = [boot_there.as_fd(), listener.as_fd(), file_sentry.as_fd(), log_descriptor];
    let preserved: Vec<_> = creation.preserved.iter().map(AsFd::as_fd).collect();
    let sentry_fds = [&common[..], &fixed, &creation.stdio.descriptors(), &preserved].concat();
    // The sentry first: it has the longer way to go.
    let (mut sentry, drop_groups) =
        fork_sentry(creation, &sentry_fds).attempt(|| "starting the sentry".to_owned())?;
    let (mut gofer, user_namespace) =
        fork_gofer(creation, &gofer_fds).attempt(|| "starting the gofer".to_owned())?;
    // Only the children may keep their ends, or nobody would ever see them closed.
    drop((boot_there, gofer_there, file_sentry, file_gofer, listener));

    let mut state = first_state(plan, sentry.pid, gofer.pid);
    entry.write(&state)?;
    entry.write_remains(&state.remains())?;
    let boot_channel = Channel::new(boot_here);
    let prepared = prepare_host(plan, &state, &sentry).and_then(|doors| {
        let log = log.as_ref().map(|log| log.settings);
        let (spec, die_with_caller) = (plan.sandbox.clone(), creation.die_with_caller);
        let start_at_once = creation.begin == Begin::AtOnce;
        let data = BootData { spec, log, drop_groups, die_with_caller, start_at_once };
        // A child that has died already is found out when its answer is missing.
        drop(boot_channel.send(&data, &doors.descriptors()));
        // The sentry boots by now. It cannot get as far as a program without the gofer, which still waits.
        if let Some(cgroup) = plan.cgroup.as_ref().filter(|_| doors.is_empty()) {
            cgroup.add(gofer.pid)?;
        }
        let gofer_channel = Channel::new(gofer_here);
        let data = GoferData { trees: plan.trees.clone(), log, user_namespace };
        drop(gofer_channel.send(&data, &doors.descriptors()));
        drop(doors);
        await_boot(plan, &boot_channel, &gofer_channel, &mut sentry, &mut gofer)
    });
    if let Err(failure) = prepared {
        drop((sentry, gofer));
        if let Some(cgroup) = &state.cgroup
            && let Err(left) = cgroup.remove()
        {
            tracing::warn!("removing cgroup {}: {left}", cgroup.path().display());
        }
        return Err(failure);
    }
    state.phase = match creation.begin {
        Begin::OnStart => Phase::Created,
        Begin::AtOnce => Phase::Running,
    };
    entry.write(&state)?;
    (sentry.keep, gofer.keep) = (true, true);
    Ok(Made { state, life: boot_channel.into_stream() })
}

fn first_state(plan: &Plan, sentry: Pid, gofer: Pid) -> ContainerState {
    ContainerState {
        oci_version: plan.oci_version.clone(),
        id: plan.sandbox.container.id.clone(),
        bundle: plan.bundle.clone(),
        rootfs: plan.rootfs.clone(),
        created: timestamp::rfc3339_nanos(SystemTime::now()),
        annotations: plan.annotations.clone(),
        owner: geteuid().as_raw(),
        phase: Phase::Creating,
        paused: false,
        sentry: ProcessIdentity::of(sentry.as_raw()),
        gofer: ProcessIdentity::of(gofer.as_raw()),
        cgroup: plan.cgroup.as_ref().map(|cgroup| cgroup.record().clone()),
        hooks: plan.hooks.clone(),
        process: plan.sandbox.container.process.clone(),
    }
}

/// What must be done on the host while both processes exist and neither knows what for. The sentry is in its cgroup then, or
/// enters by the doors before it does anything else, and whatever it forks is in it too.
fn prepare_host(plan: &Plan, state: &ContainerState, sentry: &Child) -> Result<Doors, Failure> {
    let doors = match &plan.cgroup {
        // A hook may look for the cgroup of the process that it is told of.
        Some(cgroup) if plan.hooks.as_ref().is_some_and(hooks::any_while_creating) => {
            cgroup.apply(sentry.pid).map(|()| Doors::default())?
        }
        Some(cgroup) => cgroup.open(sentry.pid)?,
        None => Doors::default(),
    };
    if let Some(adjustment) = plan.sandbox.container.process.oom_score_adj {
        let path = format!("/proc/{}/oom_score_adj", sentry.pid);
        // Lowering it takes a privilege that an ordinary user lacks; the sandbox then keeps its caller's value.
        if let Err(error) = fs::write(&path, adjustment.to_string()) {
            tracing::warn!("process.oomScoreAdj is not applied on the host: {error}");
        }
    }
    let Some(given) = &plan.hooks else { return Ok(doors) };
    let input = hooks::oci_state(state, Status::Creating, sentry.pid.as_raw());
    hooks::run("prestart", hooks::prestart(given), &input)?;
    hooks::run("createRuntime", given.create_runtime().as_ref(), &input)?;
    hooks::run("createContainer", given.create_container().as_ref(), &input)?;
    Ok(doors)
}

fn await_boot(
    plan: &Plan,
    boot: &Channel,
    files: &Channel,
    sentry: &mut Child,
    gofer: &mut Child,
) -> Result<(), Failure> {
    let refused = match boot.receive::<BootReply>() {
        Ok((BootReply { result: Ok(()) }, _)) => return Ok(()),
        Ok((BootReply { result: Err(error) }, _)) => Some(error),
        Err(ChannelError::Closed) => None,
        Err(error) => return Err(error).attempt(|| "talking to the sentry".to_owned()),
    };
    // If the gofer failed, whatever the sentry complains of is only a consequence.
    if refused.as_ref().is_none_or(|error| error.kind == ErrorKind::Internal) {
        if let Some(error) = gofer.exec_error() {
            return Err(error).attempt(|| "executing the gofer".to_owned());
        }
        let _ = kill(sentry.pid, Signal::SIGKILL);
        if let Ok((GoferReply { result: Err(message) }, _)) = files.receive() {
            return Err(Failure::new(message));
        }
    }
    match refused {
        Some(error) => Err(explain(&plan.sandbox.container.process.args, &error)),
        None => match sentry.exec_error() {
            Some(error) => Err(error).attempt(|| "executing the sentry".to_owned()),
            None => Err(Failure::new("the sentry died while booting")),
        },
    }
}

/// runc's words for a program that cannot be started, which docker and podman look for.
pub fn explain(args: &[String], error: &ControlError) -> Failure {
    let program = args.first().map_or("", String::as_str);
    match error.kind {
        ErrorKind::ProgramNotFound if program.contains('/') => {
            Failure::new(format!("exec: {program:?}: stat {program}: no such file or directory"))
                .with_status(NOT_FOUND)
        }
        ErrorKind::ProgramNotFound => {
            Failure::new(format!("exec: {program:?}: executable file not found in $PATH"))
                .with_status(NOT_FOUND)
        }
        ErrorKind::ProgramNotExecutable => {
            Failure::new(format!("exec: {program:?}: permission denied")).with_status(NOT_EXECUTABLE)
        }
        _ => Failure::new(error.message.clone()),
    }
}

/// Gives back also which user namespace it is in. Its mount and network namespaces it makes itself.
fn fork_gofer(
    creation: &Creation<'_>,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(Child, UserNamespace), Failure> {
    let Namespaces { uid_mappings, gid_mappings, .. } = &creation.plan.namespaces;
    let user_namespace =
        match (creation.globals.is_rootless(), uid_mappings.is_empty() && gid_mappings.is_empty()) {
            (true, _) => UserNamespace::OnlyCaller,
            (false, true) => UserNamespace::Inherited,
            (false, false) => UserNamespace::Mapped,
        };
    // Nothing that it serves is named in these: sockets it connects to have paths.
    let mut namespaces = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    if user_namespace != UserNamespace::Inherited {
        namespaces |= CloneFlags::CLONE_NEWUSER;
    }
    let child = fork(gofer::ROLE, descriptors, namespaces, CloneFlags::empty())?;
    match user_namespace {
        UserNamespace::Inherited => {}
        UserNamespace::OnlyCaller => map_only_caller(child.pid)?,
        UserNamespace::Mapped => map_ids(child.pid, uid_mappings, gid_mappings)
            .attempt(|| "linux.uidMappings and linux.gidMappings".to_owned())?,
    }
    Ok((child, user_namespace))
}

/// Gives back also whether the sentry may leave its supplementary groups.
fn fork_sentry(creation: &Creation<'_>, descriptors: &[BorrowedFd<'_>]) -> Result<(Child, bool), Failure> {
    let namespaces = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    let child = match &creation.plan.namespaces.network {
        NetworkNamespace::Join(path) => {
            in_network_namespace(path, || fork(boot::ROLE, descriptors, namespaces, CloneFlags::empty()))?
        }
        NetworkNamespace::Inherit if creation.plan.sandbox.network == NetworkMode::Host => {
            fork(boot::ROLE, descriptors, namespaces, CloneFlags::empty())?
        }
        NetworkNamespace::Inherit | NetworkNamespace::New => {
            fork(boot::ROLE, descriptors, namespaces, CloneFlags::CLONE_NEWNET)?
        }
    };
    let nobody = [IdRange { inside: 0, outside: SENTRY_HOST_ID, count: 1 }];
    // Inside a user namespace that has no such id (a single-id one) there is only the caller to be.
    let is_nobody = !creation.globals.is_rootless() && map_ids(child.pid, &nobody, &nobody).is_ok();
    if !is_nobody {
        map_only_caller(child.pid).attempt(|| "mapping the caller into a user namespace".to_owned())?;
    }
    Ok((child, is_nobody))
}

/// Namespaces are of the thread that forks; the caller returns to its own.
fn in_network_namespace<T>(path: &Path, body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let there = File::open(path).attempt(|| format!("linux.namespaces: network {}", path.display()))?;
    let here = File::open("/proc/self/ns/net")?;
    setns(&there, CloneFlags::CLONE_NEWNET)
        .attempt(|| format!("joining the network namespace {}", path.display()))?;
    let outcome = body();
    setns(&here, CloneFlags::CLONE_NEWNET).attempt(|| "returning from the network namespace".to_owned())?;
    outcome
}

fn fork(
    role: &str,
    descriptors: &[BorrowedFd<'_>],
    namespaces: CloneFlags,
    own_namespaces: CloneFlags,
) -> Result<Child, Failure> {
    let first = usize::try_from(boot::FIRST_DESCRIPTOR).unwrap_or(0);
    let count = (descriptors.len() - first).to_string();
    let arguments = ["runsc", role, &count].map(CString::new).into_iter().collect::<Result<Vec<_>, _>>()?;
    let Launched { pid, outcome } = launch(&Launch {
        arguments: &arguments,
        environment: &allocator_setting()?.into_iter().collect::<Vec<_>>(),
        descriptors,
        namespaces,
        own_namespaces,
        elsewhere: role == boot::ROLE,
        keep_capabilities: namespaces.contains(CloneFlags::CLONE_NEWUSER),
    })?;
    Ok(Child { pid, outcome: Some(outcome), keep: false })
}

/// On few processors, glibc's allocator is to make do with a single heap. One for each thread, as it would, takes memory and
/// page faults for nothing until more than a few threads really run at the same time. Nothing in between: the sentry's lock-down
/// must know that a thread it starts has either the one heap or one of its own.
fn allocator_setting() -> Result<Option<CString>, Failure> {
    const FEW: usize = 3;
    let usable = sched_getaffinity(Pid::from_raw(0))?;
    let processors = (0..CpuSet::count()).filter(|cpu| usable.is_set(*cpu).unwrap_or(false)).count();
    let setting =
        (processors <= FEW).then(|| CString::new(format!("{}=1", sentry::lockdown::HEAPS_VARIABLE)));
    Ok(setting.transpose()?)
}

/// The only mapping that needs no privilege, `user_namespaces(7)`.
fn map_only_caller(pid: Pid) -> Result<(), Failure> {
    let one = |outside| [IdRange { inside: 0, outside, count: 1 }];
    fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    map_ids(pid, &one(geteuid().as_raw()), &one(getegid().as_raw()))
}

fn map_ids(pid: Pid, users: &[IdRange], groups: &[IdRange]) -> Result<(), Failure> {
    for (file, ranges) in [("gid_map", groups), ("uid_map", users)] {
        let lines: String =
            ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.count)).collect();
        let path = format!("/proc/{pid}/{file}");
        // One `write(2)` only: the host takes a map once.
        File::options().write(true).open(&path)?.write_all(lines.as_bytes()).attempt(|| path)?;
    }
    Ok(())
}
