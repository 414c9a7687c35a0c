//! `runsc resume`: lets the processes of a paused container go on.

use clap::Args;

use super::{Context, pause};
use crate::failure::Failure;

/// `runsc resume`.
#[derive(Debug, Args)]
pub struct Resume {
    /// The container's id
    id: String,
}

impl Resume {
    /// Resumes it.
    pub fn run(self, context: &Context) -> Result<i32, Failure> {
        pause::change(context, &self.id, false)?;
        Ok(0)
    }
}
