//! One container of the runtime under test, with what its commands say.

use crate::bundle::Bundle;
use crate::command::{self, Finished};
use crate::sandbox::Runtime;
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// A container that is deleted by force when this goes.
#[derive(Debug)]
pub struct Container<'a> {
    pub runtime: &'a Runtime,
    pub id: String,
    pub bundle: Bundle,
}

/// An id that no other test, in this process or another, has.
pub fn new_id() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("runsc-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl<'a> Container<'a> {
    /// Writes the bundle's configuration; creates nothing yet. The cgroup is named like the container.
    pub fn new(runtime: &'a Runtime, bundle: Bundle) -> Result<Container<'a>, String> {
        let id = new_id();
        let cgroup = Value::String(format!("/{id}"));
        Ok(Container { runtime, bundle: bundle.set("/linux/cgroupsPath", cgroup).write()?, id })
    }

    /// `runsc run --detach` of a script.
    pub fn running(runtime: &'a Runtime, script: &str) -> Result<Container<'a>, String> {
        Container::started(runtime, Bundle::script(script)?)
    }

    /// `runsc run --detach` of a bundle. The output goes nowhere: a detached container keeps it open.
    pub fn started(runtime: &'a Runtime, bundle: Bundle) -> Result<Container<'a>, String> {
        let container = Container::new(runtime, bundle)?;
        container.quietly(&["run", "--detach"], true)?;
        Ok(container)
    }

    /// `runsc create` of a script.
    pub fn created(runtime: &'a Runtime, bundle: Bundle) -> Result<Container<'a>, String> {
        let container = Container::new(runtime, bundle)?;
        container.quietly(&["create"], true)?;
        Ok(container)
    }

    /// A command whose container keeps standard output; only its status and log matter.
    pub fn quietly(&self, arguments: &[&str], with_bundle: bool) -> Result<(), String> {
        let bundle = self.bundle.path().to_string_lossy();
        let with_bundle: &[&str] = if with_bundle { &["--bundle", &bundle] } else { &[] };
        self.run_quietly(&[arguments, with_bundle, &[&self.id]].concat())
    }

    /// `runsc exec FLAGS... ID ARGS...` of a process that keeps standard output.
    pub fn exec_quietly(&self, flags: &[&str], arguments: &[&str]) -> Result<(), String> {
        self.run_quietly(&[&["exec"], flags, &[&self.id], arguments].concat())
    }

    fn run_quietly(&self, arguments: &[&str]) -> Result<(), String> {
        let log = self.bundle.path().join("runtime.log");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "exec \"$@\" >/dev/null 2>&1 </dev/null", "quietly"]).arg(self.runtime.binary());
        command.args(self.runtime.global_arguments()).arg("--log").arg(&log).args(arguments);
        let finished = command::run(&mut command, LIMIT);
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        finished.ok(&format!("{arguments:?}")).map(drop).map_err(|why| format!("{why}\n  log: {log}"))
    }

    /// `runsc ARGS... ID`
    pub fn command(&self, arguments: &[&str]) -> Finished {
        let mut all: Vec<&str> = arguments.to_vec();
        all.push(&self.id);
        command::run(&mut self.runtime.command(&all), LIMIT)
    }

    /// `runsc exec FLAGS... ID ARGS...`
    pub fn exec(&self, flags: &[&str], arguments: &[&str]) -> Finished {
        let all = [&["exec"], flags, &[self.id.as_str()], arguments].concat();
        command::run(&mut self.runtime.command(&all), LIMIT)
    }

    /// `runsc kill FLAGS... ID SIGNAL`
    pub fn kill(&self, signal: &str) -> Result<(), String> {
        command::run(&mut self.runtime.command(&["kill", &self.id, signal]), LIMIT).ok("kill").map(drop)
    }

    /// What `runsc state` says.
    pub fn state(&self) -> Result<Value, String> {
        let text = self.command(&["state"]).ok("state")?;
        serde_json::from_str(&text).map_err(|e| format!("state: {e} in {text}"))
    }

    pub fn status(&self) -> Result<String, String> {
        Ok(self.state()?["status"].as_str().unwrap_or_default().to_owned())
    }

    pub fn pid(&self) -> Result<i32, String> {
        let pid = self.state()?["pid"].as_i64().unwrap_or(0);
        i32::try_from(pid).map_err(|e| e.to_string())
    }

    /// The gofer's pid, from the container's record.
    pub fn gofer_pid(&self) -> Result<i32, String> {
        let path = self.runtime.state_dir().join(&self.id).join("state.json");
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let record: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let pid = record.pointer("/gofer/pid").and_then(Value::as_i64);
        pid.and_then(|pid| i32::try_from(pid).ok()).ok_or_else(|| format!("no gofer in {text}"))
    }

    pub fn wait_for_status(&self, want: &str) -> Result<(), String> {
        command::eventually(&format!("status {want}"), LIMIT, || self.status().is_ok_and(|s| s == want))
    }

    pub fn delete(&self) -> Result<(), String> {
        self.command(&["delete"]).ok("delete").map(drop)
    }

    pub fn delete_force(&self) -> Result<(), String> {
        self.command(&["delete", "--force"]).ok("delete --force").map(drop)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.command(&["delete", "--force"]);
    }
}
