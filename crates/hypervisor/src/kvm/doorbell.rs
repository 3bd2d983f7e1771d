//! A bell that guest writes ring without the vCPU leaving KVM for long: an ioeventfd at each of some addresses.

use std::sync::{Arc, Mutex};

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::failed;
use crate::{Doorbell, Error};

pub(super) struct KvmDoorbell {
    fd: Arc<VmFd>,
    event: EventFd,
    placed: Mutex<Vec<u64>>,
}

impl KvmDoorbell {
    pub(super) fn new(fd: Arc<VmFd>) -> Result<Self, Error> {
        let event = EventFd::new(0).map_err(|source| Error::Host { operation: "make an event descriptor", source })?;
        Ok(Self { fd, event, placed: Mutex::default() })
    }
}

impl Doorbell for KvmDoorbell {
    fn place(&self, addresses: &[u64]) -> Result<(), Error> {
        let mut placed = self.placed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for address in placed.drain(..) {
            let at = IoEventAddress::Mmio(address);
            self.fd.unregister_ioevent(&self.event, &at, NoDatamatch).map_err(failed("take a doorbell away"))?;
        }
        for &address in addresses {
            let at = IoEventAddress::Mmio(address);
            self.fd.register_ioevent(&self.event, &at, NoDatamatch).map_err(failed("place a doorbell"))?;
            placed.push(address);
        }
        Ok(())
    }

    fn ring(&self) {
        // It fails only where the count is at its end, and then the bell has been rung.
        let _ = self.event.write(1);
    }

    fn wait(&self) -> std::io::Result<()> {
        self.event.read().map(drop)
    }
}
