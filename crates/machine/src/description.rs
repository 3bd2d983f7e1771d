//! The typed description of a VM that every front end (flags, `vm.toml`, the `kvm` command line) produces, and the parsing
//! of its values. Nothing is opened or started here.

mod disk;
mod execution;
mod limit;
mod net;
mod options;
mod place;
mod user_net;

use std::path::PathBuf;

use crate::boot_order::BootOrder;
use crate::sandbox::SandboxDescription;
use crate::sound::AudioTarget;
use crate::vnc::VncTarget;

pub use disk::{DiskDescription, DiskInterface};
pub use execution::{Accelerator, ClockSource, MemorySize};
pub use limit::LimitDescription;
pub use net::{MacAddress, NetBackend, NetDescription, NetOptions, Rate, stable_mac};
pub use place::{GdbAddress, MonitorTarget, SerialTarget};
pub use user_net::{Forward, Transport, UserNet};

pub(crate) use options::{split_options, switch};
use place::is_loopback;

/// A value that can't be used, with what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{value}': {problem}")]
pub struct DescriptionError {
    /// The value as given.
    pub value: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

pub(crate) fn refuse<T>(value: &str, problem: impl Into<String>) -> Result<T, DescriptionError> {
    Err(DescriptionError { value: value.to_owned(), problem: problem.into() })
}

/// Everything about a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmDescription {
    /// Its name, for messages.
    pub name: String,
    /// RAM.
    pub memory: MemorySize,
    /// vCPUs, 1 to 64.
    pub cpus: u32,
    /// What executes its instructions.
    pub accelerator: Accelerator,
    /// What its clock goes by.
    pub clock: ClockSource,
    /// The kernel to boot.
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub append: String,
    /// PC firmware to boot through where there is no kernel; found where distributions put it if not given.
    pub firmware: Option<PathBuf>,
    /// From what firmware boots.
    pub boot: BootOrder,
    /// Whether there is a VGA; if not said, there is one with firmware.
    pub vga: Option<bool>,
    /// Disks and CD-ROM drives, in order.
    pub disks: Vec<DiskDescription>,
    /// Network cards, in order.
    pub nets: Vec<NetDescription>,
    /// How much of the host it may have.
    pub limits: LimitDescription,
    /// Whether there is a tablet (virtio input): a pointer at absolute positions.
    pub tablet: bool,
    /// Where sound goes.
    pub audio: AudioTarget,
    /// The first serial port.
    pub serial: SerialTarget,
    /// The virtio console (`hvc0` in Linux); the board has one only if it leads somewhere.
    pub console: SerialTarget,
    /// Monitors for people.
    pub monitors: Vec<MonitorTarget>,
    /// Monitors for programs (QMP).
    pub qmps: Vec<MonitorTarget>,
    /// Where its screen is shown to VNC viewers.
    pub vnc: Option<VncTarget>,
    /// Where a gdb stub listens.
    pub gdb: Option<GdbAddress>,
    /// Listeners may be reachable from other hosts.
    pub insecure: bool,
    /// A reset ends the VM.
    pub no_reboot: bool,
    /// It waits to be told to begin.
    pub paused: bool,
    /// It goes on where this snapshot of it was made.
    pub loadvm: Option<String>,
    /// What its process may still do when it runs.
    pub sandbox: SandboxDescription,
}

impl Default for VmDescription {
    fn default() -> Self {
        Self {
            name: "vm".into(),
            memory: MemorySize::default(),
            cpus: 1,
            accelerator: Accelerator::default(),
            clock: ClockSource::default(),
            kernel: None,
            initrd: None,
            append: String::new(),
            firmware: None,
            boot: BootOrder::default(),
            vga: None,
            disks: vec![],
            limits: LimitDescription::default(),
            nets: vec![],
            tablet: false,
            audio: AudioTarget::default(),
            serial: SerialTarget::default(),
            console: SerialTarget::default(),
            monitors: vec![],
            qmps: vec![],
            vnc: None,
            gdb: None,
            insecure: false,
            no_reboot: false,
            paused: false,
            loadvm: None,
            sandbox: SandboxDescription::default(),
        }
    }
}

impl VmDescription {
    /// Refuses what only shows when everything is known.
    ///
    /// # Errors
    /// The first contradiction, named by its flag.
    pub fn check(&self) -> Result<(), DescriptionError> {
        if !(1..=64).contains(&self.cpus) {
            return refuse(&self.cpus.to_string(), "a VM has 1 to 64 vCPUs (--cpus)");
        }
        self.limits.check(self.memory)?;
        if self.clock == ClockSource::Icount && self.cpus != 1 {
            return refuse(&self.cpus.to_string(), "--clock icount needs --cpus 1: with more, runs don't repeat");
        }
        if self.clock == ClockSource::Icount && self.accelerator == Accelerator::Kvm {
            return refuse("kvm", "--clock icount counts instructions, which only --accel soft can");
        }
        if let Some(gdb) = self.gdb.as_ref().filter(|gdb| !self.insecure && !gdb.is_loopback()) {
            let problem = "whoever connects there reads and writes the whole guest: let --gdb listen at 127.0.0.1, or \
                           say --insecure";
            return refuse(&gdb.0, problem);
        }
        for (flag, target) in [("--serial", &self.serial), ("--console", &self.console)] {
            if let SerialTarget::Tcp(address) = target
                && !self.insecure
                && !is_loopback(address)
            {
                let problem = format!(
                    "whoever connects there has the console: let {flag} listen at 127.0.0.1, or say --insecure"
                );
                return refuse(address, problem);
            }
        }
        if self.serial == SerialTarget::Stdio && self.console == SerialTarget::Stdio {
            return refuse("stdio", "--serial and --console can't both have the terminal");
        }
        for monitor in self.monitors.iter().chain(&self.qmps) {
            if let MonitorTarget::Tcp(address) = monitor
                && !self.insecure
                && !is_loopback(address)
            {
                let problem =
                    "whoever connects there commands the VM: let the monitor listen at 127.0.0.1, or say --insecure";
                return refuse(address, problem);
            }
        }
        let terminals = self.monitors.iter().filter(|monitor| **monitor == MonitorTarget::Stdio).count();
        if terminals > 1 || self.qmps.contains(&MonitorTarget::Stdio) {
            return refuse("stdio", "one monitor can have the terminal, and a program's (--qmp) is at a socket");
        }
        if self.paused && self.gdb.is_none() && self.monitors.is_empty() && self.qmps.is_empty() {
            let problem = "a VM that waits needs --monitor, --qmp or --gdb: nothing else could let it begin";
            return refuse("--paused", problem);
        }
        if self.kernel.is_none() && (self.initrd.is_some() || !self.append.is_empty()) {
            return refuse("", "--initrd and --append go with --kernel, which is missing");
        }
        if self.kernel.is_none() && self.disks.iter().all(DiskDescription::is_empty) {
            return refuse(
                "",
                "there is nothing to boot: give a kernel (--kernel), a disk (--disk) or a CD-ROM (--cdrom)",
            );
        }
        if let Some(firmware) = self.firmware.as_ref().filter(|_| self.kernel.is_some()) {
            let problem = "a kernel (--kernel) is booted without firmware: leave --firmware away";
            return refuse(&firmware.display().to_string(), problem);
        }
        for net in &self.nets {
            if let NetBackend::User(user) = &net.backend
                && let Some(open) = user.forwards.iter().find(|forward| !forward.host.ip().is_loopback())
                && !self.insecure
            {
                let problem =
                    "whoever connects there reaches the guest: let hostfwd= listen at 127.0.0.1, or say --insecure";
                return refuse(&open.host.to_string(), problem);
            }
        }
        self.check_vnc()?;
        self.sandbox.check()?;
        self.check_units()
    }

    fn check_vnc(&self) -> Result<(), DescriptionError> {
        let Some(vnc) = &self.vnc else { return Ok(()) };
        if !self.has_vga() {
            return refuse("--vnc", "there is no screen to show: leave --vga off away");
        }
        let exposed = vnc.addresses().find(|address| !is_loopback(address));
        if let Some(address) = exposed.filter(|_| vnc.is_open_to_all() && !self.insecure) {
            let problem = "whoever connects there has screen and keyboard: let --vnc listen at 127.0.0.1, give it a \
                           password-file=, or verify-peer=on with certificates, or say --insecure";
            return refuse(address, problem);
        }
        Ok(())
    }

    /// Whether the VM has a VGA.
    pub fn has_vga(&self) -> bool {
        self.vga.unwrap_or(self.kernel.is_none() || self.vnc.is_some())
    }

    fn check_units(&self) -> Result<(), DescriptionError> {
        let on_ide = self.disks.iter().filter(|disk| disk.interface == DiskInterface::Ide);
        let mut taken = [false; 4];
        for (index, disk) in on_ide.enumerate() {
            if index == taken.len() {
                return refuse(&disk.file, "IDE has room for four disks and CD-ROM drives: say if=virtio");
            }
            let Some(unit) = disk.unit else { continue };
            if std::mem::replace(&mut taken[usize::from(unit) % 4], true) {
                return refuse(&disk.file, format!("IDE unit {unit} is taken twice"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_sizes_have_suffixes_and_limits() {
        assert_eq!("512M".parse(), Ok(MemorySize(512 << 20)));
        assert_eq!("2g".parse(), Ok(MemorySize(2 << 30)));
        assert_eq!("256".parse(), Ok(MemorySize(256 << 20)));
        for wrong in ["", "M", "12X", "0", "1K", "99999999999G", "-1", "1.5G"] {
            assert!(wrong.parse::<MemorySize>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn disks_take_options_and_commas() {
        let disk: DiskDescription = "a,,b.qcow2,format=qcow2,readonly=on,serial=x1".parse().unwrap();
        assert_eq!((disk.file.as_str(), disk.format.as_deref(), disk.read_only), ("a,b.qcow2", Some("qcow2"), true));
        for wrong in ["", "f,if=scsi", "f,readonly", "f,readonly=maybe", "f,colour=red", "f,queues=0"] {
            assert!(wrong.parse::<DiskDescription>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_and_cards_are_checked() {
        assert_eq!("12:34:56:78:9a:bc".parse(), Ok(MacAddress([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc])));
        for wrong in ["", "12:34", "11:22:33:44:55:66", "12:34:56:78:9a:bc:de", "1:2:3:4:5:zz"] {
            assert!(wrong.parse::<MacAddress>().is_err(), "{wrong}");
        }
        let card: NetDescription = "tap=tap0,mac=52:54:00:12:34:56".parse().unwrap();
        assert_eq!(card.backend, NetBackend::Tap("tap0".into()));
        assert!("mac=52:54:00:12:34:56".parse::<NetDescription>().is_err());
        assert!("tap=an-interface-name-too-long".parse::<NetDescription>().is_err());
    }

    #[test]
    fn serial_targets_have_both_spellings() {
        assert_eq!("file:out.log".parse(), Ok(SerialTarget::File("out.log".into())));
        assert_eq!("tcp::4444".parse(), Ok(SerialTarget::Tcp("127.0.0.1:4444".into())));
        assert_eq!("unix=/run/x,server".parse(), Ok(SerialTarget::Unix("/run/x".into())));
        assert!("pty".parse::<SerialTarget>().is_err());
    }

    #[test]
    fn contradictions_are_found() {
        let good = VmDescription { kernel: Some("k".into()), ..VmDescription::default() };
        assert_eq!(good.check(), Ok(()));
        assert!(VmDescription::default().check().is_err());
        assert!(VmDescription { cpus: 0, ..good.clone() }.check().is_err());
        assert!(VmDescription { clock: ClockSource::Icount, cpus: 2, ..good.clone() }.check().is_err());
        assert!(VmDescription { paused: true, ..good }.check().is_err());
    }

    #[test]
    fn a_debugger_from_afar_has_to_be_asked_for() {
        let with = |gdb: &str, insecure| {
            let gdb = Some(gdb.parse().unwrap());
            VmDescription { kernel: Some("k".into()), gdb, insecure, ..VmDescription::default() }.check()
        };
        for loopback in ["tcp::1234", "tcp:127.0.0.1:1", "tcp:localhost:1,server,nowait", "tcp:[::1]:1234"] {
            assert_eq!(with(loopback, false), Ok(()), "{loopback}");
        }
        assert!(with("tcp:0.0.0.0:1234", false).unwrap_err().to_string().contains("--insecure"));
        assert_eq!(with("tcp:0.0.0.0:1234", true), Ok(()));
        for wrong in ["1234", "tcp:1234", "udp::1234", "tcp:host:port", "tcp::99999"] {
            assert!(wrong.parse::<GdbAddress>().is_err(), "{wrong}");
        }
    }
}
