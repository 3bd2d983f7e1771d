//! `ferro net forward`.

use clap::{Args, ValueEnum};
use ferro_node::segment::forwarding;

use super::report::Output;

#[derive(Debug, Args)]
pub(crate) struct ForwardArgs {
    /// What to do
    #[arg(value_enum)]
    action: Action,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Pass packets on
    On,
    /// Don't
    Off,
    /// Say whether it does
    Status,
}

impl ForwardArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.action {
            Action::On => self.output.change("forwarding", forwarding::set(true)?, "already on", "switched on"),
            Action::Off => self.output.change("forwarding", forwarding::set(false)?, "already off", "switched off"),
            Action::Status => {
                let on = forwarding::is_on()?;
                self.output.value(&serde_json::json!({ "forwarding": on }), || {
                    format!("forwarding: {}\n", if on { "on" } else { "off" })
                })
            }
        }
    }
}
