//! The `ferro` command: reads the command line, sets logging up and calls what was asked for. The work is elsewhere.

mod background;
mod clone;
mod cluster;
mod command;
mod exit;
mod img;
mod kvm;
mod logging;
mod mirror;
mod monitor;
mod net;
mod node;
mod run;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

fn main() -> ExitCode {
    let arguments = img::arrange(by_name(std::env::args_os().collect()));
    let matches = match command::Cli::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let cli = match command::Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    logging::start(cli.verbose);
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ferro: {}", told(&error));
            exit::code_of(&error)
        }
    }
}

/// What went wrong and why: causes that an error's own text has already told aren't told twice.
fn told(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .map(ToString::to_string)
        .fold(format!("{error}"), |text, cause| if text.contains(&cause) { text } else { format!("{text}: {cause}") })
}

/// Help and version go to standard output with success, complaints to standard error with [`exit::USAGE`].
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done about a closed terminal.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK })
}

/// Called by another program's name (through a symbolic link), the command stands in for that program.
fn by_name(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().and_then(|name| Path::new(name).file_name()).map(ToOwned::to_owned);
    let command = match name.as_deref().and_then(OsStr::to_str) {
        Some("qemu-img") => "img",
        Some("kvm" | "qemu-system-x86_64") => "kvm",
        _ => return arguments,
    };
    arguments.splice(0..1, ["ferro".into(), command.into()]);
    arguments
}
