//! What a walk of three components with an open of the last costs, from call to descriptor, between two processes;
//! what an attribute costs; how long confinement takes; and how large an idle gofer is. Run as root:
//! `cargo run --release -p runsc-gofer --example round_trip`.

use std::error::Error;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gofer::{Confinement, DeviceNodes, GoferConfig, Tree, TreeFlags};
use wire::{Access, Client, Name, OpenFlags, Opened};

const TREE: &str = "GOFER_EXAMPLE_TREE";
const ROUNDS: usize = 20_000;

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::var_os(TREE) {
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

fn measure() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    std::fs::create_dir_all(dir.path().join("usr/lib"))?;
    std::fs::write(dir.path().join("usr/lib/file"), "content")?;
    let (ours, theirs) = wire::socket_pair()?;
    let started = Instant::now();
    let mut gofer =
        Command::new(std::env::current_exe()?).env(TREE, dir.path()).stdin(Stdio::from(theirs)).spawn()?;
    let client = Client::new(ours);
    let root = client.attach(0)?.root.handle;
    println!("start to first answer: {:?}", started.elapsed());

    let names = [Name::new(b"usr")?, Name::new(b"lib")?, Name::new(b"file")?];
    let open = Some((Access::Read, OpenFlags::empty()));
    let walk = median(|| {
        let walked = client.walk(&root, &names, open)?;
        if let Opened::Descriptor(_) = walked.opened { Ok(()) } else { Err("not opened".into()) }
    })?;
    println!("walk of 3 and open: {walk:?}");
    let one = median(|| Ok(client.walk(&root, &names[..1], None).map(|_| ())?))?;
    println!("walk of 1: {one:?}");
    let attr = median(|| Ok(client.get_attr(&root).map(|_| ())?))?;
    println!("attributes: {attr:?}");
    client.flush_clunks()?;

    let memory = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", gofer.id()))?;
    for field in ["Rss:", "Pss:", "Private_Dirty:"] {
        memory.lines().filter(|line| line.starts_with(field)).for_each(|line| println!("idle {line}"));
    }
    drop((root, client));
    gofer.wait()?;
    Ok(())
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
