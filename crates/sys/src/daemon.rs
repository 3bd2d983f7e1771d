//! Leaving the terminal: a session of one's own, and standard streams that lead nowhere.

use std::fs::File;
use std::io;

/// Makes this process the leader of a session without a terminal.
///
/// # Errors
/// It leads a process group already.
pub fn new_session() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Ends this process when the one that started it ends.
///
/// # Errors
/// The kernel doesn't know that.
pub fn end_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    Ok(())
}

/// Points standard input, output and error to /dev/null.
///
/// # Errors
/// /dev/null can't be opened.
pub fn let_go_of_streams() -> io::Result<()> {
    let nowhere = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nowhere)?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    rustix::stdio::dup2_stderr(&nowhere)?;
    Ok(())
}
