//! `ferro mirror status` and `list`.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use ferro_node::mirror::{Command, Error, MirrorConfig, Place, call};
use serde_json::{Map, Value};

use super::State;
use crate::exit;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Human,
    /// For programs
    Json,
}

/// Flags of `status`.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// The mirror [default: all of them]
    name: Option<String>,
    /// Say it again every second
    #[arg(long)]
    watch: bool,
    /// How to say it
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
}

impl StatusArgs {
    /// Exit code 1 if a mirror named is not up.
    pub(crate) fn run(self, state: &State) -> anyhow::Result<ExitCode> {
        loop {
            let (text, up) = self.once(state)?;
            crate::img::print(&text)?;
            if !self.watch {
                return Ok(ExitCode::from(if up { exit::OK } else { exit::FAILED }));
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    fn once(&self, state: &State) -> anyhow::Result<(String, bool)> {
        let names = match &self.name {
            Some(name) => vec![name.clone()],
            None => Place::list(&state.directory())?,
        };
        let (mut all, mut up, mut text) = (Map::new(), true, String::new());
        for name in names {
            let place = state.place(&name)?;
            MirrorConfig::load(&place)?;
            let status = match call(&place, Command::Status) {
                Err(Error::NotUp(_)) => {
                    up = self.name.is_none();
                    Value::Null
                }
                other => other?,
            };
            human(&name, &status, &mut text);
            all.insert(name, status);
        }
        if self.output == Output::Json {
            let value = match &self.name {
                Some(name) => all.remove(name).unwrap_or(Value::Null),
                None => Value::Object(all),
            };
            text = if self.watch { format!("{value}\n") } else { format!("{value:#}\n") };
        }
        Ok((text, up))
    }
}

fn human(name: &str, status: &Value, text: &mut String) {
    let word = |key: &str| status[key].as_str().unwrap_or("-").to_owned();
    let bytes = |value: &Value| crate::img::human_size(value.as_u64().unwrap_or(0));
    // Writing to a string can't fail.
    let mut line = |line: String| _ = writeln!(text, "{line}");
    if status.is_null() {
        return line(format!("{name}: down"));
    }
    line(format!(
        "{name}: {} / {}, {}, disks {} / {}",
        word("role"),
        word("peer-role"),
        word("connection"),
        word("disk"),
        word("peer-disk")
    ));
    line(format!(
        "  protocol {}, {}, epoch {}, generation {}, {} writes pending, {} out of sync",
        word("protocol"),
        bytes(&status["size"]),
        status["epoch"],
        word("generation"),
        status["pending"],
        bytes(&status["out-of-sync"])
    ));
    if let Some(resync) = status["resync"].as_object() {
        let paused = if resync["paused"] == true { ", paused" } else { "" };
        let rest = match (&resync["bytes-per-second"], &resync["seconds-left"]) {
            (Value::Number(_), Value::Number(left)) => {
                format!(", {}/s, {left} s left", bytes(&resync["bytes-per-second"]))
            }
            _ => String::new(),
        };
        let percent = resync["percent"].as_f64().unwrap_or(0.0);
        line(format!("  resync ({}): {percent:.1} %{rest}{paused}", resync["role"].as_str().unwrap_or("-")));
    }
    if let Some(verify) = status["verify"].as_object() {
        line(format!("  verify: {} of {} blocks", verify["blocks-done"], verify["blocks"]));
    } else if let Some(blocks) = status["verify-differing-blocks"].as_u64() {
        line(format!("  last verify: {blocks} blocks differed"));
    }
    if status["frozen"] == true {
        line("  frozen: the peer is lost; 'go-alone' lets it go on once the peer can't be promoted".into());
    }
    if let Some(nbd) = status["nbd"].as_str() {
        line(format!("  device: nbd+unix:///?socket={nbd} ({} clients)", status["clients"]));
    }
    if let Some(problem) = status["problem"].as_str() {
        line(format!("  problem: {problem}"));
    }
}

/// Names, one a line.
pub(super) fn list(state: &State) -> anyhow::Result<ExitCode> {
    for name in Place::list(&state.directory())? {
        crate::img::print(&format!("{name}\n"))?;
    }
    Ok(ExitCode::from(exit::OK))
}
