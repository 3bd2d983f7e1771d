//! Threads that do the work of devices where a vCPU would lose time with it: one per disk and network card, woken by the
//! doorbells that the guest's driver rings.

use std::sync::Arc;

use ferro_devices::pci::{PciBus, SharedFunction};
use ferro_hypervisor::{Doorbell, Error, Vm};
use tracing::{debug, warn};

use crate::bus::lock;
use crate::control::Control;

/// A device with a thread of its own.
pub(crate) struct Served {
    function: SharedFunction,
    doorbell: Arc<dyn Doorbell>,
}

/// Gives the functions with these numbers doorbells; none where the accelerator has none to give, and the vCPUs then do
/// the devices' work themselves.
///
/// # Errors
/// The host's refusal.
pub(crate) fn attach(vm: &Arc<dyn Vm>, pci: &PciBus, numbers: &[u8]) -> Result<Vec<Served>, Error> {
    let mut served = vec![];
    for &number in numbers {
        let Some((_, function)) = pci.functions().iter().find(|(at, _)| *at == number) else { continue };
        let Some(doorbell) = vm.doorbell()? else { return Ok(vec![]) };
        let bell = doorbell.clone();
        let place = move |addresses: &[u64]| {
            // Where it can't be, the guest's writes reach the device by the bus.
            if let Err(error) = bell.place(addresses) {
                debug!("no doorbell at {addresses:x?}: {error}");
            }
        };
        pci.listen_to_doorbells(number, Box::new(place));
        served.push(Served { function: function.clone(), doorbell });
    }
    Ok(served)
}

impl Served {
    /// Works until the VM ends: the thread's whole life.
    pub(crate) fn work(&self, control: &Control) {
        loop {
            if let Err(error) = self.doorbell.wait() {
                warn!("a device's thread can't wait for work: {error}");
                return;
            }
            if control.while_running(|| lock(&self.function).ring()).is_none() {
                return;
            }
        }
    }

    /// Wakes the thread, so that it sees that the VM has ended.
    pub(crate) fn wake(&self) {
        self.doorbell.ring();
    }
}
