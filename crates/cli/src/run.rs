//! `ferro run`: one VM in this process, described by flags, a `vm.toml`, or both.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use ferro_machine::{
    Accelerator, AudioTarget, BootOrder, ClockSource, DiskDescription, DiskImage, GdbAddress, LimitDescription,
    MemorySize, MonitorTarget, NetBackend, NetDescription, Outcome, SandboxDescription, SerialTarget, VmDescription,
    VncTarget,
};

use ferro_node::segment::port::{self, Wish};
use ferro_node::segment::{self, Host};

use crate::background::Background;
use crate::exit;

/// Where segments are remembered if nothing else is said.
pub(crate) const SEGMENTS: &str = "/run/ferro";

/// Run a virtual machine in this process.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Read the VM's description from a file; flags given beside it go first
    #[arg(long, value_name = "VM.TOML")]
    config: Option<PathBuf>,
    /// The VM's name, for messages and made-up addresses
    #[arg(long)]
    name: Option<String>,
    /// RAM, such as 512M or 2G [default: 128M]
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<MemorySize>,
    /// vCPUs, 1 to 64 [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Option<u32>,
    /// What executes the guest: auto, kvm or soft [default: auto]
    #[arg(long, value_name = "WHAT")]
    accel: Option<Accelerator>,
    /// What the VM's clock goes by: host, or icount for runs that repeat exactly [default: host]
    #[arg(long, value_name = "WHAT")]
    clock: Option<ClockSource>,
    /// Boot this kernel (bzImage, or ELF with a PVH note) without firmware
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The kernel's initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT")]
    append: Option<String>,
    /// PC firmware to boot through where there is no kernel [default: SeaBIOS, where distributions put it]
    #[arg(long, value_name = "FILE")]
    firmware: Option<PathBuf>,
    /// From what firmware boots: cdrom,disk[,menu=on][,menu-wait=MS] [default: disk,cdrom]
    #[arg(long, value_name = "ORDER")]
    boot: Option<BootOrder>,
    /// Whether there is a VGA: on or off [default: on with firmware, off with --kernel]
    #[arg(long, value_name = "ON|OFF", value_parser = clap::builder::BoolishValueParser::new())]
    vga: Option<bool>,
    /// A disk: FILE[,format=F][,if=virtio|ide][,unit=N][,readonly=on][,snapshot=on][,serial=S][,queues=N]
    #[arg(long = "disk", value_name = "FILE[,…]")]
    disks: Vec<DiskDescription>,
    /// A CD-ROM drive with the image of a disc in it, or none for an empty one
    #[arg(long = "cdrom", value_name = "FILE|none")]
    cdroms: Vec<String>,
    /// A network card: segment=NAME, tap=NAME or user[,hostfwd=tcp:127.0.0.1:8080-:80][,net=N/P][,restrict=on], then [,mac=A][,model=virtio][,queues=N][,offload=off][,rate=R][,rate-in=R][,rate-out=R] (R in bits a second, such as 10M)
    #[arg(long = "net", value_name = "WHERE[,…]")]
    nets: Vec<NetDescription>,
    /// How much of the host it may have: cpu=50%[,shares=N][,memory=SIZE][,iops=N][,bps=N][,rate=R]; cpu in hundredths of one
    /// processor, shares beside others' 100, iops and bps (bytes) of all disks, rate (bits) of all network cards
    #[arg(long = "limit", value_name = "WHAT=N[,…]")]
    limits: Option<LimitDescription>,
    /// Give it a tablet (virtio input), by which a VNC viewer's pointer and the guest's are at the same place
    #[arg(long)]
    tablet: bool,
    /// Where sound goes: none, null, wav=F; but for none there is an AC'97 sound card, which wavcapture records [default: none]
    #[arg(long, value_name = "WHERE")]
    audio: Option<AudioTarget>,
    /// Where the serial port leads: stdio, none, file=F, unix=PATH, tcp=HOST:PORT [default: none]
    #[arg(long, value_name = "WHERE")]
    serial: Option<SerialTarget>,
    /// Give it a virtio console (hvc0) that leads there, as for --serial [default: none]
    #[arg(long, value_name = "WHERE")]
    console: Option<SerialTarget>,
    /// A monitor for people: stdio, unix:PATH, tcp:HOST:PORT; on the terminal together with --serial, Ctrl-A c changes over
    #[arg(long = "monitor", value_name = "WHERE")]
    monitors: Vec<MonitorTarget>,
    /// A monitor for programs (QMP): unix:PATH, tcp:HOST:PORT
    #[arg(long = "qmp", value_name = "WHERE")]
    qmps: Vec<MonitorTarget>,
    /// Show the screen to VNC viewers: [HOST]:DISPLAY or unix:PATH, then [,password-file=F][,password=on]
    /// [,tls-creds-dir=DIR[,verify-peer=on]][,websocket=PORT]
    #[arg(long, value_name = "WHERE")]
    vnc: Option<VncTarget>,
    /// Let gdb connect: tcp:HOST:PORT, such as tcp:127.0.0.1:1234
    #[arg(long, value_name = "WHERE")]
    gdb: Option<GdbAddress>,
    /// Wait for the monitor or the debugger to let the guest begin
    #[arg(long)]
    paused: bool,
    /// Go on where this snapshot of the VM was made (savevm)
    #[arg(long, value_name = "NAME")]
    loadvm: Option<String>,
    /// Let sockets without authentication be reachable from other hosts
    #[arg(long)]
    insecure: bool,
    /// Where `ferro net up` remembers the segments that cards are plugged into
    #[arg(long, value_name = "DIR", default_value = SEGMENTS)]
    segments: PathBuf,
    /// Keep the VM's process to its own files and to the system calls of a VM: on or off [default: on]
    #[arg(long, value_name = "ON|OFF", value_parser = clap::builder::BoolishValueParser::new())]
    sandbox: Option<bool>,
    /// Let the VM's process reach this folder or file too, for images and recordings that the monitor names
    #[arg(long = "allow-path", value_name = "PATH")]
    allow: Vec<PathBuf>,
    /// Become this user once the files are open
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// End the VM where the guest would reboot
    #[arg(long)]
    no_reboot: bool,
    #[command(flatten)]
    background: Background,
}

impl RunArgs {
    fn describe(self) -> anyhow::Result<VmDescription> {
        let mut vm = match &self.config {
            Some(path) => VmDescription::from_file(path)?,
            None => alone(),
        };
        fn set<T>(into: &mut T, given: Option<T>) {
            if let Some(given) = given {
                *into = given;
            }
        }
        set(&mut vm.name, self.name);
        set(&mut vm.memory, self.memory);
        set(&mut vm.cpus, self.cpus);
        set(&mut vm.accelerator, self.accel);
        set(&mut vm.clock, self.clock);
        set(&mut vm.append, self.append);
        set(&mut vm.audio, self.audio);
        set(&mut vm.serial, self.serial);
        set(&mut vm.console, self.console);
        vm.monitors.extend(self.monitors);
        vm.qmps.extend(self.qmps);
        vm.kernel = self.kernel.or(vm.kernel);
        vm.initrd = self.initrd.or(vm.initrd);
        vm.firmware = self.firmware.or(vm.firmware);
        set(&mut vm.boot, self.boot);
        vm.vga = self.vga.or(vm.vga);
        vm.tablet |= self.tablet;
        vm.disks.extend(self.disks);
        vm.disks.extend(self.cdroms.into_iter().map(|file| DiskDescription::cdrom_from_flag(&file)));
        vm.nets.extend(self.nets);
        vm.limits.extend(&self.limits.unwrap_or_default());
        vm.vnc = self.vnc.or(vm.vnc);
        vm.gdb = self.gdb.or(vm.gdb);
        vm.paused |= self.paused;
        vm.loadvm = self.loadvm.or(vm.loadvm);
        vm.insecure |= self.insecure;
        vm.no_reboot |= self.no_reboot;
        set(&mut vm.sandbox.on, self.sandbox);
        vm.sandbox.allow.extend(self.allow);
        vm.sandbox.user = self.user.or(vm.sandbox.user);
        Ok(vm)
    }

    /// Runs the VM to its end.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let background = self.background.clone();
        let segments = self.segments.clone();
        let vm = exit::with_code(exit::USAGE, self.describe())?;
        run_description(&vm, &background, &segments)
    }
}

/// A VM that has its process for itself.
pub(crate) fn alone() -> VmDescription {
    VmDescription {
        sandbox: SandboxDescription { on: true, ..SandboxDescription::default() },
        ..VmDescription::default()
    }
}

/// Runs a described VM to its end: exit code 0 if its guest switched it off, rebooted or was told to quit.
/// `segments` is where segments are remembered.
pub(crate) fn run_description(
    vm: &VmDescription,
    background: &Background,
    segments: &Path,
) -> anyhow::Result<ExitCode> {
    exit::with_code(exit::USAGE, vm.check().map_err(anyhow::Error::new))?;
    if let Some(code) = background.detach(vm)? {
        return Ok(code);
    }
    let mut vm = vm.clone();
    vm.sandbox.allow.extend(background.folder());
    let mut disks = vec![];
    for disk in vm.disks.iter_mut().filter(|disk| !disk.is_empty()) {
        if let Some(name) = disk.file.strip_prefix("mirror:") {
            disk.file = crate::mirror::device(name)?;
            disk.format.get_or_insert_with(|| "raw".into());
        }
        let image = DiskImage::open(disk)?;
        disk.format = Some(image.format.clone());
        disks.push(image);
    }
    plug(&mut vm, segments)?;
    let vm = &vm;
    let closing = disks.clone();
    let mut begun = Ok(None);
    let outcome = ferro_machine::run_with(vm, disks, |handle| {
        begun = background.begun();
        if begun.is_err() {
            handle.quit();
        }
    });
    // Removed when the VM has ended, and its file's name with it.
    let _pid_file = begun?;
    let outcome = outcome?;
    for (disk, description) in closing.iter().zip(vm.disks.iter().filter(|disk| !disk.is_empty())) {
        disk.storage.flush().with_context(|| format!("{}: what the guest wrote may be lost", description.file))?;
    }
    tracing::info!(
        "{}: {}",
        vm.name,
        match outcome {
            Outcome::PoweredOff => "the guest switched itself off",
            Outcome::Reset => "the guest asked for a reset",
            Outcome::Quit => "ended from outside",
        }
    );
    Ok(ExitCode::from(exit::OK))
}

/// Makes the ports of segments that the VM's cards are plugged into; they go with this process.
fn plug(vm: &mut VmDescription, state: &Path) -> anyhow::Result<()> {
    for (card, net) in vm.nets.iter_mut().enumerate() {
        let NetBackend::Segment { name, interface } = &mut net.backend else { continue };
        let wish =
            Wish { segment: name.clone(), vm: vm.name.clone(), card, mac: net.mac, passing: true, ..Wish::default() };
        let (port, _) = port::plug(&Host::open()?, state, &wish).map_err(|error| match error {
            segment::Error::Permission { .. } => anyhow::anyhow!(
                "plugging into segment {name} takes root; or root makes the port before, once: \
                 ferro net port add {} --segment {name} --card {card} --owner $USER",
                vm.name
            ),
            other => other.into(),
        })?;
        net.mac = Some(port.mac);
        if port.passing {
            *interface = Some(port.interface);
        } else {
            net.backend = NetBackend::Tap(port.interface);
        }
    }
    Ok(())
}
