//! Exit codes: what a script can tell from them.

use std::process::ExitCode;

/// All went well.
pub(crate) const OK: u8 = 0;
/// Something failed; the message says what.
pub(crate) const FAILED: u8 = 1;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;

/// A failure with an exit code of its own, as `check` and `compare` have them.
#[derive(Debug)]
pub(crate) struct Coded {
    pub(crate) code: u8,
    pub(crate) source: anyhow::Error,
}

impl std::fmt::Display for Coded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.source)
    }
}

impl std::error::Error for Coded {}

/// The exit code for an error.
pub(crate) fn code_of(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(error.downcast_ref::<Coded>().map_or(FAILED, |coded| coded.code))
}

/// Gives errors an exit code of their own.
pub(crate) fn with_code<T>(code: u8, result: anyhow::Result<T>) -> anyhow::Result<T> {
    result.map_err(|source| anyhow::Error::new(Coded { code, source }))
}
