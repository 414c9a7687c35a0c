//! Commands of runc that exist elsewhere and are refused here by name.

use clap::Args;

use crate::failure::Failure;

/// Any arguments.
#[derive(Debug, Args)]
pub struct Unsupported {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Unsupported {
    /// Refuses.
    pub fn run(self, name: &str) -> Result<i32, Failure> {
        drop(self.arguments);
        Err(Failure::new(format!("{name} is not supported")))
    }
}
