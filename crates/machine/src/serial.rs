//! Where a serial port or a virtio console leads: the terminal, a file, or a socket. Threads of its own carry the bytes, so
//! that neither the guest nor a slow reader waits for the other beyond a bounded buffer.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use ferro_devices::serial::{SerialOutput, Uart16550};
use ferro_devices::virtio::{Console, ConsoleOutput, VirtioPci};

use crate::bus::{Shared, lock};
use crate::control::{Control, Event};
use crate::description::SerialTarget;
use crate::monitor::TerminalSession;
use crate::socket;
use crate::terminal::{EscapeFilter, HELP, Typed};

/// Output that nobody reads is kept up to this many bytes; then the guest waits.
const BUFFER: usize = 256 << 10;

#[derive(Default)]
struct Buffer {
    bytes: VecDeque<u8>,
    /// Nobody will ever read: bytes are dropped.
    closed: bool,
    /// Bytes were taken and are being written.
    writing: bool,
    /// The client that was connected has gone.
    hung_up: bool,
}

/// Bytes on their way out.
#[derive(Default)]
pub(crate) struct Outgoing {
    buffer: Mutex<Buffer>,
    changed: Condvar,
}

impl Outgoing {
    fn wait<'a>(
        &self,
        guard: MutexGuard<'a, Buffer>,
        condition: impl FnMut(&mut Buffer) -> bool,
    ) -> MutexGuard<'a, Buffer> {
        self.changed.wait_while(guard, condition).unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes what there is; waits for at least one byte. `None` when closed, or when the client hung up.
    fn take(&self) -> Option<Vec<u8>> {
        let mut buffer = lock(&self.buffer);
        buffer.writing = false;
        self.changed.notify_all();
        let mut buffer = self.wait(buffer, |buffer| buffer.bytes.is_empty() && !buffer.closed && !buffer.hung_up);
        if buffer.hung_up || buffer.bytes.is_empty() {
            return None;
        }
        buffer.writing = true;
        self.changed.notify_all();
        Some(buffer.bytes.drain(..).collect())
    }

    /// Waits, for a bounded time, until everything was written; at the end of the VM.
    pub(crate) fn drain(&self) {
        let buffer = lock(&self.buffer);
        let pending = |buffer: &mut Buffer| (!buffer.bytes.is_empty() || buffer.writing) && !buffer.closed;
        drop(self.changed.wait_timeout_while(buffer, Duration::from_secs(2), pending));
    }

    fn close(&self) {
        lock(&self.buffer).closed = true;
        self.changed.notify_all();
    }

    fn set_hung_up(&self, gone: bool) {
        lock(&self.buffer).hung_up = gone;
        self.changed.notify_all();
    }
}

/// The chip's end.
pub(crate) struct Sender(pub(crate) Arc<Outgoing>);

impl SerialOutput for Sender {
    fn send(&mut self, byte: u8) {
        self.write(&[byte]);
    }
}

impl ConsoleOutput for Sender {
    fn write(&mut self, bytes: &[u8]) {
        let buffer = lock(&self.0.buffer);
        let mut buffer = self.0.wait(buffer, |buffer| buffer.bytes.len() >= BUFFER && !buffer.closed);
        if !buffer.closed {
            buffer.bytes.extend(bytes);
            self.0.changed.notify_all();
        }
    }
}

/// The chip, for what is typed.
pub(crate) trait Keyboard: Clone + Send + 'static {
    /// Gives the guest as many of the bytes as it has room for now, and says how many those were.
    fn offer(&self, bytes: &[u8]) -> usize;
    /// The break condition of a serial line.
    fn receive_break(&self);
}

impl Keyboard for Shared<Uart16550> {
    fn offer(&self, bytes: &[u8]) -> usize {
        let mut uart = lock(self);
        let room = uart.room().min(bytes.len());
        uart.receive(&bytes[..room]);
        room
    }

    fn receive_break(&self) {
        lock(self).receive_break();
    }
}

impl Keyboard for Shared<VirtioPci<Console>> {
    fn offer(&self, bytes: &[u8]) -> usize {
        // While no driver runs there is room for nothing.
        lock(self).act(|console, queues, memory| console.receive(bytes, queues, memory)).unwrap_or(0)
    }

    fn receive_break(&self) {
        // A console is no line that could be broken.
    }
}

/// Writes everything to `output` until it fails; a failure drops the rest.
fn write_all(outgoing: &Outgoing, mut output: impl Write) {
    while let Some(bytes) = outgoing.take() {
        if output.write_all(&bytes).and_then(|()| output.flush()).is_err() {
            outgoing.close();
        }
    }
}

/// Gives typed bytes to the guest as fast as it takes them.
fn type_bytes(chip: &impl Keyboard, bytes: &[u8], control: &Control) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let Some(taken) = control.while_running(|| chip.offer(rest)) else { return };
        rest = &rest[taken..];
        if !rest.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

/// Takes what is typed to the guest, or, after Ctrl-A c, to the monitor.
fn read_terminal(chip: &impl Keyboard, control: &Control, monitor: Option<&TerminalSession>) {
    let mut filter = EscapeFilter::default();
    let mut monitor_has_it = false;
    let mut buffer = [0; 256];
    let mut input = io::stdin().lock();
    loop {
        let len = match input.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(len) => len,
        };
        for typed in buffer[..len].iter().filter_map(|&byte| filter.take(byte)) {
            match typed {
                Typed::Byte(byte) => match monitor.filter(|_| monitor_has_it) {
                    Some(monitor) => monitor_has_it = monitor.input(&[byte]),
                    None => type_bytes(chip, &[byte], control),
                },
                Typed::Switch => {
                    monitor_has_it = !monitor_has_it && monitor.is_some();
                    if let Some(monitor) = monitor.filter(|_| monitor_has_it) {
                        monitor.show_prompt();
                    }
                }
                Typed::Break => chip.receive_break(),
                Typed::Quit => control.report(Event::Quit),
                Typed::Help => {
                    let mut output = io::stdout();
                    let _ = output.write_all(HELP.as_bytes()).and_then(|()| output.flush());
                }
            }
        }
    }
}

/// Serves one client after the other: what the guest sends while there is none waits in the buffer.
fn serve<C: Read + Write + Send + 'static>(
    outgoing: &Arc<Outgoing>,
    chip: &impl Keyboard,
    control: &Arc<Control>,
    mut accept: impl FnMut() -> io::Result<(C, C)>,
) {
    while let Ok((mut reader, mut writer)) = accept() {
        outgoing.set_hung_up(false);
        let (chip, out, control) = (chip.clone(), outgoing.clone(), control.clone());
        let reading = std::thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok(len @ 1..) = reader.read(&mut buffer) {
                type_bytes(&chip, &buffer[..len], &control);
            }
            out.set_hung_up(true);
        });
        while let Some(bytes) = outgoing.take() {
            if writer.write_all(&bytes).is_err() {
                break;
            }
        }
        drop(writer);
        // A panic in that thread was printed by it already.
        let _ = reading.join();
    }
}

/// Starts the threads that carry the bytes; on the terminal, those of the monitor that shares it too.
///
/// # Errors
/// A file or socket that can't be opened.
pub(crate) fn connect(
    target: &SerialTarget,
    outgoing: &Arc<Outgoing>,
    chip: &impl Keyboard,
    control: &Arc<Control>,
    monitor: Option<Arc<TerminalSession>>,
) -> io::Result<()> {
    let (out, chip, commands) = (outgoing.clone(), chip.clone(), control.clone());
    match target {
        SerialTarget::None => {
            outgoing.close();
            Ok(())
        }
        SerialTarget::Stdio => {
            spawn("serial-out", move || write_all(&out, io::stdout()))?;
            spawn("serial-in", move || read_terminal(&chip, &commands, monitor.as_deref()))
        }
        SerialTarget::File(path) => {
            let file = std::fs::File::create(path)?;
            spawn("serial-out", move || write_all(&out, file))
        }
        SerialTarget::Unix(path) => {
            let listener = socket::listen_unix(path)?;
            spawn("serial", move || {
                serve(&out, &chip, &commands, || {
                    let (client, _) = listener.accept()?;
                    Ok((client.try_clone()?, client))
                });
            })
        }
        SerialTarget::Tcp(address) => {
            let listener = TcpListener::bind(address.as_str())?;
            spawn("serial", move || {
                serve(&out, &chip, &commands, || {
                    let (client, _) = listener.accept()?;
                    Ok((client.try_clone()?, client))
                });
            })
        }
    }
}
