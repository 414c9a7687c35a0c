//! Programs that go through a directory have its next files opened along with the one that they ask for. Here such files change
//! before they are asked for: what is read must be what is there then, by whomever it was changed.

use harness::bundle::Bundle;
use harness::command;
use harness::container::Container;
use harness::report::Report;
use harness::sandbox::{Platform, Runtime};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
type Outcome = Result<(), String>;

fn main() {
    let report = Report::from_arguments();
    for platform in Platform::EVERY {
        match Runtime::new(env!("CARGO_BIN_EXE_runsc")) {
            Ok(runtime) => cases(&report, &runtime.with_platform(platform), platform.name()),
            Err(why) => report.add("opened_ahead/setup", Err(why), ""),
        }
    }
    report.finish();
}

fn cases(report: &Report, runtime: &Runtime, platform: &str) {
    let changes = [
        ("what_the_host_changes_is_seen_in_a_bind_mount", Place::Mount, Who::Host),
        ("what_the_sandbox_changes_is_seen_in_a_bind_mount", Place::Mount, Who::Sandbox),
        ("what_the_sandbox_changes_is_seen_in_the_root", Place::Root, Who::Sandbox),
    ];
    for (name, place, who) in changes {
        report.case(&format!("{platform}/{name}"), || changes_are_seen(runtime, place, who));
    }
    // Those that stay open after their use, and those that were opened ahead.
    for (name, place, files, most) in [
        ("few_descriptors_of_a_bind_mount_stay_open", Place::Mount, 2000, 512 + 128),
        ("few_descriptors_of_the_root_stay_open", Place::Root, 9000, 8192 + 128),
    ] {
        report.case(&format!("{platform}/{name}"), || few_stay_open(runtime, place, files, most));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A tree that the host changes, too.
    Mount,
    /// A tree that is ours alone.
    Root,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Host,
    Sandbox,
}

/// A container's bundle, a directory that it has on `/data`, and where its files are on the host.
struct Scene {
    bundle: Bundle,
    outside: tempfile::TempDir,
    files: PathBuf,
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

impl Scene {
    fn new(place: Place, script: &str) -> Result<Scene, String> {
        let outside = tempfile::tempdir().map_err(text)?;
        let anybody = Permissions::from_mode(0o777);
        fs::set_permissions(outside.path(), anybody).map_err(text)?;
        let base = if place == Place::Mount { "/data" } else { "/" };
        // By an ordinary user, so that permissions count.
        let bundle = Bundle::script(&format!("cd {base}; {script}"))?
            .set("/process/user", json!({"uid": 1000, "gid": 1000}))
            .push("/mounts", json!({"destination": "/data", "type": "bind", "source": outside.path(), "options": ["rbind", "rw"]}));
        let files = if place == Place::Mount { outside.path().to_owned() } else { bundle.rootfs() };
        Ok(Scene { bundle, outside, files })
    }

    /// A directory of so many files.
    fn fill(&self, name: &str, count: usize) -> Outcome {
        let directory = self.files.join(name);
        fs::create_dir(&directory).map_err(text)?;
        fs::set_permissions(&directory, Permissions::from_mode(0o777)).map_err(text)?;
        for number in 0..count {
            let path = directory.join(format!("f{number}"));
            fs::write(&path, format!("old {number}\n")).map_err(text)?;
            fs::set_permissions(&path, Permissions::from_mode(0o666)).map_err(text)?;
        }
        Ok(())
    }
}

/// Waits for a file in the directory that both sides see.
fn wait_for(outside: &Path, name: &str) -> Result<String, String> {
    command::eventually(name, LIMIT, || outside.join(name).exists())?;
    fs::read_to_string(outside.join(name)).map_err(text)
}

/// Which files of a directory a process has open.
fn open_files(pid: i32, directory: &str) -> Result<BTreeSet<String>, String> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).map_err(text)?;
    let paths = links.filter_map(|link| fs::read_link(link.ok()?.path()).ok());
    let names = paths.filter_map(|path| {
        let path = path.to_str()?.to_owned();
        let (parent, name) = path.rsplit_once('/')?;
        parent.ends_with(&format!("/{directory}")).then(|| name.to_owned())
    });
    Ok(names.collect())
}

const NAMES: [&str; 6] = ["replaced", "removed", "rewritten", "link", "moved", "closed"];

fn changes_are_seen(runtime: &Runtime, place: Place, who: Who) -> Outcome {
    let inside = "echo replaced >/data/new; mv /data/new $1; rm $2; echo rewritten >$3; ln -sf /data/target $4; mv $5 moved;";
    let script = format!(
        "grep -r nothing train; find c -type f >/data/order; set -- $(cat /data/order)
        read v <$1; read v <$2; shift 2
        echo >/data/ready; while [ ! -e /data/go ]; do sleep 0.02; done
        {}
        for f; do v=none; read v <$f; echo $f $v; done >/data/t; mv /data/t /data/seen
        while [ ! -e /data/end ]; do sleep 0.02; done",
        if who == Who::Sandbox { inside } else { "" }
    );
    let scene = Scene::new(place, &script)?;
    fs::create_dir(scene.files.join("train")).map_err(text)?;
    (0..20).try_for_each(|number| scene.fill(&format!("train/{number}"), 16))?;
    scene.fill("c", 24)?;
    let (outside, files) = (scene.outside, scene.files);
    fs::set_permissions(&files, Permissions::from_mode(0o777)).map_err(text)?;
    fs::write(outside.path().join("target"), "through the link\n").map_err(text)?;
    let fifo = files.join("c/fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).map_err(|e| e.to_string())?;
    let listener = UnixListener::bind(files.join("c/socket")).map_err(text)?;
    let container = Container::started(runtime, scene.bundle)?;
    wait_for(outside.path(), "ready")?;
    let order = fs::read_to_string(outside.path().join("order")).map_err(text)?;
    let victims: Vec<&str> = order.lines().skip(2).take(NAMES.len()).collect();
    let open = open_files(container.pid()?, "c")?;
    if let Some(other) = victims.iter().find(|path| !open.contains(path.trim_start_matches("c/"))) {
        return Err(format!("{other} was not opened ahead, but {open:?}"));
    }
    // Nobody has opened what is no regular file.
    let writer = fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&fifo);
    if writer.as_ref().err().and_then(std::io::Error::raw_os_error) != Some(libc::ENXIO) {
        return Err(format!("the FIFO has a reader: {writer:?}"));
    }
    listener.set_nonblocking(true).map_err(text)?;
    if listener.accept().is_ok() {
        return Err("the socket was connected to".into());
    }
    if who == Who::Host {
        let at = |index: usize| files.join(victims[index]);
        fs::write(files.join("new"), "replaced\n").map_err(text)?;
        fs::rename(files.join("new"), at(0)).map_err(text)?;
        fs::remove_file(at(1)).map_err(text)?;
        fs::write(at(2), "rewritten\n").map_err(text)?;
        fs::remove_file(at(3)).and_then(|()| symlink("/data/target", at(3))).map_err(text)?;
        fs::rename(at(4), files.join("moved")).map_err(text)?;
        fs::set_permissions(at(5), Permissions::from_mode(0o200)).map_err(text)?;
    }
    fs::write(outside.path().join("go"), "").map_err(text)?;
    let seen = wait_for(outside.path(), "seen")?;
    fs::write(outside.path().join("end"), "").map_err(text)?;
    let closed = if who == Who::Host { "none" } else { "" };
    let news = ["replaced", "none", "rewritten", "through the link", "none", closed];
    for (index, line) in seen.lines().enumerate() {
        let path = order.lines().nth(index + 2).unwrap_or_default();
        let old = format!("old {}", path.trim_start_matches("c/f"));
        let new = news.get(index).filter(|new| !new.is_empty()).map_or(old, |new| (*new).to_owned());
        if line != format!("{path} {new}") {
            return Err(format!(
                "{}: want {path} {new}, got {line}",
                NAMES.get(index).unwrap_or(&"unchanged")
            ));
        }
    }
    if seen.lines().count() != 22 {
        return Err(format!("saw {seen}"));
    }
    container.wait_for_status("stopped")
}

fn few_stay_open(runtime: &Runtime, place: Place, files: usize, most: usize) -> Outcome {
    let script = "grep -r 'old [0-9]*7$' big | wc -l >/data/t; mv /data/t /data/seen; while [ ! -e /data/end ]; do sleep 0.02; done";
    let scene = Scene::new(place, script)?;
    scene.fill("big", files)?;
    let outside = scene.outside;
    let container = Container::started(runtime, scene.bundle)?;
    let found = wait_for(outside.path(), "seen")?;
    let open = open_files(container.pid()?, "big")?.len();
    fs::write(outside.path().join("end"), "").map_err(text)?;
    container.wait_for_status("stopped")?;
    if found.trim() != (files / 10).to_string() {
        return Err(format!("grep found {found}"));
    }
    if (100..=most).contains(&open) { Ok(()) } else { Err(format!("{open} files are open")) }
}
