//! A card plugged into a TAP interface of the host. One thread per card brings frames in.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use ferro_devices::virtio::{FrameSink, Net, VirtioPci};

use crate::bus::{Shared, lock};
use crate::control::Control;

/// The longest frame that comes from the host.
const MAX_FRAME: usize = 65_550;

/// The card's end of a TAP interface.
pub(super) struct TapSink(pub(super) File);

impl FrameSink for TapSink {
    fn send(&mut self, frame: &[u8]) {
        // A full queue or an interface that is down loses the frame, as a switch would.
        let _ = self.0.write(frame);
    }
}

/// Brings frames from the TAP interface to the card until the interface goes away or the VM ends.
///
/// # Errors
/// A thread that can't be started.
pub(super) fn receive(mut tap: File, card: Shared<VirtioPci<Net>>, control: Arc<Control>) -> io::Result<()> {
    let work = move || {
        let mut frame = vec![0; MAX_FRAME];
        while let Ok(len) = tap.read(&mut frame) {
            // A guest without a buffer loses the frame.
            let taken = control.while_running(|| {
                lock(&card).act(|device, queues, memory| device.receive(&frame[..len], queues, memory));
            });
            if taken.is_none() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("net-in".into()).spawn(work).map(drop)
}
