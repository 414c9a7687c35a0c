//! Processes that the outside asks for: the container's first one, and those of `exec`.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::errno::{EACCES, EINVAL, ENOENT, ENOTDIR, Errno, SysResult};
use abi::signals::SIGCHLD;

use super::mounts::Plan;
use super::user;
use crate::fs::host;
use crate::kernel::Kernel;
use crate::memory::MemoryManager;
use crate::signals::{SignalHandlers, TaskSignals};
use crate::spec::{ProcessSpec, WindowSize};
use crate::task::{
    Credentials, ExecRequest, INITIAL_MASK, Limit, Limits, Resource, Task, TaskParts, ThreadGroup, new_space,
};
use crate::tty;
use crate::vfs::{FdFlags, FdTable, FsContext, MountNamespace};
use crate::wait::Failure;

/// The files a process starts with.
#[derive(Debug)]
pub struct ProcessFiles {
    /// Descriptors from 0 upwards.
    pub inherited: Vec<OwnedFd>,
    /// A host terminal that becomes the process's terminal, instead of 0 to 2.
    pub terminal: Option<OwnedFd>,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program does not exist.
    #[error("exec: {0:?}: no such file or directory")]
    ProgramNotFound(String),
    /// It exists and cannot be executed.
    #[error("exec: {0:?}: {1}")]
    ProgramNotExecutable(String, Errno),
    /// The specification asks for something that does not exist.
    #[error("{0}")]
    Invalid(String),
    /// A part of the kernel could not be made.
    #[error("making the {0}: {1}")]
    Failed(&'static str, Errno),
    /// The sentry cannot confine itself, and so runs nothing.
    #[error(transparent)]
    Confinement(#[from] crate::lockdown::LockdownError),
    /// The container has ended.
    #[error("the container has ended")]
    Ended,
}

impl StartError {
    /// A host error while making a part.
    pub fn host(part: &'static str, error: nix::Error) -> Self {
        Self::Failed(part, crate::memory::errno(error))
    }
}

/// Makes a process with its program loaded; it runs when its future is polled.
pub(super) async fn make(
    kernel: &Arc<Kernel>,
    namespace: &Arc<MountNamespace>,
    spec: &ProcessSpec,
    files: ProcessFiles,
    plan: Option<Plan>,
) -> Result<Arc<Task>, StartError> {
    let context = new_space(kernel).await.map_err(|e| StartError::Failed("address space", e))?;
    let tid = kernel.processes.allocate(0, None).map_err(|e| StartError::Failed("process", e))?;
    let group = ThreadGroup::new(tid, Arc::<SignalHandlers>::default(), limits(spec), SIGCHLD.number());
    group.enforce_cpu_limit(kernel);
    let memory = MemoryManager::new(kernel.platform.layout(), 0);
    memory.enter();
    let task = Task::new(
        Arc::clone(kernel),
        TaskParts {
            tid,
            group,
            context,
            memory,
            files: FdTable::new(),
            fs: FsContext::new(Arc::clone(namespace), spec.umask.unwrap_or(0o022)),
            credentials: Arc::new(Credentials::new(0, 0)),
            signals: TaskSignals::new(INITIAL_MASK),
            name: b"runsc".to_vec(),
        },
    );
    match prepare(&task, spec, files, plan).await {
        Ok(()) => {
            kernel.processes.insert(&task);
            Ok(task)
        }
        Err(error) => {
            kernel.processes.release(tid);
            if let Some(mut context) = task.take_context() {
                context.kill();
            }
            Err(error)
        }
    }
}

async fn prepare(
    task: &Arc<Task>,
    spec: &ProcessSpec,
    files: ProcessFiles,
    plan: Option<Plan>,
) -> Result<(), StartError> {
    let mut environment = spec.env.clone();
    // What prepares the container happens as its root, as with other runtimes.
    task.set_credentials(everything());
    if let Some(plan) = plan {
        plan.carry_out(task)?;
    }
    let ids = user::resolve(task, spec)?;
    if let Some(home) = &ids.home
        && !environment.iter().any(|variable| variable.starts_with("HOME="))
    {
        environment.push(format!("HOME={home}"));
    }
    install_files(task, files, ids.uid, spec.console_size)?;
    enter_directory(task, spec)?;
    if let Some(score) = spec.oom_score_adj {
        task.group.oom_score_adj.store(score, std::sync::atomic::Ordering::Relaxed);
    }
    if let Some(nice) = spec.nice {
        task.group.nice.store(nice, std::sync::atomic::Ordering::Relaxed);
    }
    task.set_credentials(credentials(spec, &ids));
    let program = spec.args.first().ok_or_else(|| StartError::Invalid("process.args is empty".into()))?;
    let (path, file) = find_program(task, program, &environment)?;
    let request = ExecRequest {
        file,
        path,
        arguments: spec.args.iter().map(|argument| argument.clone().into_bytes()).collect(),
        environment: environment.into_iter().map(String::into_bytes).collect(),
    };
    task.execute(request).await.map_err(|failure| match failure {
        Failure::Error(errno) => not_executable(program, errno),
        Failure::Restart(_) => StartError::Ended,
    })
}

fn not_executable(program: &str, errno: Errno) -> StartError {
    if errno == ENOENT || errno == ENOTDIR {
        StartError::ProgramNotFound(program.to_owned())
    } else {
        StartError::ProgramNotExecutable(program.to_owned(), errno)
    }
}

fn limits(spec: &ProcessSpec) -> Limits {
    let limits = Limits::default();
    for limit in &spec.rlimits {
        // The command line has checked the numbers.
        let _ = limits.set_raw(limit.resource, Limit { soft: limit.soft, hard: limit.hard });
    }
    limits
}

fn everything() -> Credentials {
    let mut root = Credentials::new(0, 0);
    (root.permitted, root.effective, root.bounding) = (u64::MAX >> 23, u64::MAX >> 23, u64::MAX >> 23);
    root
}

fn credentials(spec: &ProcessSpec, ids: &user::Ids) -> Credentials {
    let mut credentials = Credentials::new(ids.uid, ids.gid);
    credentials.groups.clone_from(&ids.groups);
    let sets = &spec.capabilities;
    credentials.permitted = sets.permitted;
    credentials.effective = sets.effective;
    credentials.inheritable = sets.inheritable;
    credentials.bounding = sets.bounding;
    credentials.ambient = sets.ambient & sets.permitted & sets.inheritable;
    credentials.no_new_privileges = spec.no_new_privileges;
    credentials
}

fn install_files(
    task: &Arc<Task>,
    files: ProcessFiles,
    uid: u32,
    size: Option<WindowSize>,
) -> Result<(), StartError> {
    let table = task.files();
    let limit = task.group.limits.soft(Resource::OpenFiles).max(3);
    let failed = |errno| StartError::Failed("standard streams", errno);
    if let Some(terminal) = files.terminal {
        let file = tty::attach_host_terminal(task, terminal, uid, size).map_err(failed)?;
        for _ in 0..3 {
            table.install_from(0, Arc::clone(&file), FdFlags::empty(), limit).map_err(failed)?;
        }
    }
    for descriptor in files.inherited {
        let file = host::inherited(&task.kernel, descriptor).map_err(failed)?;
        table.install_from(0, file, FdFlags::empty(), limit).map_err(failed)?;
    }
    Ok(())
}

fn enter_directory(task: &Arc<Task>, spec: &ProcessSpec) -> Result<(), StartError> {
    let path = spec.cwd.as_bytes();
    let enter = |path: &[u8]| -> SysResult<()> {
        let location = task.walk(libc::AT_FDCWD, path, crate::vfs::WalkFlags::DIRECTORY)?;
        task.fs().set_cwd(location);
        Ok(())
    };
    let entered = match enter(path) {
        Err(ENOENT) => super::mounts::make_directories(task, path).and_then(|()| enter(path)),
        other => other,
    };
    entered.map_err(|errno| StartError::Invalid(format!("process.cwd {:?}: {errno}", spec.cwd)))
}

type Program = (Vec<u8>, Arc<crate::vfs::FileDescription>);

/// Finds the program as `execvp` does.
fn find_program(task: &Task, program: &str, environment: &[String]) -> Result<Program, StartError> {
    let open = |path: &[u8]| task.open_executable(libc::AT_FDCWD, path, 0);
    if program.contains('/') {
        let path = program.as_bytes();
        return open(path).map(|file| (path.to_vec(), file)).map_err(|errno| not_executable(program, errno));
    }
    if program.is_empty() {
        return Err(StartError::ProgramNotFound(program.to_owned()));
    }
    let path = environment.iter().find_map(|variable| variable.strip_prefix("PATH="));
    let path = path.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let mut refused = None;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = format!("{directory}/{program}").into_bytes();
        match open(&candidate) {
            Ok(file) => return Ok((candidate, file)),
            Err(errno @ (EACCES | EINVAL)) => refused = Some(errno),
            Err(_) => {}
        }
    }
    Err(match refused {
        Some(errno) => StartError::ProgramNotExecutable(program.to_owned(), errno),
        None => StartError::ProgramNotFound(program.to_owned()),
    })
}
