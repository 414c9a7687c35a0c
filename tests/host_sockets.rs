//! `--host-uds`: a program in the sandbox talks to Unix sockets of the host, whose other ends are here.
//!
//! The program is `tests/host_sockets/client.c`; it runs natively first, in a root where the sockets are at the same place.

use harness::command;
use harness::guest_programs::{self, Linking};
use harness::report::Report;
use harness::sandbox::{Platform, Runtime};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    accept, bind, listen, recv, recvmsg, send, sendmsg, socket,
};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn main() {
    let report = Report::from_arguments();
    if let Err(why) = run(&report) {
        report.add("host_sockets/setup", Err(why), "");
    }
    report.finish();
}

fn run(report: &Report) -> Result<(), String> {
    let sources = harness::repository().join("tests/host_sockets");
    let client = guest_programs::build(&sources, "client", Linking::Static)?;
    report.case("native/open", || {
        let sockets = Sockets::listen()?;
        // A directory of the namespace's own, where the host has none: the root is covered.
        let script = "mount -t tmpfs none /mnt && mkdir /mnt/sockets && cp \"$2\" /mnt/client && mkdir /mnt/tmp \
            && mount --bind \"$1\" /mnt/sockets && exec chroot /mnt /client --all";
        let mut native = Command::new("unshare");
        native.args(["--mount", "sh", "-c", script, "sh"]).arg(sockets.path()).arg(&client);
        let finished = command::run(&mut native, LIMIT);
        let failed: Vec<_> = finished.stdout.lines().filter_map(|line| line.strip_prefix("not ok ")).collect();
        // Natively descriptors cross, and a peer's name is the one that it has bound.
        match failed.as_slice() {
            ["a_peer_is_named_as_it_was_called", "descriptors_do_not_cross"] => Ok(()),
            _ => Err(finished.summary()),
        }
    });
    for platform in Platform::ON_AND_OFF {
        let runtime = Runtime::new(env!("CARGO_BIN_EXE_runsc"))?;
        let inside = |options: &[&str], sockets: &Sockets, environment: &[&str], test: &str| {
            let at = format!("{}:/sockets", sockets.path().display());
            let program = format!("{}:/client", client.display());
            let rest = ["do", "--volume", &at, "--volume", &program];
            let all = [options, &rest, environment, &["--", "/client", test]].concat();
            command::run(&mut runtime.on(platform, &all), LIMIT)
        };
        report.case(&format!("{}/open", platform.name()), || {
            let sockets = Sockets::listen()?;
            inside(&["--host-uds=open"], &sockets, &[], "--all").ok("the client").map(drop)
        });
        for options in [&[][..], &["--host-uds=none"]] {
            report.case(&format!("{}/refused{}", platform.name(), options.concat()), || {
                let sockets = Sockets::listen()?;
                let test = "nothing_of_the_host_is_reached";
                inside(options, &sockets, &["--env", "REFUSED=1"], test).ok("the client").map(drop)
            });
        }
        for which in ["create", "all"] {
            report.case(&format!("{}/{which}_is_refused_by_name", platform.name()), || {
                let option = format!("--host-uds={which}");
                let finished = inside(&[&option], &Sockets::listen()?, &[], "--list");
                let said = finished.stderr.contains(&option) && finished.stderr.contains("not supported");
                if !finished.success() && said { Ok(()) } else { Err(finished.summary()) }
            });
        }
    }
    Ok(())
}

/// The other ends, in a directory. Their threads end with the process.
struct Sockets {
    directory: tempfile::TempDir,
}

impl Sockets {
    fn listen() -> Result<Sockets, String> {
        let directory = tempfile::Builder::new().prefix("runsc-uds.").tempdir().map_err(|e| e.to_string())?;
        let sockets = Sockets { directory };
        sockets.serve().map_err(|e| format!("listening: {e}"))?;
        Ok(sockets)
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn serve(&self) -> io::Result<()> {
        drop(UnixListener::bind(self.at("nobody"))?);
        serve_streams(UnixListener::bind(self.at("stream"))?, echo);
        serve_streams(UnixListener::bind(self.at("rights"))?, give_and_count);
        serve_streams(UnixListener::bind(self.at("closing"))?, |_| Ok(()));
        let datagrams = UnixDatagram::bind(self.at("datagrams"))?;
        let mut got = File::create(self.at("got"))?;
        std::thread::spawn(move || {
            let mut text = [0; 100];
            while let Ok(length) = datagrams.recv(&mut text) {
                let _ = got.write_all(&text[..length]);
            }
        });
        let flags = SockFlag::SOCK_CLOEXEC;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        bind(listener.as_raw_fd(), &UnixAddr::new(&self.at("sequence"))?)?;
        listen(&listener, Backlog::new(5)?)?;
        std::thread::spawn(move || {
            while let Ok(fd) = accept(listener.as_raw_fd()) {
                // SAFETY: the descriptor is new, and nobody else's.
                let connection = unsafe { OwnedFd::from_raw_fd(fd) };
                std::thread::spawn(move || {
                    let mut text = [0; 100];
                    while let Ok(length @ 1..) = recv(connection.as_raw_fd(), &mut text, MsgFlags::empty()) {
                        let _ = send(connection.as_raw_fd(), &text[..length], MsgFlags::MSG_NOSIGNAL);
                    }
                });
            }
        });
        Ok(())
    }
}

fn serve_streams(listener: UnixListener, serve: fn(UnixStream) -> io::Result<()>) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
}

fn echo(mut stream: UnixStream) -> io::Result<()> {
    let mut bytes = [0; 5000];
    loop {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            length => stream.write_all(&bytes[..length])?,
        }
    }
}

/// Sends a descriptor along, and then how many came back.
fn give_and_count(stream: UnixStream) -> io::Result<()> {
    let null = File::open("/dev/null")?;
    let fds = [null.as_raw_fd()];
    let gift = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(b"gift")], &gift, MsgFlags::empty(), None)?;
    let mut text = [0; 10];
    let mut pieces = [IoSliceMut::new(&mut text)];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let back = recvmsg::<()>(stream.as_raw_fd(), &mut pieces, Some(&mut space), MsgFlags::empty())?;
    let count: usize = back
        .cmsgs()?
        .map(|message| if let ControlMessageOwned::ScmRights(fds) = message { fds.len() } else { 0 })
        .sum();
    (&stream).write_all(count.to_string().as_bytes())
}
