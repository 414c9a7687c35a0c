//! The protocol, end to end, over a kernel that pretends.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use super::*;
use crate::sandbox::client::Client;
use crate::sandbox::control::{ExitStatus, INIT};
use crate::sandbox::fake;

struct Sandbox {
    server: Server,
    handler: Arc<dyn ControlHandler>,
}

fn process(args: &[&str]) -> ProcessSpec {
    let json = serde_json::json!({
        "user": { "uid": 0, "gid": 0 }, "args": args, "cwd": "/"
    });
    let process: oci_spec::runtime::Process = serde_json::from_value(json).unwrap();
    crate::container::translate::process::process(&process).unwrap()
}

fn null() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/null").unwrap().into()
}

impl Sandbox {
    fn new(args: &[&str]) -> Self {
        let handler =
            fake::boot_process(process(args), ProcessStdio::Files([null(), null(), null()]), null()).unwrap();
        Self { server: Server::new(Arc::clone(&handler)), handler }
    }

    fn connect(&self) -> Client {
        let (here, there) = UnixStream::pair().unwrap();
        self.server.connect(there);
        Client::new(here)
    }

    fn exec(client: &mut Client, args: &[&str], fds: [OwnedFd; 3]) -> Result<Answer, ControlError> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let call = Call::Exec { process: Box::new(process(args)), tied: true };
        let ticket = client.send(call, &fds)?;
        client.receive(ticket)
    }
}

#[test]
fn a_process_runs_and_its_status_can_be_asked_for_more_than_once() {
    let sandbox = Sandbox::new(&["exit", "7"]);
    let mut client = sandbox.connect();
    let early = client.send(Call::Wait { pid: INIT }, &[]).unwrap();
    assert_eq!(client.call(Call::Start), Ok(Answer::Done));
    assert_eq!(client.receive(early), Ok(Answer::Ended(ExitStatus::Exited(7))));
    assert_eq!(sandbox.connect().call(Call::Wait { pid: INIT }), Ok(Answer::Ended(ExitStatus::Exited(7))));
}

#[test]
fn descriptors_reach_the_process() {
    let sandbox = Sandbox::new(&["sleep"]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut client = sandbox.connect();
    let started = Sandbox::exec(&mut client, &["echo", "hello"], [null(), writer.into(), null()]);
    assert!(matches!(started, Ok(Answer::Started(_))));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello\n");
}

#[test]
fn a_wrong_number_of_descriptors_is_refused() {
    let sandbox = Sandbox::new(&["sleep"]);
    let mut client = sandbox.connect();
    let error = client.call(Call::Exec { process: Box::new(process(&["echo"])), tied: true }).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
}

#[test]
fn errors_keep_their_kind() {
    let sandbox = Sandbox::new(&["sleep"]);
    let mut client = sandbox.connect();
    let kind = |client: &mut Client, program| {
        Sandbox::exec(client, &[program], [null(), null(), null()]).unwrap_err().kind
    };
    assert_eq!(kind(&mut client, "missing"), ErrorKind::ProgramNotFound);
    assert_eq!(kind(&mut client, "/bin"), ErrorKind::ProgramNotExecutable);
    let target = SignalTarget::Process(99);
    assert_eq!(client.call(Call::Signal { target, signal: 15 }).unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn a_tied_process_ends_with_its_connection_and_others_do_not() {
    let sandbox = Sandbox::new(&["sleep"]);
    let mut client = sandbox.connect();
    let Ok(Answer::Started(pid)) = Sandbox::exec(&mut client, &["sleep"], [null(), null(), null()]) else {
        panic!("not started");
    };
    drop(client);
    assert_eq!(sandbox.handler.wait(pid), Ok(ExitStatus::Signaled(9)));
    assert_eq!(sandbox.handler.processes().unwrap().len(), 1, "the first process lives");
}

#[test]
fn signals_pass_while_a_wait_is_pending_on_the_same_connection() {
    let sandbox = Sandbox::new(&["sleep"]);
    let mut client = sandbox.connect();
    let wait = client.send(Call::Wait { pid: INIT }, &[]).unwrap();
    let target = SignalTarget::Process(INIT);
    assert_eq!(client.call(Call::Signal { target, signal: libc::SIGTERM }), Ok(Answer::Done));
    let ended = client.receive(wait).unwrap();
    assert_eq!(ended, Answer::Ended(ExitStatus::Signaled(15)));
    assert_eq!(ExitStatus::Signaled(15).code(), 143);
}

#[test]
fn garbage_ends_only_its_own_connection() {
    use std::io::Write;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let sandbox = Sandbox::new(&["sleep"]);
    let listener = UnixListener::bind(&path).unwrap();
    let server = sandbox.server.clone();
    thread::spawn(move || {
        loop {
            server.accept(&listener)
        }
    });
    let mut bad = UnixStream::connect(&path).unwrap();
    bad.write_all(b"\x05\0\0\0hello").unwrap();
    let mut rest = Vec::new();
    assert_eq!(bad.read_to_end(&mut rest).unwrap(), 0);
    assert_eq!(Client::new(UnixStream::connect(&path).unwrap()).call(Call::Pause), Ok(Answer::Done));
}
