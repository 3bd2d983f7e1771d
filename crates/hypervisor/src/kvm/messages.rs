//! Message-signalled interrupts by irqfd: each message that a device sends gets an interrupt route and an event of its own
//! when it is first sent, and is a write to that event from then on. Messages beyond a bound go by ioctl.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip, kvm_irq_routing_msi, kvm_msi,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use super::failed;
use crate::Error;

/// The I/O APIC's inputs; global interrupt numbers from here on are messages.
const INPUTS: u32 = 24;
/// A guest that programs ever new messages gets no more events than this.
const MAX_ROUTES: usize = 256;

#[derive(Default)]
struct Routes {
    events: BTreeMap<(u64, u32), EventFd>,
    entries: Vec<kvm_irq_routing_entry>,
}

pub(super) struct Messages {
    fd: Arc<VmFd>,
    routes: Mutex<Routes>,
}

fn input(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

/// The inputs as KVM routes them at first: the old controllers and the I/O APIC side by side.
fn inputs() -> Vec<kvm_irq_routing_entry> {
    let old = (0..16).map(|gsi| {
        let chip = if gsi < 8 { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE };
        input(gsi, chip, gsi % 8)
    });
    old.chain((0..INPUTS).map(|gsi| input(gsi, KVM_IRQCHIP_IOAPIC, gsi))).collect()
}

impl Messages {
    pub(super) fn new(fd: Arc<VmFd>) -> Self {
        Self { fd, routes: Mutex::new(Routes { entries: inputs(), ..Routes::default() }) }
    }

    /// Sends a message.
    pub(super) fn send(&self, address: u64, data: u32) {
        let mut routes = self.routes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !routes.events.contains_key(&(address, data))
            && routes.events.len() < MAX_ROUTES
            && let Err(error) = self.add(&mut routes, address, data)
        {
            tracing::debug!("no route for the message {data:#x} to {address:#x}: {error}");
        }
        let sent = routes.events.get(&(address, data)).is_some_and(|event| event.write(1).is_ok());
        drop(routes);
        if !sent {
            self.send_once(address, data);
        }
    }

    fn add(&self, routes: &mut Routes, address: u64, data: u32) -> Result<(), Error> {
        let gsi = INPUTS + routes.events.len() as u32;
        let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
        entry.u.msi = kvm_irq_routing_msi {
            address_lo: address as u32,
            address_hi: (address >> 32) as u32,
            data,
            ..Default::default()
        };
        routes.entries.push(entry);
        let result = self.register(&routes.entries, gsi);
        match result {
            Ok(event) => {
                routes.events.insert((address, data), event);
                Ok(())
            }
            Err(error) => {
                routes.entries.pop();
                Err(error)
            }
        }
    }

    fn register(&self, entries: &[kvm_irq_routing_entry], gsi: u32) -> Result<EventFd, Error> {
        let table = KvmIrqRouting::from_entries(entries)
            .map_err(|error| Error::Unavailable(format!("too many interrupt routes: {error:?}")))?;
        self.fd.set_gsi_routing(&table).map_err(failed("route an interrupt"))?;
        let event = EventFd::new(0).map_err(|source| Error::Host { operation: "make an event descriptor", source })?;
        self.fd.register_irqfd(&event, gsi).map_err(failed("tie an event to an interrupt"))?;
        Ok(event)
    }

    fn send_once(&self, address: u64, data: u32) {
        let message =
            kvm_msi { address_lo: address as u32, address_hi: (address >> 32) as u32, data, ..kvm_msi::default() };
        if let Err(error) = self.fd.signal_msi(message) {
            tracing::warn!("KVM refused a message {data:#x} to {address:#x}: {error}");
        }
    }
}
