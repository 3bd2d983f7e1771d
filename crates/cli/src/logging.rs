//! Messages for people who look for a fault: `-v`, `-vv` or `FERRO_LOG` (tracing's filter language), to standard error, or
//! where a running VM's monitor says.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anstream::StripStream;
use ferro_machine::LogControl;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// Starts to log: warnings, or more with `-v` (info), `-vv` (debug) and `-vvv` (trace); `FERRO_LOG` goes first.
///
/// The FUSE library warns of every question of the kernel's that has no answer; those are left out.
pub(crate) fn start(verbose: u8) {
    let level = ["warn", "info", "debug", "trace"][usize::from(verbose.min(3))];
    let filter = std::env::var("FERRO_LOG").ok().and_then(|filter| EnvFilter::try_new(filter).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(format!("{level},fuser=error")));
    let (filter, reload) = reload::Layer::new(filter);
    let place = Place::default();
    let writer = place.clone();
    let format = fmt::layer().with_writer(move || writer.clone()).with_ansi(std::io::stderr().is_terminal());
    let format = if verbose == 0 { format.without_time().with_target(false).boxed() } else { format.boxed() };
    // Fails only if a test has started it before.
    let _ = tracing_subscriber::registry().with(filter).with(format).try_init();
    ferro_machine::set_log_control(Box::new(Log { filter: reload, place }));
}

/// Where messages go: a file, or standard error.
#[derive(Clone, Default)]
struct Place(Arc<Mutex<Option<StripStream<File>>>>);

impl Place {
    fn file(&self) -> MutexGuard<'_, Option<StripStream<File>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Place {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *self.file() {
            Some(file) => file.write(bytes),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut *self.file() {
            Some(file) => file.flush(),
            None => io::stderr().flush(),
        }
    }
}

/// The log as a monitor changes it.
struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    place: Place,
}

impl LogControl for Log {
    fn set_filter(&self, filter: Option<&str>) -> Result<(), String> {
        let wrong = |error| {
            format!(
                "{error}: a filter is a level (warn, info, debug, trace), or levels by part, such as ferro_block=trace"
            )
        };
        let filter = EnvFilter::try_new(filter.unwrap_or("off")).map_err(wrong)?;
        self.filter.reload(filter).map_err(|error| error.to_string())
    }

    fn set_file(&self, path: &Path) -> io::Result<()> {
        let file = File::options().create(true).append(true).open(path)?;
        *self.place.file() = Some(StripStream::new(file));
        Ok(())
    }
}
