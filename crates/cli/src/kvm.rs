//! `ferro kvm`: QEMU's command line, as people type it at `kvm` or `qemu-system-x86_64`, turned into a VM's description.
//! A flag that Ferro doesn't have is refused by its name, never skipped. Nothing is started here.

mod nets;
mod vnc;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use ferro_machine::{
    AudioTarget, DiskDescription, DiskInterface, GdbAddress, MonitorTarget, SerialTarget, VmDescription,
};

use crate::background::Background;
use crate::{exit, run};
use nets::Nets;

/// Run a virtual machine, described by QEMU's flags.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP, disable_help_flag = true)]
pub(crate) struct KvmArgs {
    /// QEMU's flags; a lone file name is a disk
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAG")]
    flags: Vec<String>,
}

const HELP: &str = "\
Flags (one or two dashes): -hda -hdb -hdc -hdd FILE, -cdrom FILE, -drive file=F[,if=virtio|ide][,index=N][,media=cdrom]
[,format=F][,readonly=on][,snapshot=on], -boot dc[,menu=on], -bios F, -vga std|none, -m SIZE, -smp N, -kernel F, -initrd F, -append TEXT, -serial WHERE, -virtioconsole WHERE, -monitor WHERE, -qmp WHERE, -nographic, -vnc [HOST]:DISPLAY[,password=on][,websocket=PORT][,tls-creds=I], -object tls-creds-x509,id=I,dir=D,endpoint=server[,verify-peer=off], -display none, -net nic[,macaddr=A],
-net user[,hostfwd=tcp:[HOST]:PORT-[GUEST]:PORT][,restrict=on], -net tap,ifname=N,script=no, -net none,
-netdev user|tap,id=I,…[,vnet_hdr=on|off][,queues=N] -device virtio-net-pci,netdev=I[,mac=A][,mq=on], -device virtio-tablet-pci, -usbdevice tablet, -snapshot,
-no-reboot, -loadvm NAME, -S, -s, -gdb tcp::PORT, -enable-kvm, -accel kvm|tcg, -M pc, -cpu host, -name N, -daemonize, -pidfile F, -nodefaults, -nic user|tap,…,
-soundhw ac97, -device AC97, -audiodev none|wav,id=I,path=F, -sandbox on|off, -runas USER";

/// What QEMU has and Ferro's board or front end doesn't, and what to do instead.
const REFUSED: &[(&[&str], &str)] = &[
    (&["spice", "sdl", "full-screen"], "the screen is shown over VNC: say -vnc :0, and connect a viewer"),
    (&["mon", "chardev"], "say where the monitor is with -monitor or -qmp"),
    (&["option-rom"], "the board has its option ROM: leave it away"),
    (&["incoming"], "a running VM can't be taken over yet: save it (savevm) and say -loadvm NAME"),
    (&["usb"], "there is no USB: -usbdevice tablet gives a virtio tablet, and needs no -usb"),
    (&["fda", "fdb"], "there is no floppy drive: give the image as a disk, -hda F"),
];

impl KvmArgs {
    /// Runs the VM to its end.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if matches!(self.flags.first().map(String::as_str), Some("-h" | "-help" | "--help")) {
            println!("Usage: ferro kvm [FLAG]...\n\n{HELP}");
            return Ok(ExitCode::from(exit::OK));
        }
        let (vm, background) = exit::with_code(exit::USAGE, describe(self.flags))?;
        run::run_description(&vm, &background, Path::new(run::SEGMENTS))
    }
}

#[derive(Default)]
struct Reader {
    vm: VmDescription,
    nets: Nets,
    drives: Vec<DiskDescription>,
    /// `-hda` to `-hdd`, which come before other disks.
    letters: [Option<DiskDescription>; 4],
    snapshot: bool,
    serial_given: bool,
    monitor_given: bool,
    background: Background,
    nographic: bool,
    vnc: vnc::Vnc,
}

/// The description that the flags stand for.
pub(crate) fn describe(flags: Vec<String>) -> anyhow::Result<(VmDescription, Background)> {
    let mut reader = Reader { vm: run::alone(), ..Reader::default() };
    let mut flags = flags.into_iter();
    while let Some(given) = flags.next() {
        let Some(name) = given.strip_prefix('-').map(|name| name.strip_prefix('-').unwrap_or(name)) else {
            reader.drive(0, &given).with_context(|| format!("the disk {given}"))?;
            continue;
        };
        if let Some((_, instead)) = REFUSED.iter().find(|(names, _)| names.contains(&name)) {
            bail!("-{name}: {instead}");
        }
        if reader.switch(name) {
            continue;
        }
        if !VALUED.contains(&name) {
            bail!("-{name}: Ferro doesn't know this flag; `ferro kvm -help` lists those it does");
        }
        let value = flags.next().ok_or_else(|| anyhow!("-{name}: a value has to follow"))?;
        reader.valued(name, &value).with_context(|| format!("-{name} {value}"))?;
    }
    reader.finish()
}

/// Flags that a value follows.
const VALUED: &[&str] = &[
    "monitor",
    "pidfile",
    "loadvm",
    "qmp",
    "hda",
    "hdb",
    "hdc",
    "hdd",
    "drive",
    "m",
    "smp",
    "kernel",
    "initrd",
    "append",
    "serial",
    "virtioconsole",
    "net",
    "nic",
    "netdev",
    "device",
    "usbdevice",
    "gdb",
    "accel",
    "name",
    "M",
    "machine",
    "cpu",
    "display",
    "parallel",
    "cdrom",
    "boot",
    "bios",
    "vga",
    "vnc",
    "sandbox",
    "runas",
    "run-with",
    "object",
    "soundhw",
    "audiodev",
    "audio",
];

impl Reader {
    /// Takes a flag without a value, if it is one.
    fn switch(&mut self, name: &str) -> bool {
        match name {
            "nographic" => self.nographic = true,
            "snapshot" => self.snapshot = true,
            "daemonize" => self.background.daemonize = true,
            "no-reboot" => self.vm.no_reboot = true,
            "S" => self.vm.paused = true,
            "s" => self.vm.gdb = Some(GdbAddress("127.0.0.1:1234".into())),
            "enable-kvm" => self.vm.accelerator = ferro_machine::Accelerator::Kvm,
            // What it leaves away isn't on the board in the first place.
            "nodefaults" => {}
            _ => return false,
        }
        true
    }

    fn valued(&mut self, name: &str, value: &str) -> anyhow::Result<()> {
        match name {
            "hda" | "hdb" | "hdc" | "hdd" => {
                let letter = usize::from(name.as_bytes()[2] - b'a');
                return self.drive(letter, value);
            }
            "cdrom" => self.drives.push(DiskDescription { unit: Some(2), ..DiskDescription::cdrom(value.to_owned()) }),
            "drive" => self.drives.push(drive(value)?),
            "boot" => self.vm.boot = value.parse()?,
            "bios" => self.vm.firmware = Some(value.into()),
            "vga" if value == "std" => self.vm.vga = Some(true),
            "vga" if value == "none" => self.vm.vga = Some(false),
            "vga" => bail!("there is one kind of VGA: say std or none"),
            "m" => self.vm.memory = value.split(',').next().unwrap_or(value).trim_start_matches("size=").parse()?,
            "smp" => self.vm.cpus = cpus(value)?,
            "kernel" => self.vm.kernel = Some(value.into()),
            "initrd" => self.vm.initrd = Some(value.into()),
            "append" => value.clone_into(&mut self.vm.append),
            "serial" => return self.serial(value),
            "monitor" | "qmp" if value == "none" => self.monitor_given = true,
            "monitor" => {
                self.monitor_given = true;
                self.vm.monitors.push(value.parse()?);
            }
            "qmp" => self.vm.qmps.push(value.parse()?),
            "pidfile" => self.background.pidfile = Some(value.into()),
            "loadvm" => self.vm.loadvm = Some(value.to_owned()),
            "virtioconsole" => self.vm.console = value.parse()?,
            "net" => return self.nets.net(value),
            "nic" => return self.nets.nic(value),
            "netdev" => return self.nets.netdev(value),
            "device" => return self.device(value),
            "usbdevice" if value == "tablet" => self.vm.tablet = true,
            "usbdevice" => bail!("there is no USB: say tablet, which gives a virtio tablet"),
            "gdb" => self.vm.gdb = Some(value.parse()?),
            "accel" => self.accelerator(value)?,
            "name" => {
                value.split(',').next().unwrap_or(value).trim_start_matches("guest=").clone_into(&mut self.vm.name);
            }
            "M" | "machine" => return self.machine(value),
            "cpu" if matches!(value, "host" | "max" | "qemu64" | "kvm64") => {}
            "cpu" => bail!("there is one kind of CPU: leave the flag away, or say host"),
            "sandbox" => self.vm.sandbox.on = sandbox(value)?,
            "runas" => self.vm.sandbox.user = Some(value.to_owned()),
            "run-with" => match value.strip_prefix("user=") {
                Some(user) => self.vm.sandbox.user = Some(user.to_owned()),
                None => bail!("only user=NAME can be given"),
            },
            "soundhw" => return self.sound_card(value),
            "audiodev" | "audio" => self.vm.audio = audio(value)?,
            "vnc" => return self.vnc.set(value),
            "object" => return self.vnc.object(value),
            "display" | "parallel" if value == "none" => {}
            "display" => match value.strip_prefix("vnc=") {
                Some(place) => return self.vnc.set(place),
                None => bail!("the screen is shown over VNC: say none, or vnc=:0"),
            },
            _ => bail!("there is no such port: say none"),
        }
        Ok(())
    }

    fn drive(&mut self, letter: usize, file: &str) -> anyhow::Result<()> {
        // By the letter's name it is an IDE disk, as on QEMU's PC.
        let disk: DiskDescription = file.replace(',', ",,").parse()?;
        self.letters[letter] =
            Some(DiskDescription { interface: DiskInterface::Ide, unit: Some(letter as u8), ..disk });
        Ok(())
    }

    fn serial(&mut self, value: &str) -> anyhow::Result<()> {
        if std::mem::replace(&mut self.serial_given, true) {
            bail!("there is one serial port");
        }
        if value == "mon:stdio" {
            self.vm.monitors.push(MonitorTarget::Stdio);
            self.monitor_given = true;
        }
        self.vm.serial = value.strip_prefix("mon:").unwrap_or(value).parse()?;
        Ok(())
    }

    fn device(&mut self, value: &str) -> anyhow::Result<()> {
        let (kind, options) = nets::options(value);
        match kind {
            "virtio-net-pci" | "virtio-net" => self.nets.card(&options),
            "AC97" | "ac97" => self.sound_card("ac97"),
            "virtio-tablet-pci" | "virtio-tablet" => self.tablet(&options),
            // Every VM has both.
            "virtio-rng-pci" | "virtio-balloon-pci" | "virtio-balloon" => Ok(()),
            _ => bail!(
                "{kind}: the devices that can be added are virtio-net-pci and virtio-tablet-pci, and disks by -drive"
            ),
        }
    }

    fn tablet(&mut self, options: &[(&str, &str)]) -> anyhow::Result<()> {
        if let Some((key, _)) = options.iter().find(|(key, _)| *key != "id") {
            bail!("{key}: of a tablet's options only id can be given");
        }
        if std::mem::replace(&mut self.vm.tablet, true) {
            bail!("there is one tablet");
        }
        Ok(())
    }

    fn sound_card(&mut self, kind: &str) -> anyhow::Result<()> {
        match kind {
            // The board has its speaker anyway.
            "pcspk" => {}
            "ac97" | "all" if self.vm.audio == AudioTarget::None => self.vm.audio = AudioTarget::Null,
            "ac97" | "all" => {}
            _ => bail!("{kind}: the sound card is ac97"),
        }
        Ok(())
    }

    fn accelerator(&mut self, value: &str) -> anyhow::Result<()> {
        self.vm.accelerator = value.split(',').next().unwrap_or(value).parse()?;
        Ok(())
    }

    /// `pc,accel=kvm` and the like: there is one board.
    fn machine(&mut self, value: &str) -> anyhow::Result<()> {
        for part in value.split(',') {
            match part.split_once('=').unwrap_or(("type", part)) {
                ("type", "pc") => {}
                ("type", kind) if kind.starts_with("pc-i440fx") => {}
                ("type", _) => bail!("Ferro's one board is pc"),
                ("accel", accelerators) => {
                    self.accelerator(accelerators.split(':').next().unwrap_or(accelerators))?;
                }
                _ => bail!("of a machine's options only accel can be given"),
            }
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<(VmDescription, Background)> {
        if self.nographic && !self.serial_given {
            self.vm.serial = SerialTarget::Stdio;
            // As in QEMU, the monitor is behind Ctrl-A c.
            if !self.monitor_given {
                self.vm.monitors.push(MonitorTarget::Stdio);
            }
        }
        self.vm.disks = self.letters.into_iter().flatten().chain(self.drives).collect();
        for disk in &mut self.vm.disks {
            disk.snapshot |= self.snapshot;
        }
        self.vm.nets = self.nets.join()?;
        self.vm.vnc = self.vnc.finish()?;
        // Said here, in this command line's words.
        if self.vm.kernel.is_none() && self.vm.disks.iter().all(DiskDescription::is_empty) {
            bail!("there is nothing to boot: give a disk (-hda), a CD-ROM (-cdrom) or a kernel (-kernel)");
        }
        if self.vm.paused && self.vm.gdb.is_none() && self.vm.monitors.is_empty() && self.vm.qmps.is_empty() {
            bail!("-S needs -monitor, -qmp, -s or -gdb: nothing else could let the VM begin");
        }
        Ok((self.vm, self.background))
    }
}

/// `-drive`'s options, of which those that tune QEMU's caching mean nothing here. Without `if=` it is an IDE disk.
fn drive(value: &str) -> anyhow::Result<DiskDescription> {
    let (mut file, mut rest, mut interface) = (None, String::new(), "ide");
    let mut index = None;
    // A doubled comma stands for one in a name.
    for part in value.replace(",,", "\0").split(',') {
        match part.split_once('=') {
            Some(("file", name)) => file = Some(name.to_owned()),
            Some(("if", "ide" | "none")) => {}
            Some(("if", "virtio")) => interface = "virtio",
            Some(("if", _)) => bail!("{part}: disks are on IDE or virtio: say if=ide or if=virtio"),
            Some(("index", number)) => index = Some(number.to_owned()),
            Some(("media", "disk") | ("id" | "aio" | "discard", _)) => {}
            Some(("media", "cdrom")) => rest.insert_str(0, ",media=cdrom"),
            Some(("media", _)) => bail!("{part}: a medium is disk or cdrom"),
            Some(("cache", "writeback" | "none")) => {}
            Some(("cache", mode)) => bail!("cache={mode}: what the guest flushes is on the disk; leave it away"),
            _ => rest += &format!(",{part}"),
        }
    }
    // As with QEMU, a CD-ROM drive may be empty.
    let empty = file.is_none() && rest.contains(",media=cdrom");
    let file = if empty { "none".into() } else { file.context("file= is missing")? };
    // QEMU numbers the disks of each interface.
    let unit = index.filter(|_| interface == "ide").map_or_else(String::new, |index| format!(",unit={index}"));
    let disk: DiskDescription = format!("{file},if={interface}{unit}{rest}").replace('\0', ",,").parse()?;
    Ok(if empty { DiskDescription { unit: disk.unit, ..DiskDescription::empty_cdrom() } } else { disk })
}

/// `none,id=…` or `wav,path=F,…`, of which the first is QEMU's word for a card that nobody hears.
fn audio(value: &str) -> anyhow::Result<AudioTarget> {
    let (driver, options) = nets::options(value);
    match (driver.trim_start_matches("driver="), options.iter().find(|(key, _)| *key == "path")) {
        ("none", _) => Ok(AudioTarget::Null),
        ("wav", Some((_, path))) => Ok(AudioTarget::Wav((*path).into())),
        ("wav", None) => Ok(AudioTarget::Wav("qemu.wav".into())),
        _ => bail!("sound goes to none or wav,path=FILE: record it, also with the monitor's wavcapture"),
    }
}

/// `on` or `off`, then what QEMU would refuse in detail: all of that is refused here anyway.
fn sandbox(value: &str) -> anyhow::Result<bool> {
    let mut parts = value.split(',');
    let first = parts.next().unwrap_or_default();
    for part in parts {
        let known = ["obsolete", "elevateprivileges", "spawn", "resourcecontrol"];
        match part.split_once('=') {
            Some((key, "deny")) if known.contains(&key) => {}
            _ => bail!("{part}: a sandbox denies obsolete, elevateprivileges, spawn and resourcecontrol together"),
        }
    }
    match first.trim_start_matches("enable=") {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => bail!("a sandbox is on or off"),
    }
}

/// `2`, `cpus=2` or `2,sockets=1,…`.
fn cpus(value: &str) -> anyhow::Result<u32> {
    let first = value.split(',').find_map(|part| match part.split_once('=') {
        None => Some(part),
        Some(("cpus", number)) => Some(number),
        Some(_) => None,
    });
    first.and_then(|number| number.parse().ok()).context("the number of vCPUs is missing: -smp 2")
}

#[cfg(test)]
mod tests {
    use ferro_machine::{Accelerator, MemorySize, NetBackend};

    use super::*;

    fn read(line: &str) -> Result<VmDescription, String> {
        describe(line.split_whitespace().map(ToOwned::to_owned).collect())
            .map(|(vm, _)| vm)
            .map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_usual_command_line_becomes_the_description_of_flags() {
        let vm = read(
            "-hda /vms/web.qcow2 -drive file=data.raw,if=virtio,format=raw,cache=none -m 512 -smp 2 -kernel vmlinuz \
             -initrd initrd.gz -append root=/dev/vda -nographic -net nic,macaddr=52:54:00:12:34:56 \
             -net tap,ifname=tap0,script=no -no-reboot -snapshot -name web -enable-kvm -loadvm clean",
        )
        .unwrap();
        assert_eq!((vm.name.as_str(), vm.memory, vm.cpus), ("web", MemorySize(512 << 20), 2));
        assert_eq!((vm.accelerator, &vm.serial, vm.no_reboot), (Accelerator::Kvm, &SerialTarget::Stdio, true));
        assert_eq!((vm.disks[0].file.as_str(), vm.disks[0].snapshot), ("/vms/web.qcow2", true));
        assert_eq!((vm.disks[1].file.as_str(), vm.disks[1].format.as_deref()), ("data.raw", Some("raw")));
        assert_eq!(
            vm.disks.iter().map(|disk| disk.interface).collect::<Vec<_>>(),
            [DiskInterface::Ide, DiskInterface::Virtio]
        );
        assert_eq!(vm.nets[0].backend, NetBackend::Tap("tap0".into()));
        assert_eq!(vm.nets[0].mac, Some("52:54:00:12:34:56".parse().unwrap()));
        assert_eq!(vm.loadvm.as_deref(), Some("clean"));
        assert_eq!(vm.check(), Ok(()));
    }

    #[test]
    fn a_cd_boots_through_firmware_beside_a_disk() {
        let vm = read("-hda ./dsl2_qcow2.img -cdrom ./some.iso -boot d -bios b.bin -drive file=x,index=3").unwrap();
        let at = |index: usize| (vm.disks[index].unit, vm.disks[index].cdrom);
        assert_eq!((at(0), at(1), at(2)), ((Some(0), false), (Some(2), true), (Some(3), false)));
        assert_eq!(vm.boot.devices[0], ferro_machine::BootDevice::Cdrom);
        assert_eq!((vm.check(), vm.has_vga()), (Ok(()), true));
        assert!(read("-hdc x -cdrom y").unwrap().check().is_err(), "both would be the secondary master");
    }

    #[test]
    fn newer_spellings_say_the_same() {
        let vm = read(
            "--kernel k -M pc,accel=tcg -m 1G -smp cpus=4,sockets=1 -netdev tap,id=n0,ifname=t0,script=no,downscript=no,vnet_hdr=off,queues=2 \
             -device virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01,mq=on,vectors=6 -nic tap,ifname=t1 -S -s -serial file:out.log \
             -display none",
        )
        .unwrap();
        assert_eq!((vm.memory, vm.cpus, vm.accelerator), (MemorySize(1 << 30), 4, Accelerator::Soft));
        assert_eq!(vm.nets[0].backend, NetBackend::Tap("t0".into()));
        assert_eq!((vm.nets[0].options.queues, vm.nets[0].options.offload), (2, false));
        assert_eq!(vm.nets[1].backend, NetBackend::Tap("t1".into()));
        assert_eq!((vm.paused, vm.gdb), (true, Some(GdbAddress("127.0.0.1:1234".into()))));
        assert_eq!(vm.serial, SerialTarget::File("out.log".into()));
    }

    #[test]
    fn monitors_are_where_qemu_has_them() {
        let vm = read("-kernel k -monitor tcp::8888 -qmp unix:/tmp/q,server,nowait -serial mon:stdio").unwrap();
        let tcp = MonitorTarget::Tcp("127.0.0.1:8888".into());
        assert_eq!(vm.monitors, [tcp, MonitorTarget::Stdio]);
        assert_eq!((vm.qmps, vm.serial), (vec![MonitorTarget::Unix("/tmp/q".into())], SerialTarget::Stdio));
        assert_eq!(read("-kernel k -nographic").unwrap().monitors, [MonitorTarget::Stdio]);
        assert_eq!(read("-kernel k -nographic -monitor none").unwrap().monitors, []);
        assert!(read("-kernel k -monitor vc").unwrap_err().contains("tcp:HOST:PORT"));
    }

    #[test]
    fn the_screen_goes_to_vnc_with_a_monitor_beside_it() {
        let vm = read("-hda x -vnc :0,password=on -monitor tcp::8888").unwrap();
        let vnc = vm.vnc.as_ref().unwrap();
        assert_eq!((vnc.place.to_string().as_str(), vnc.password), ("127.0.0.1:5900", true));
        assert_eq!((vm.check(), vm.has_vga()), (Ok(()), true));
        assert_eq!(read("-hda x -display vnc=:2").unwrap().vnc.unwrap().place.to_string(), "127.0.0.1:5902");
        assert_eq!(read("-hda x -vnc none").unwrap().vnc, None);
    }

    #[test]
    fn what_isnt_there_is_refused_by_name() {
        for flag in ["-spice port=1", "-option-rom x", "-incoming tcp::1", "-usb", "-fda f"] {
            let error = read(&format!("-kernel k {flag}")).unwrap_err();
            let name = flag.split(' ').next().unwrap();
            assert!(error.starts_with(&format!("{name}: ")) && error.len() > name.len() + 10, "{flag}: {error}");
        }
    }

    #[test]
    fn wrong_values_are_named_with_their_flag() {
        for (line, told) in [
            ("-kernel k -m lots", "-m lots"),
            ("-kernel k -smp", "-smp: a value"),
            ("-kernel k -smp many", "-smp many"),
            ("-kernel k -frobnicate", "-frobnicate"),
            ("-kernel k -drive if=virtio", "file="),
            ("-kernel k -drive file=x,if=scsi", "if=virtio"),
            ("-kernel k -drive file=x,media=tape", "cdrom"),
            ("-hda x -boot n", "cdrom"),
            ("-hda x -vga cirrus", "std"),
            ("-kernel k -net nic,macaddr=1:2 -net tap,ifname=t", "macaddr"),
            ("-kernel k -net nic", "-net tap"),
            ("-kernel k -net tap,ifname=t", "-net nic"),
            ("-kernel k -net tap", "ifname="),
            ("-kernel k -net tap,ifname=t,script=/etc/x", "script=no"),
            ("-kernel k -net nic,model=e1000", "virtio"),
            ("-kernel k -net user", "-net nic"),
            ("-kernel k -net nic -net user,tftp=/x", "tftp"),
            ("-kernel k -net nic -net slirp", "user"),
            ("-kernel k -netdev tap,id=a,ifname=t", "netdev=a"),
            ("-kernel k -device virtio-net-pci,netdev=b", "netdev=b"),
            ("-kernel k -device e1000", "virtio-net-pci"),
            ("-kernel k -S", "-gdb"),
            ("-kernel k -M q35", "pc"),
            ("-m 512", "-hda"),
        ] {
            let error = read(line).unwrap_err();
            let flag = line.split(' ').nth(2).unwrap_or("-kernel");
            assert!(error.contains(told) || error.contains(flag) && told == "macaddr", "{line}: {error}");
        }
    }

    #[test]
    fn user_networking_is_spelled_in_three_ways() {
        let vm = read(
            "-kernel k -net nic,macaddr=52:54:00:12:34:56 -net user,hostfwd=tcp::2222-:22 -nic user,model=virtio \
             -netdev user,id=n,restrict=on -device virtio-net-pci,netdev=n",
        )
        .unwrap();
        let forwards = vm.nets.iter().map(|net| match &net.backend {
            NetBackend::User(user) => (user.forwards.len(), user.config.restrict),
            other => panic!("{other}"),
        });
        assert_eq!(forwards.collect::<Vec<_>>(), [(1, false), (0, false), (0, true)]);
        assert_eq!(vm.check(), Ok(()));
        assert!(read("-kernel k -nic user,hostfwd=tcp:0.0.0.0:1-:2").unwrap().check().is_err());
    }

    #[test]
    fn a_drive_may_be_empty_and_there_may_be_a_tablet() {
        let vm = read("-kernel k -drive if=ide,index=3,media=cdrom -usbdevice tablet").unwrap();
        assert!(vm.disks[0].is_empty() && vm.disks[0].unit == Some(3) && vm.tablet);
        assert!(read("-kernel k -device virtio-tablet-pci,id=t").unwrap().tablet);
        assert!(read("-drive media=cdrom").unwrap_err().contains("nothing to boot"));
        assert!(read("-kernel k -drive if=ide").unwrap_err().contains("file= is missing"));
        assert!(read("-kernel k -usbdevice mouse").unwrap_err().contains("tablet"));
    }

    #[test]
    fn a_sound_card_is_heard_by_who_records_it() {
        let audio = |line: &str| read(&format!("-kernel k {line}")).map(|vm| vm.audio);
        assert_eq!(audio("-soundhw ac97"), Ok(AudioTarget::Null));
        assert_eq!(
            audio("-audiodev wav,id=a,path=x.wav -device AC97,audiodev=a"),
            Ok(AudioTarget::Wav("x.wav".into()))
        );
        assert!(audio("-audiodev alsa,id=a").unwrap_err().contains("wavcapture"));
        assert!(audio("-soundhw sb16").unwrap_err().contains("ac97"));
    }

    #[test]
    fn commas_in_names_are_doubled_in_drives_only() {
        let vm = read("-kernel k -hda a,b -drive file=c,,d").unwrap();
        assert_eq!((vm.disks[0].file.as_str(), vm.disks[1].file.as_str()), ("a,b", "c,d"));
    }
}
