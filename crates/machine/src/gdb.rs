//! The gdb stub: listens for a debugger and carries its session, from a thread of its own, between the connection and the
//! vCPUs. The remote protocol itself is gdbstub's; what its commands do to the VM is in [`target`].

mod registers;
mod target;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferro_hypervisor::DebugStop;
use gdbstub::common::Signal;
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};
use tracing::{debug, info};

use crate::bus::lock;
use crate::control::{Control, Event};
use target::{Debugged, thread};

/// Blocks of bytes and stops that wait for the stub; a client that sends more waits.
const INBOX: usize = 64;
/// How long the end of the VM waits for a debugger to be told of it.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the stub's thread acts on.
enum Input {
    Bytes(Vec<u8>),
    /// The debugger has gone.
    Closed,
    Stopped {
        vcpu: u32,
        stop: DebugStop,
    },
    /// The VM has ended.
    Ended,
}

/// The run loop's end of the stub.
pub(crate) struct Stub {
    inbox: SyncSender<Input>,
    attached: Arc<AtomicBool>,
    farewell: Mutex<Receiver<()>>,
}

impl Stub {
    /// Listens at `address` (`HOST:PORT`) and serves one debugger after the other.
    ///
    /// # Errors
    /// An address that can't be listened at, or no thread.
    pub(crate) fn listen(address: &str, control: Arc<Control>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        info!("a debugger can connect: target remote {}", listener.local_addr()?);
        let (inbox, inputs) = sync_channel(INBOX);
        let (goodbye, farewell) = sync_channel(1);
        let attached = Arc::new(AtomicBool::new(false));
        let (sender, flag) = (inbox.clone(), attached.clone());
        let serve = move || {
            while let Ok((stream, peer)) = listener.accept() {
                info!("debugger from {peer}");
                flag.store(true, Ordering::Release);
                if let Err(error) = attend(&stream, &control, &sender, &inputs) {
                    info!("the debugger's session ended: {error}");
                }
                flag.store(false, Ordering::Release);
                let _ = goodbye.try_send(());
            }
        };
        std::thread::Builder::new().name("gdb".into()).spawn(serve)?;
        Ok(Self { inbox, attached, farewell: Mutex::new(farewell) })
    }

    /// Tells the debugger that a vCPU stopped.
    pub(crate) fn stopped(&self, vcpu: u32, stop: DebugStop) {
        // Full only while a client floods its own session.
        let _ = self.inbox.try_send(Input::Stopped { vcpu, stop });
    }

    /// Tells the debugger, if there is one, that the VM has ended.
    pub(crate) fn end(&self) {
        let farewell = lock(&self.farewell);
        while farewell.try_recv().is_ok() {}
        if self.attached.load(Ordering::Acquire) && self.inbox.try_send(Input::Ended).is_ok() {
            let _ = farewell.recv_timeout(FAREWELL);
        }
    }
}

/// The connection as the protocol writes to it: one packet, one write.
struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection for Wire {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.buffer.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Write::write_all(&mut self.stream, &self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

fn read_bytes(mut stream: TcpStream, inbox: &SyncSender<Input>) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if inbox.send(Input::Bytes(buffer[..len].to_vec())).is_err() {
            return;
        }
    }
    let _ = inbox.send(Input::Closed);
}

/// One debugger's session: the VM pauses when it begins, and goes on when it ends without its breakpoints.
fn attend(
    stream: &TcpStream,
    control: &Arc<Control>,
    inbox: &SyncSender<Input>,
    inputs: &Receiver<Input>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    while inputs.try_recv().is_ok() {}
    control.pause();
    let (readable, bytes) = (stream.try_clone()?, inbox.clone());
    let reader = std::thread::Builder::new().name("gdb-in".into()).spawn(move || read_bytes(readable, &bytes))?;
    let mut session = Session { control, inputs, bytes: VecDeque::new() };
    let mut target = Debugged::new(control.clone());
    let wire = Wire { stream: stream.try_clone()?, buffer: vec![] };
    let end = session.run(wire, &mut target);
    target.release();
    // The reading thread ends with the connection; what it still has to say is taken off until then.
    let _ = stream.shutdown(Shutdown::Both);
    while !reader.is_finished() {
        let _ = inputs.recv_timeout(Duration::from_millis(10));
    }
    let _ = reader.join();
    match end {
        Ok(End::Quit) => control.report(Event::Quit),
        Ok(End::VmEnded) => {}
        Ok(End::Detached) => control.resume(),
        Err(error) => {
            control.resume();
            return Err(io::Error::other(error));
        }
    }
    Ok(())
}

enum End {
    /// The debugger left, by its word or without it.
    Detached,
    /// The debugger ended the VM.
    Quit,
    VmEnded,
}

enum Next {
    Byte(u8),
    Closed,
    Stopped(u32, DebugStop),
    Ended,
}

struct Session<'a> {
    control: &'a Control,
    inputs: &'a Receiver<Input>,
    bytes: VecDeque<u8>,
}

impl Session<'_> {
    fn next(&mut self) -> Next {
        loop {
            if let Some(byte) = self.bytes.pop_front() {
                return Next::Byte(byte);
            }
            match self.inputs.recv() {
                Ok(Input::Bytes(bytes)) => self.bytes.extend(bytes),
                Ok(Input::Stopped { vcpu, stop }) => return Next::Stopped(vcpu, stop),
                Ok(Input::Closed) | Err(_) => return Next::Closed,
                Ok(Input::Ended) => return Next::Ended,
            }
        }
    }

    fn run(&mut self, wire: Wire, target: &mut Debugged) -> Result<End, String> {
        let mut gdb = GdbStub::new(wire).run_state_machine(target).map_err(|error| error.to_string())?;
        loop {
            let next = match gdb {
                GdbStubStateMachine::Idle(idle) => match self.next() {
                    Next::Byte(byte) => idle.incoming_data(target, byte),
                    Next::Closed => return Ok(End::Detached),
                    Next::Ended => return Ok(End::VmEnded),
                    Next::Stopped(vcpu, stop) => {
                        target.keep(vcpu, stop);
                        Ok(idle.into())
                    }
                },
                GdbStubStateMachine::Running(running) => {
                    let next = match target.take_kept() {
                        Some((vcpu, stop)) => Next::Stopped(vcpu, stop),
                        None => self.next(),
                    };
                    match next {
                        Next::Byte(byte) => running.incoming_data(target, byte),
                        Next::Closed => return Ok(End::Detached),
                        Next::Ended => {
                            let told = running.report_stop(target, MultiThreadStopReason::Exited(0));
                            return told.map(|_| End::VmEnded).map_err(|error| error.to_string());
                        }
                        Next::Stopped(vcpu, stop) => {
                            self.control.pause();
                            debug!("vCPU {vcpu} stopped for the debugger: {stop:?}");
                            let reason = target.reason(vcpu, stop);
                            running.report_stop(target, reason)
                        }
                    }
                }
                GdbStubStateMachine::CtrlCInterrupt(interrupt) => {
                    self.control.pause();
                    let reason = MultiThreadStopReason::SignalWithThread { tid: thread(0), signal: Signal::SIGINT };
                    interrupt.interrupt_handled(target, Some(reason))
                }
                GdbStubStateMachine::Disconnected(gone) => {
                    return Ok(match gone.get_reason() {
                        DisconnectReason::Kill => End::Quit,
                        DisconnectReason::TargetExited(_) | DisconnectReason::TargetTerminated(_) => End::VmEnded,
                        DisconnectReason::Disconnect => End::Detached,
                    });
                }
            };
            gdb = next.map_err(|error| error.to_string())?;
        }
    }
}
