//! `ferro node` and `ferro witness`: the long-running processes of a cluster. What they do is in `ferro_node`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use ferro_node::cluster::witness::{WitnessConfig, serve};
use ferro_node::daemon::config::{DEFAULT, NodeConfig};
use ferro_node::daemon::{Daemon, api, guard};
use ferro_sys::signals::Termination;

use crate::exit;

/// Flags of `ferro node`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    command: Option<NodeCommand>,
    /// This machine's settings
    #[arg(long, value_name = "NODE.TOML", default_value = DEFAULT)]
    config: PathBuf,
    /// Only say whether the settings are in order, and whether the fence device answers
    #[arg(long)]
    check: bool,
    /// The daemon proper, of which the guard is the parent
    #[arg(long, hide = true)]
    worker: bool,
}

#[derive(Debug, clap::Subcommand)]
enum NodeCommand {
    /// Print the OpenAPI document of the daemon's API
    Openapi,
}

/// Flags of `ferro witness`.
#[derive(Debug, clap::Args)]
pub(crate) struct WitnessArgs {
    /// Where to listen and whom to serve
    #[arg(long, value_name = "WITNESS.TOML", default_value = "/etc/ferro/witness.toml")]
    config: PathBuf,
}

impl NodeArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(NodeCommand::Openapi) = self.command {
            crate::img::print(&format!("{:#}\n", api::openapi()))?;
            return Ok(ExitCode::from(exit::OK));
        }
        let config = NodeConfig::from_file(&self.config)?;
        if self.check {
            return check(&config);
        }
        let termination = Termination::catch().context("cannot catch signals")?;
        if self.worker {
            return work(&config, termination);
        }
        let program = std::env::current_exe().context("cannot find this program")?;
        let daemon = || {
            let mut command = std::process::Command::new(&program);
            command.args(["-v", "node", "--worker", "--config"]).arg(&self.config);
            command
        };
        let stop = || termination.wait_for(Duration::ZERO).unwrap_or(true);
        let code = guard::watch(&config, daemon, stop)?;
        Ok(ExitCode::from(code))
    }
}

fn check(config: &NodeConfig) -> anyhow::Result<ExitCode> {
    if let Some(api) = &config.api {
        api.token()?;
    }
    if let Some(cluster) = &config.cluster {
        cluster.key()?;
        if let Some(fence) = &cluster.fence {
            fence.test().map_err(anyhow::Error::msg).context("the fence command isn't fit for use")?;
        }
    }
    crate::img::print("the settings are in order\n")?;
    Ok(ExitCode::from(exit::OK))
}

/// The daemon proper. Its standard output tells the guard until when it may run what it runs.
fn work(config: &NodeConfig, termination: Termination) -> anyhow::Result<ExitCode> {
    ferro_sys::daemon::end_with_parent().context("cannot be told of the guard's end")?;
    let inherited = std::env::var(guard::INHERITED).ok().and_then(|text| text.parse().ok()).map(ferro_node::Time);
    let daemon = Daemon::start(config, inherited)?;
    let handle = daemon.handle.clone();
    let ordered = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&ordered);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            // Whatever comes of the wait, this is the end.
            let _ = termination.wait();
            asked.store(true, Ordering::Release);
            handle.shut_down();
        })
        .context("cannot start a thread")?;
    daemon.run(|permission| {
        if let Ok(line) = serde_json::to_string(&permission) {
            // Without a guard there is nobody to tell, and this process is about to end.
            let _ = crate::img::print(&format!("{line}\n"));
        }
    });
    Ok(ExitCode::from(if ordered.load(Ordering::Acquire) { exit::OK } else { guard::AGAIN }))
}

impl WitnessArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let config = WitnessConfig::from_file(&self.config)?;
        let termination = Termination::catch().context("cannot catch signals")?;
        let begun = || tracing::info!("listening on {}", config.listen);
        serve(&config, begun, || termination.wait_for(Duration::ZERO).unwrap_or(true))?;
        Ok(ExitCode::from(exit::OK))
    }
}
