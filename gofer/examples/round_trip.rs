//! What requests cost, from call to answer, between two processes, beside a bare exchange of two short messages over
//! the same kind of socket; how long a gofer takes to start; and how large it is when idle. Run as root:
//! `cargo run --release -p runsc-gofer --example round_trip`.

use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gofer::{Confinement, DeviceNodes, GoferConfig, Tree, TreeFlags};
use wire::{Access, Client, Name, OpenFlags, Opened, Walked};

const TREE: &str = "GOFER_EXAMPLE_TREE";
const ROUNDS: usize = 20_000;

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::var_os(TREE) {
        Some(tree) if tree.is_empty() => echo(),
        Some(tree) => serve(Tree { source: tree.into(), flags: TreeFlags::empty() }),
        None => measure(),
    }
}

fn serve(tree: Tree) -> Result<(), Box<dyn Error>> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let (trees, device_nodes) = (vec![tree], DeviceNodes::Forbidden);
    gofer::serve(GoferConfig { socket, trees, device_nodes, confinement: Confinement::Required })?;
    Ok(())
}

/// Sends back what comes.
fn echo() -> Result<(), Box<dyn Error>> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut buffer = vec![0; wire::MAX_MESSAGE];
    while let wire::Incoming::Request(length) = wire::receive_request(socket.as_fd(), &mut buffer) {
        wire::send(socket.as_fd(), buffer.get(..length).unwrap_or_default(), &[])?;
    }
    Ok(())
}

/// This program again, as a gofer for the tree, or an echo if that is empty.
fn start(tree: &Path) -> Result<(Child, OwnedFd), Box<dyn Error>> {
    let (ours, theirs) = wire::socket_pair()?;
    let child = Command::new(std::env::current_exe()?).env(TREE, tree).stdin(Stdio::from(theirs)).spawn()?;
    Ok((child, ours))
}

fn measure_echo() -> Result<(), Box<dyn Error>> {
    let (mut child, socket) = start(Path::new(""))?;
    let mut buffer = vec![0; wire::MAX_MESSAGE];
    let time = median(|| {
        wire::send(socket.as_fd(), &[1; 16], &[])?;
        wire::receive_request(socket.as_fd(), &mut buffer);
        Ok(())
    })?;
    println!("bare exchange: {time:?}");
    drop(socket);
    child.wait()?;
    Ok(())
}

fn measure() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    std::fs::create_dir_all(dir.path().join("usr/lib"))?;
    std::fs::write(dir.path().join("usr/lib/file"), "content")?;
    measure_echo()?;
    let started = Instant::now();
    let (mut gofer, ours) = start(dir.path())?;
    let client = Client::new(ours);
    let root = client.attach(0)?.root.handle;
    println!("start to first answer: {:?}", started.elapsed());

    let names = [Name::new(b"usr")?, Name::new(b"lib")?, Name::new(b"file")?];
    let open = Some((Access::Read, OpenFlags::empty()));
    let walk = median(|| opened(client.walk(&root, &names, open)?))?;
    println!("walk of 3 and open: {walk:?}");
    let lib = client.walk(&root, &names[..2], None)?.steps.pop().ok_or("no directory")?.handle;
    let walk = median(|| opened(client.walk(&lib, &names[2..], open)?))?;
    println!("walk of 1 and open: {walk:?}");
    let one = median(|| Ok(client.walk(&root, &names[..1], None).map(|_| ())?))?;
    println!("walk of 1: {one:?}");
    let attr = median(|| Ok(client.get_attr(&root).map(|_| ())?))?;
    println!("attributes: {attr:?}");
    client.flush_clunks()?;

    let memory = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", gofer.id()))?;
    for field in ["Rss:", "Pss:", "Private_Dirty:"] {
        memory.lines().filter(|line| line.starts_with(field)).for_each(|line| println!("idle {line}"));
    }
    drop((lib, root, client));
    gofer.wait()?;
    Ok(())
}

fn opened(walked: Walked) -> Result<(), Box<dyn Error>> {
    if let Opened::Descriptor(_) = walked.opened { Ok(()) } else { Err("not opened".into()) }
}

fn median(mut call: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<Duration, Box<dyn Error>> {
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        call()?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times.get(ROUNDS / 2).copied().unwrap_or_default())
}
