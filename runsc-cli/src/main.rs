//! `runsc`: the OCI command line, and the hidden roles that its processes take on.

mod logging;
mod sandbox;
mod timestamp;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((role, rest)) = arguments.split_first()
        && role == sandbox::boot::ROLE
    {
        sandbox::boot::main(rest);
    }
    eprintln!("runsc: no commands yet");
    std::process::exit(125);
}
