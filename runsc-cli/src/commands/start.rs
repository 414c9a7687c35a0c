//! `runsc start`: lets a created container's program run.
//!
//! Neighbours: [`start_container`] also serves `run` and `do`.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::Hook;
use sentry::spec::ProcessSpec;

use super::Context;
use crate::container::hooks;
use crate::container::id::ContainerId;
use crate::container::store::{ContainerState, Entry, Phase, Status, does_not_exist};
use crate::container::translate::text;
use crate::failure::{Attempt, Failure};
use crate::sandbox::client::Client;
use crate::sandbox::control::{Answer, Call, ExitStatus, SignalTarget};
use crate::sandbox::start::explain;

/// `runsc start`.
#[derive(Debug, Args)]
pub struct Start {
    /// The container's id
    id: String,
}

impl Start {
    /// Starts it.
    pub fn run(self, context: &Context) -> Result<i32, Failure> {
        let id = ContainerId::new(&self.id)?;
        let entry = context.store.lock(&id)?.ok_or_else(|| does_not_exist(&id))?;
        let mut state = entry.read()?.ok_or_else(|| does_not_exist(&id))?;
        match state.status() {
            Status::Created => {}
            Status::Stopped => return Err(Failure::new("cannot start a container that has stopped")),
            Status::Creating => return Err(Failure::new("cannot start a container that is being created")),
            Status::Running | Status::Paused => {
                return Err(Failure::new("cannot start an already running container"));
            }
        }
        start_container(&entry, &mut state)?;
        Ok(0)
    }
}

/// Starts a created container whose directory is locked, unless it was told to begin at once.
pub fn start_container(entry: &Entry, state: &mut ContainerState) -> Result<(), Failure> {
    let pid = state.sandbox_pid();
    let given = state.hooks.clone();
    if state.phase != Phase::Running {
        let stopped = |_| Failure::new("cannot start a container that has stopped");
        let mut connection = entry.connect().map(Client::new).map_err(stopped)?;
        if let Some(given) = &given {
            let input = hooks::oci_state(state, Status::Created, pid);
            for (index, hook) in given.start_container().iter().flatten().enumerate() {
                run_inside(&mut connection, &state.process, hook, &input)
                    .attempt(|| format!("hooks.startContainer[{index}] {}", hook.path().display()))?;
            }
        }
        connection
            .call(Call::Start)
            .map_err(|error| explain(&state.process.args, &error))
            .attempt(|| "starting the container".to_owned())?;
        state.phase = Phase::Running;
        entry.write(state)?;
    }
    if let Some(given) = &given {
        let input = hooks::oci_state(state, Status::Running, pid);
        hooks::run_and_warn("poststart", given.poststart().as_ref(), &input);
    }
    Ok(())
}

/// OCI wants these hooks found and run in the container, before its program.
fn run_inside(
    client: &mut Client,
    base: &ProcessSpec,
    hook: &Hook,
    state: &serde_json::Value,
) -> Result<(), Failure> {
    let mut args = vec![text(hook.path())?];
    args.extend(hook.args().iter().flatten().skip(1).cloned());
    let env = hook.env().clone().unwrap_or_default();
    let process =
        ProcessSpec { args, env, terminal: false, console_size: None, preserved_fds: 0, ..base.clone() };
    let (input, mut writer) = std::io::pipe()?;
    // States are far smaller than a pipe.
    writer.write_all(state.to_string().as_bytes())?;
    drop(writer);
    let null = File::options().write(true).open("/dev/null")?;
    let call = Call::Exec { process: Box::new(process), tied: true };
    let ticket = client.send(call, &[input.as_fd(), null.as_fd(), std::io::stderr().as_fd()])?;
    let Answer::Started(pid) = client.receive(ticket)? else {
        return Err(Failure::new("the sentry did not say that it has started"));
    };
    let ticket = client.send(Call::Wait { pid }, &[])?;
    let seconds =
        hook.timeout().and_then(|seconds| u16::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    if let Some(seconds) = seconds {
        let timeout = PollTimeout::try_from(Duration::from_secs(seconds.into())).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(client.stream().as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, timeout)? == 0 {
            client.call(Call::Signal { target: SignalTarget::Process(pid), signal: libc::SIGKILL })?;
            return Err(Failure::new(format!("did not end within {seconds} s")));
        }
    }
    match client.receive(ticket)? {
        Answer::Ended(ExitStatus::Exited(0)) => Ok(()),
        Answer::Ended(status) => Err(Failure::new(format!("ended with status {}", status.code()))),
        other => Err(Failure::new(format!("the sentry answered {other:?} to a wait"))),
    }
}
