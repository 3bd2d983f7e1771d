//! Shows how far a job is (`-p`): a bar on a terminal, qemu-img's line otherwise.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ferro_block::jobs::Watch;
use indicatif::{ProgressBar, ProgressStyle};

/// Runs a job, showing its progress if `show`.
pub(super) fn watched<T>(show: bool, job: impl FnOnce(&Watch) -> T) -> T {
    let watch = Watch::new();
    if !show {
        return job(&watch);
    }
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let display = scope
            .spawn(|| if std::io::stdout().is_terminal() { bar(&watch, &finished) } else { line(&watch, &finished) });
        let result = job(&watch);
        finished.store(true, Ordering::Release);
        display.thread().unpark();
        result
    })
}

fn wait() {
    std::thread::park_timeout(Duration::from_millis(100));
}

fn bar(watch: &Watch, finished: &AtomicBool) {
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    loop {
        let ended = finished.load(Ordering::Acquire);
        let (done, total) = watch.progress();
        bar.set_length(total);
        bar.set_position(done);
        if ended {
            bar.finish();
            return;
        }
        wait();
    }
}

fn line(watch: &Watch, finished: &AtomicBool) {
    let mut out = std::io::stdout();
    let mut last = String::new();
    loop {
        let ended = finished.load(Ordering::Acquire);
        let (done, total) = watch.progress();
        let percent = if total == 0 { 0.0 } else { 100.0 * done as f64 / total as f64 };
        let text = format!("    ({percent:.2}/100%)\r");
        if text != last {
            // Whoever reads this may have gone.
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            last = text;
        }
        if ended {
            let _ = out.write_all(b"\n");
            return;
        }
        wait();
    }
}
