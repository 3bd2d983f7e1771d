//! `vm.toml`: a VM's description as a file. Its keys are the names of `ferro run`'s flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use crate::description::{DescriptionError, DiskDescription, MonitorTarget, NetDescription, VmDescription};

/// The file as written: everything optional, values as text where a flag takes text.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    name: Option<String>,
    memory: Option<String>,
    cpus: Option<u32>,
    accel: Option<String>,
    clock: Option<String>,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    append: Option<String>,
    firmware: Option<PathBuf>,
    boot: Option<String>,
    vga: Option<bool>,
    cdrom: Option<String>,
    #[serde(default)]
    disk: Vec<Disk>,
    #[serde(default)]
    net: Vec<Net>,
    #[serde(default)]
    limits: BTreeMap<String, toml::Value>,
    tablet: Option<bool>,
    audio: Option<String>,
    serial: Option<String>,
    console: Option<String>,
    monitor: Option<OneOrMore>,
    qmp: Option<OneOrMore>,
    vnc: Option<String>,
    gdb: Option<String>,
    insecure: Option<bool>,
    no_reboot: Option<bool>,
    paused: Option<bool>,
    loadvm: Option<String>,
    sandbox: Option<bool>,
    user: Option<String>,
    #[serde(default)]
    allow_path: Vec<PathBuf>,
}

/// A value, or a list of them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

fn monitors(given: Option<OneOrMore>) -> Result<Vec<MonitorTarget>, DescriptionError> {
    let texts = match given {
        None => vec![],
        Some(OneOrMore::One(text)) => vec![text],
        Some(OneOrMore::More(texts)) => texts,
    };
    texts.iter().map(|text| text.parse()).collect()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Disk {
    file: String,
    format: Option<String>,
    #[serde(rename = "if")]
    interface: Option<String>,
    unit: Option<u8>,
    media: Option<String>,
    #[serde(default)]
    readonly: bool,
    #[serde(default)]
    snapshot: bool,
    serial: Option<String>,
    queues: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Net {
    tap: Option<String>,
    segment: Option<String>,
    /// Options of user networking, such as `hostfwd=tcp:127.0.0.1:8080-:80`; empty for none.
    user: Option<String>,
    mac: Option<String>,
    model: Option<String>,
    queues: Option<u16>,
    offload: Option<bool>,
    /// Bits a second in both directions, such as `10M`.
    rate: Option<String>,
    rate_in: Option<String>,
    rate_out: Option<String>,
}

/// Why a `vm.toml` can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
    /// It is no TOML, or has a key that isn't known; the message shows where.
    #[error("{path}: {source}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A value can't be used.
    #[error("{path}: {key} = {source}", path = path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong with the value.
        source: DescriptionError,
    },
}

impl VmDescription {
    /// Reads a `vm.toml`. File names in it are relative to its folder; the VM is named after the file unless it says
    /// otherwise.
    ///
    /// # Errors
    /// A file that can't be read, a key that isn't known, a value that can't be used.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let file: File = toml::from_str(&text)
            .map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        file.describe(path)
    }
}

impl File {
    fn describe(self, path: &Path) -> Result<VmDescription, ConfigError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let refuse = |key| move |source| ConfigError::Value { path: path.to_owned(), key, source };
        let mut vm = VmDescription::default();
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        vm.name = self.name.or(stem).unwrap_or(vm.name);
        set(&mut vm.memory, self.memory).map_err(refuse("memory"))?;
        set(&mut vm.accelerator, self.accel).map_err(refuse("accel"))?;
        set(&mut vm.clock, self.clock).map_err(refuse("clock"))?;
        set(&mut vm.audio, self.audio).map_err(refuse("audio"))?;
        set(&mut vm.serial, self.serial).map_err(refuse("serial"))?;
        set(&mut vm.console, self.console).map_err(refuse("console"))?;
        vm.monitors = monitors(self.monitor).map_err(refuse("monitor"))?;
        vm.qmps = monitors(self.qmp).map_err(refuse("qmp"))?;
        vm.cpus = self.cpus.unwrap_or(vm.cpus);
        vm.kernel = self.kernel.map(|kernel| folder.join(kernel));
        vm.initrd = self.initrd.map(|initrd| folder.join(initrd));
        vm.append = self.append.unwrap_or_default();
        vm.firmware = self.firmware.map(|firmware| folder.join(firmware));
        set(&mut vm.boot, self.boot).map_err(refuse("boot"))?;
        vm.vga = self.vga;
        vm.tablet = self.tablet.unwrap_or_default();
        vm.vnc = self.vnc.map(|vnc| vnc.parse()).transpose().map_err(refuse("vnc"))?;
        if let Some(vnc) = &mut vm.vnc {
            let certificates = vnc.tls.as_mut().map(|tls| &mut tls.dir);
            vnc.password_file.iter_mut().chain(certificates).for_each(|file| *file = folder.join(&*file));
        }
        vm.gdb = self.gdb.map(|gdb| gdb.parse()).transpose().map_err(refuse("gdb"))?;
        vm.insecure = self.insecure.unwrap_or_default();
        vm.no_reboot = self.no_reboot.unwrap_or_default();
        vm.paused = self.paused.unwrap_or_default();
        vm.loadvm = self.loadvm;
        vm.sandbox.on = self.sandbox.unwrap_or(true);
        vm.sandbox.user = self.user;
        vm.sandbox.allow = self.allow_path.iter().map(|path| folder.join(path)).collect();
        for disk in self.disk {
            vm.disks.push(disk.describe(folder).map_err(refuse("disk"))?);
        }
        let in_folder = |file: String| if file == "none" { file } else { in_folder(folder, &file) };
        vm.disks.extend(self.cdrom.map(|file| DiskDescription::cdrom_from_flag(&in_folder(file))));
        for (key, value) in self.limits {
            // Numbers may be written as such.
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            vm.limits.set(&key, &text).map_err(refuse("limits"))?;
        }
        for net in self.net {
            vm.nets.push(net.describe().map_err(refuse("net"))?);
        }
        Ok(vm)
    }
}

fn set<T: FromStr<Err = DescriptionError>>(into: &mut T, text: Option<String>) -> Result<(), DescriptionError> {
    if let Some(text) = text {
        *into = text.parse()?;
    }
    Ok(())
}

/// An image's name as seen from outside the folder. Names with a scheme (nbd://…) are no files of it.
fn in_folder(folder: &Path, file: &str) -> String {
    if file.contains(':') { file.to_owned() } else { folder.join(file).display().to_string() }
}

impl Disk {
    /// By way of the flag's own text, so that both are checked alike.
    fn describe(self, folder: &Path) -> Result<DiskDescription, DescriptionError> {
        let mut text = in_folder(folder, &self.file).replace(',', ",,");
        let options = [
            ("format", self.format),
            ("if", self.interface),
            ("unit", self.unit.map(|unit| unit.to_string())),
            ("media", self.media),
            ("readonly", self.readonly.then(|| "on".into())),
            ("snapshot", self.snapshot.then(|| "on".into())),
            ("serial", self.serial),
            ("queues", self.queues.map(|queues| queues.to_string())),
        ];
        for (key, value) in options {
            if let Some(value) = value {
                text.push_str(&format!(",{key}={}", value.replace(',', ",,")));
            }
        }
        text.parse()
    }
}

impl Net {
    fn describe(self) -> Result<NetDescription, DescriptionError> {
        let mut text = match (self.tap, self.segment, self.user) {
            (Some(tap), None, None) => format!("tap={tap}"),
            (None, Some(segment), None) => format!("segment={segment}"),
            (None, None, Some(options)) if options.is_empty() => "user".into(),
            (None, None, Some(options)) => format!("user,{options}"),
            _ => return crate::description::refuse("", "a network card is plugged into one of tap, segment and user"),
        };
        let offload = self.offload.map(|on| if on { "on" } else { "off" }.to_owned());
        let options = [
            ("mac", self.mac),
            ("model", self.model),
            ("queues", self.queues.map(|queues| queues.to_string())),
            ("offload", offload),
            ("rate", self.rate),
            ("rate-in", self.rate_in),
            ("rate-out", self.rate_out),
        ];
        for (key, value) in options {
            if let Some(value) = value {
                text.push_str(&format!(",{key}={value}"));
            }
        }
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::{Accelerator, MemorySize, NetBackend, SerialTarget};

    fn describe(text: &str) -> Result<VmDescription, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        file.describe(Path::new("/vms/web.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_file_becomes_the_description_that_the_flags_would_give() {
        let vm = describe(
            r#"
            memory = "512M"
            cpus = 2
            accel = "soft"
            kernel = "vmlinuz"
            append = "console=ttyS0"
            serial = "stdio"
            no-reboot = true
            limits = { cpu = "50%", shares = 20, rate = "10M" }
            vnc = ":3,password-file=secret"
            [[disk]]
            file = "root.qcow2"
            readonly = true
            [[disk]]
            file = "nbd://127.0.0.1/x"
            format = "raw"
            [[net]]
            tap = "tap0"
            mac = "52:54:00:12:34:56"
            "#,
        )
        .unwrap();
        assert_eq!((vm.name.as_str(), vm.memory, vm.cpus), ("web", MemorySize(512 << 20), 2));
        assert_eq!((vm.accelerator, vm.serial, vm.no_reboot), (Accelerator::Soft, SerialTarget::Stdio, true));
        assert_eq!((vm.limits.cpu, vm.limits.shares), (Some(50), Some(20)));
        assert_eq!(vm.kernel.as_deref(), Some(Path::new("/vms/vmlinuz")));
        assert_eq!((vm.disks[0].file.as_str(), vm.disks[0].read_only), ("/vms/root.qcow2", true));
        let vnc = vm.vnc.unwrap();
        assert_eq!(vnc.place, crate::VncPlace::Tcp("127.0.0.1:5903".into()));
        assert_eq!(vnc.password_file.as_deref(), Some(Path::new("/vms/secret")));
        assert_eq!(vm.disks[1].file, "nbd://127.0.0.1/x");
        assert_eq!(vm.nets[0].backend, NetBackend::Tap("tap0".into()));
    }

    #[test]
    fn wrong_keys_and_values_are_named() {
        assert!(describe("colour = 3").unwrap_err().contains("colour"));
        let error = describe("memory = \"lots\"").unwrap_err();
        assert!(error.contains("/vms/web.toml") && error.contains("memory") && error.contains("lots"), "{error}");
        assert!(describe("[[net]]\ntap = \"x\"\nmac = \"1\"").unwrap_err().contains("net"));
    }
}
