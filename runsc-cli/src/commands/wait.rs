//! `runsc wait`: blocks until a process of a container has ended and prints its status, as gVisor's does.

use clap::Args;
use serde_json::json;

use super::Context;
use crate::container::id::ContainerId;
use crate::failure::Failure;
use crate::output::print_line;
use crate::sandbox::control::{Answer, Call, INIT};

/// `runsc wait`.
#[derive(Debug, Args)]
pub struct Wait {
    /// The process's id inside the container (default: the first process)
    #[arg(long, value_name = "PID", visible_alias = "rootpid")]
    pid: Option<i32>,
    /// The container's id
    id: String,
}

impl Wait {
    /// Waits for it.
    pub fn run(self, context: &Context) -> Result<i32, Failure> {
        let id = ContainerId::new(&self.id)?;
        context.store.require(&id)?;
        let pid = self.pid.unwrap_or(INIT);
        match context.connect(&id)?.call(Call::Wait { pid })? {
            Answer::Ended(status) => {
                print_line(&json!({ "id": id.as_str(), "exitStatus": status.code() }).to_string())?;
                Ok(0)
            }
            other => Err(Failure::new(format!("the sentry answered {other:?} to a wait"))),
        }
    }
}
