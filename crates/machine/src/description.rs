//! The typed description of a VM that every front end (flags, `vm.toml`, the `kvm` command line) produces, and the parsing
//! of its values. Nothing is opened or started here.

use std::path::PathBuf;
use std::str::FromStr;

use crate::boot_order::BootOrder;
use crate::sound::AudioTarget;
use crate::vnc::{VncPlace, VncTarget};

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

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accelerator {
    /// KVM where it works, the software CPU elsewhere.
    #[default]
    Auto,
    /// Linux's KVM.
    Kvm,
    /// The software CPU.
    Soft,
}

impl FromStr for Accelerator {
    type Err = DescriptionError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        match value {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "soft" | "tcg" => Ok(Self::Soft),
            _ => refuse(value, "an accelerator is auto, kvm or soft"),
        }
    }
}

/// What the VM's clock goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClockSource {
    /// The host's time.
    #[default]
    Host,
    /// The instructions executed: runs repeat exactly. One vCPU, the software CPU.
    Icount,
}

impl FromStr for ClockSource {
    type Err = DescriptionError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        match value {
            "host" => Ok(Self::Host),
            "icount" => Ok(Self::Icount),
            _ => refuse(value, "a clock is host or icount"),
        }
    }
}

/// An amount of memory in bytes: at least 1 MiB, in whole mebibytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySize(pub u64);

impl Default for MemorySize {
    fn default() -> Self {
        Self(128 << 20)
    }
}

impl FromStr for MemorySize {
    type Err = DescriptionError;

    /// A number with a suffix K, M, G or T; without one it's mebibytes.
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match value[digits.len()..].to_ascii_uppercase().as_str() {
            "" | "M" | "MB" | "MIB" => 20,
            "K" | "KB" | "KIB" => 10,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            _ => return refuse(value, "memory is a number with a suffix M or G, such as 512M"),
        };
        let Ok(number) = digits.parse::<u64>() else {
            return refuse(value, "memory is a number with a suffix M or G, such as 512M");
        };
        match number.checked_shl(shift).filter(|bytes| bytes >> shift == number) {
            Some(bytes) if (1 << 20..=1 << 40).contains(&bytes) && bytes % (1 << 20) == 0 => Ok(Self(bytes)),
            _ => refuse(value, "memory goes from 1M to 1T, in whole mebibytes"),
        }
    }
}

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskInterface {
    /// A virtio block device.
    #[default]
    Virtio,
    /// An IDE disk.
    Ide,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskDescription {
    /// The image: a file name, or anything that `ferro img` takes as one.
    pub file: String,
    /// The image's format; found out if not given.
    pub format: Option<String>,
    /// How it is attached; a CD-ROM drive is always on IDE.
    pub interface: DiskInterface,
    /// It is a CD-ROM drive, with this in it.
    pub cdrom: bool,
    /// Which of the four IDE units it is (0 to 3: primary master and slave, secondary master and slave); the first free
    /// one if not given, for a CD-ROM from the secondary master on.
    pub unit: Option<u8>,
    /// Writes fail.
    pub read_only: bool,
    /// Writes are thrown away at the end.
    pub snapshot: bool,
    /// The serial number that the guest sees.
    pub serial: Option<String>,
    /// Request queues (virtio), 1 to 16.
    pub queues: u16,
}

/// Splits `first,key=value,…`; a doubled comma stands for one in a value.
pub(crate) fn split_options(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != ',' {
            parts.last_mut().expect("never empty").push(c);
        } else if chars.next_if_eq(&',').is_some() {
            parts.last_mut().expect("never empty").push(',');
        } else {
            parts.push(String::new());
        }
    }
    parts
}

pub(crate) fn switch(value: &str) -> Result<bool, DescriptionError> {
    match value {
        "on" | "yes" | "true" => Ok(true),
        "off" | "no" | "false" => Ok(false),
        _ => refuse(value, "this is on or off"),
    }
}

impl DiskDescription {
    /// A virtio disk on an image.
    fn new(file: String) -> Self {
        Self {
            file,
            format: None,
            interface: DiskInterface::default(),
            cdrom: false,
            unit: None,
            read_only: false,
            snapshot: false,
            serial: None,
            queues: 1,
        }
    }

    /// A CD-ROM drive with an image of a disc in it.
    pub fn cdrom(file: String) -> Self {
        let format = Some("raw".into());
        Self { format, cdrom: true, read_only: true, interface: DiskInterface::Ide, ..Self::new(file) }
    }
}

impl FromStr for DiskDescription {
    type Err = DescriptionError;

    /// `FILE[,format=F][,if=virtio|ide][,unit=N][,media=cdrom][,readonly=on][,snapshot=on][,serial=S][,queues=N]`
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = split_options(text).into_iter();
        let first = parts.next().unwrap_or_default();
        let file = first.strip_prefix("file=").unwrap_or(&first).to_owned();
        if file.is_empty() {
            return refuse(text, "a disk begins with its image: FILE[,format=…][,if=…][,readonly=on]");
        }
        let mut disk = Self::new(file);
        for part in parts {
            let Some((key, value)) = part.split_once('=') else {
                return refuse(&part, "a disk's options are KEY=VALUE; a comma in a file name is written ,,");
            };
            match key {
                "format" => disk.format = Some(value.to_owned()),
                "if" if value == "virtio" => disk.interface = DiskInterface::Virtio,
                "if" if value == "ide" => disk.interface = DiskInterface::Ide,
                "if" => return refuse(value, "a disk's interface is virtio or ide"),
                "unit" => match value.parse() {
                    Ok(unit @ 0..=3) => disk.unit = Some(unit),
                    _ => return refuse(value, "an IDE unit is 0 to 3"),
                },
                "media" if value == "disk" => {}
                "media" if value == "cdrom" => {
                    disk = Self { unit: disk.unit, ..Self::cdrom(disk.file) };
                }
                "media" => return refuse(value, "a medium is disk or cdrom"),
                "readonly" | "read-only" => disk.read_only = switch(value)?,
                "snapshot" => disk.snapshot = switch(value)?,
                "serial" if value.len() <= 20 => disk.serial = Some(value.to_owned()),
                "serial" => return refuse(value, "a serial number has at most 20 bytes"),
                "queues" => {
                    disk.queues = match value.parse() {
                        Ok(queues @ 1..=16) => queues,
                        _ => return refuse(value, "a disk has 1 to 16 queues"),
                    };
                }
                _ => {
                    return refuse(
                        key,
                        "a disk's options are format, if, unit, media, readonly, snapshot, serial and queues",
                    );
                }
            }
        }
        Ok(disk)
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

impl std::fmt::Display for MacAddress {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = DescriptionError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = value.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len()));
            let Some(Ok(parsed)) = part.map(|part| u8::from_str_radix(part, 16)) else {
                return refuse(value, "an Ethernet address is six bytes in hexadecimal, such as 52:54:00:12:34:56");
            };
            *byte = parsed;
        }
        if parts.next().is_some() {
            return refuse(value, "an Ethernet address has six bytes, this has more");
        }
        if bytes[0] & 1 != 0 {
            return refuse(value, "this is a multicast address: the first byte of a card's address is even");
        }
        Ok(Self(bytes))
    }
}

/// What a network card is plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetBackend {
    /// A TAP interface of the host, by name.
    Tap(String),
}

/// One network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDescription {
    /// What it is plugged into.
    pub backend: NetBackend,
    /// Its address; one is made up if not given.
    pub mac: Option<MacAddress>,
}

impl FromStr for NetDescription {
    type Err = DescriptionError;

    /// `tap=NAME[,mac=A][,model=virtio]`
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut backend, mut mac) = (None, None);
        for part in split_options(text) {
            match part.split_once('=') {
                // As long as the kernel takes.
                Some(("tap", name)) if (1..=15).contains(&name.len()) && !name.contains('/') => {
                    backend = Some(NetBackend::Tap(name.to_owned()));
                }
                Some(("tap", name)) => return refuse(name, "an interface's name has 1 to 15 bytes without a slash"),
                Some(("mac", address)) => mac = Some(address.parse()?),
                Some(("model", "virtio")) => {}
                Some(("model", model)) => return refuse(model, "a network card's model is virtio"),
                _ => return refuse(&part, "a network card is tap=NAME[,mac=…][,model=virtio]"),
            }
        }
        match backend {
            Some(backend) => Ok(Self { backend, mac }),
            None => refuse(text, "a network card needs something to be plugged into: tap=NAME"),
        }
    }
}

/// Where the serial port or the virtio console leads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SerialTarget {
    /// Nowhere.
    #[default]
    None,
    /// The terminal.
    Stdio,
    /// A file that takes the output.
    File(PathBuf),
    /// A unix socket that one client at a time connects to.
    Unix(PathBuf),
    /// A TCP socket, likewise.
    Tcp(String),
}

impl FromStr for SerialTarget {
    type Err = DescriptionError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let (kind, rest) = value.split_once(['=', ':']).unwrap_or((value, ""));
        match (kind, rest) {
            ("none" | "null", "") => Ok(Self::None),
            ("stdio", "") => Ok(Self::Stdio),
            ("file", path) if !path.is_empty() => Ok(Self::File(path.into())),
            ("unix", path) if !path.is_empty() => Ok(Self::Unix(path.split(',').next().unwrap_or(path).into())),
            ("tcp", address) if address.contains(':') => {
                let address = address.split(',').next().unwrap_or(address);
                let address = if address.starts_with(':') { format!("127.0.0.1{address}") } else { address.to_owned() };
                Ok(Self::Tcp(address))
            }
            _ => refuse(value, "it leads to stdio, none, file=F, unix=PATH or tcp=HOST:PORT"),
        }
    }
}

/// Where a monitor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MonitorTarget {
    /// The process's standard input and output; together with a serial port there, Ctrl-A c changes between the two.
    Stdio,
    /// A unix socket, which only its owner may open.
    Unix(PathBuf),
    /// A TCP listener at `HOST:PORT`.
    Tcp(String),
}

impl FromStr for MonitorTarget {
    type Err = DescriptionError;

    /// `stdio`, `unix:PATH`, `tcp:HOST:PORT`; without a host it is the loopback address. QEMU's options after it (`,server`,
    /// `,nowait`) say nothing new.
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let (place, _) = value.split_once(',').unwrap_or((value, ""));
        let (kind, rest) = place.split_once([':', '=']).unwrap_or((place, ""));
        match (kind, rest.rsplit_once(':')) {
            ("stdio", None) if rest.is_empty() => Ok(Self::Stdio),
            ("unix", _) if !rest.is_empty() => Ok(Self::Unix(rest.into())),
            ("tcp" | "telnet", Some((host, port))) if port.parse::<u16>().is_ok() => {
                let host = if host.is_empty() { "127.0.0.1" } else { host };
                Ok(Self::Tcp(format!("{host}:{port}")))
            }
            _ => refuse(value, "a monitor is at stdio, unix:PATH or tcp:HOST:PORT"),
        }
    }
}

/// Where a gdb stub listens: `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GdbAddress(pub String);

impl GdbAddress {
    /// Whether only this host reaches it.
    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.0)
    }
}

/// Whether only this host reaches a listener at `HOST:PORT`.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl FromStr for GdbAddress {
    type Err = DescriptionError;

    /// `tcp:HOST:PORT`; without a host it is the loopback address. QEMU's options after it (`,server`) say nothing new.
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let address = value.split(',').next().and_then(|text| text.strip_prefix("tcp:"));
        match address.and_then(|address| address.rsplit_once(':')) {
            Some(("", port)) if port.parse::<u16>().is_ok() => Ok(Self(format!("127.0.0.1:{port}"))),
            Some((host, port)) if port.parse::<u16>().is_ok() => Ok(Self(format!("{host}:{port}"))),
            _ => refuse(value, "a debugger connects to tcp:HOST:PORT, such as tcp:127.0.0.1:1234"),
        }
    }
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
            nets: vec![],
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
        if self.kernel.is_none() && self.disks.is_empty() {
            return refuse(
                "",
                "there is nothing to boot: give a kernel (--kernel), a disk (--disk) or a CD-ROM (--cdrom)",
            );
        }
        if let Some(firmware) = self.firmware.as_ref().filter(|_| self.kernel.is_some()) {
            let problem = "a kernel (--kernel) is booted without firmware: leave --firmware away";
            return refuse(&firmware.display().to_string(), problem);
        }
        self.check_vnc()?;
        self.check_units()
    }

    fn check_vnc(&self) -> Result<(), DescriptionError> {
        let Some(vnc) = &self.vnc else { return Ok(()) };
        if !self.has_vga() {
            return refuse("--vnc", "there is no screen to show: leave --vga off away");
        }
        if let VncPlace::Tcp(address) = &vnc.place
            && !vnc.has_password()
            && !self.insecure
            && !is_loopback(address)
        {
            let problem = "whoever connects there has screen and keyboard: let --vnc listen at 127.0.0.1, give it a \
                           password-file=, or say --insecure";
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
