//! Running a VM from its description to its end: opens what it needs, builds the board, boots, and acts on what happens.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferro_block::throttle::{Rate, ThrottleGroup, ThrottleOptions};
use ferro_console::monitor::NetworkInfo;
use ferro_guest::{GuestMemory, MapError, Ram, RamError};
use ferro_hypervisor::kvm::{self, KvmVm};
use ferro_hypervisor::soft::SoftVm;
use ferro_hypervisor::{Exit, HostClock, InstructionClock, Registers, Vcpu, Vm, VmClock};
use ferro_sys::signals::Termination;
use tracing::{debug, info, warn};

use crate::board::{Board, OpenDisk, OpenNet, Plan};
use crate::boot::{self, BootError, Kernel};
use crate::bus::lock;
use crate::control::{Control, Event, JobQueue, Turn};
use crate::description::{
    Accelerator, ClockSource, DescriptionError, LimitDescription, MonitorTarget, SerialTarget, VmDescription,
    stable_mac,
};
use crate::firmware::{Firmware, FirmwareError};
use crate::gdb::Stub;
use crate::handle::{Handle, Screen};
use crate::image::DiskImage;
use crate::io_thread::{self, Served};
use crate::layout::{self, Arena};
use crate::limit;
use crate::monitor::{self, Language, Operator, Parts, Subscribers, TerminalSession};
use crate::network;
use crate::sandbox::{self, Reach};
use crate::serial;
use crate::snapshot::{Scope, SnapshotError, Snapshots};
use crate::sound::{AudioTarget, Recorder, WaveForm};
use crate::state::{Keeper, Progress};
use crate::terminal::RawTerminal;
use crate::vnc;

/// How a VM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The guest switched itself off.
    PoweredOff,
    /// The guest asked for a reset, which was to end it.
    Reset,
    /// Somebody ended it from outside.
    Quit,
}

/// Why a VM could not be started or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The description contradicts itself.
    #[error(transparent)]
    Description(#[from] DescriptionError),
    /// The kernel can't be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// There is no firmware to boot.
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
    /// A file can't be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the host said.
        source: std::io::Error,
    },
    /// No memory for the guest.
    #[error(transparent)]
    Memory(#[from] RamError),
    /// The memory map contradicts itself.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The accelerator failed.
    #[error(transparent)]
    Accelerator(#[from] ferro_hypervisor::Error),
    /// Something of the host that the VM is connected to can't be had.
    #[error("cannot {operation}: {source}")]
    Host {
        /// What was tried, as a verb phrase.
        operation: String,
        /// What the host said.
        source: std::io::Error,
    },
    /// The snapshot to begin with can't be loaded.
    #[error("cannot load the snapshot '{tag}': {told}")]
    LoadVm {
        /// Its name.
        tag: String,
        /// Why not.
        told: String,
    },
    /// The accelerator can't execute what the guest does.
    #[error("the guest can't go on: {0}")]
    Guest(String),
}

fn host(operation: impl Into<String>) -> impl FnOnce(std::io::Error) -> RunError {
    let operation = operation.into();
    move |source| RunError::Host { operation, source }
}

fn read(path: &Path) -> Result<Vec<u8>, RunError> {
    std::fs::read(path).map_err(|source| RunError::File { path: path.display().to_string(), source })
}

/// What the run loop needs of a VM that was set up.
struct Machine {
    vm: Arc<dyn Vm>,
    control: Arc<Control>,
    board: Board,
    /// What others reach of it: all by this one, so that they share one picture of the screen.
    handle: Handle,
    source: BootSource,
    /// The boot CPU's registers after power-on, from which each boot begins.
    power_on: Registers,
    description: VmDescription,
    debugger: Arc<Mutex<Option<Stub>>>,
    subscribers: Arc<Subscribers>,
    snapshots: Arc<Snapshots>,
    recorder: Arc<Recorder>,
    /// The files that its process reaches; `None` where that isn't confined.
    reach: Option<Reach>,
}

/// What the boot CPU begins with.
enum BootSource {
    Kernel(Kernel),
    Firmware(Firmware),
}

impl BootSource {
    fn open(description: &VmDescription) -> Result<Self, RunError> {
        let Some(path) = description.kernel.clone() else {
            return Ok(Self::Firmware(Firmware::find(description.firmware.as_deref())?));
        };
        let image = read(&path)?;
        let initrd = description.initrd.as_deref().map(read).transpose()?;
        Ok(Self::Kernel(Kernel { path, image, initrd, command_line: description.append.clone() }))
    }

    fn firmware(&self) -> Option<&Firmware> {
        match self {
            Self::Kernel(_) => None,
            Self::Firmware(firmware) => Some(firmware),
        }
    }

    /// The host memory that the VM takes.
    fn arena(&self, description: &VmDescription) -> Arena {
        let rom = self.firmware().map_or(0, |firmware| firmware.image.len() as u64);
        let video = if description.has_vga() { layout::VIDEO_MEMORY } else { 0 };
        Arena { ram: description.memory.0, rom, video }
    }
}

/// Runs a VM to its end. `disks` are the opened images of the description's disks, in order; a CD-ROM drive without a disc
/// has none.
///
/// # Errors
/// Anything that keeps it from starting, before the guest has executed an instruction, and an accelerator that fails.
pub fn run(description: &VmDescription, disks: Vec<DiskImage>) -> Result<Outcome, RunError> {
    run_with(description, disks, |_| {})
}

/// As [`run`]; `started` gets the handle to the VM just before its first instruction.
///
/// # Errors
/// As for [`run`].
pub fn run_with(
    description: &VmDescription,
    disks: Vec<DiskImage>,
    started: impl FnOnce(Handle),
) -> Result<Outcome, RunError> {
    description.check()?;
    let termination = Termination::catch().map_err(host("catch signals"))?;
    let limits = limit::begin(&description.name, &description.limits).map_err(host("limit the VM's process"))?;
    let source = BootSource::open(description)?;
    let arena = source.arena(description);
    let vm = make_vm(description, arena)?;
    let (sender, events) = channel();
    let (control, queues) = Control::new(vm.clone(), description.cpus, sender);
    let mut vcpus = (0..description.cpus).map(|index| vm.create_vcpu(index)).collect::<Result<Vec<_>, _>>()?;
    limit_disks(&description.limits, &disks);
    let disks = with_descriptions(description, disks);
    let (nets, plugs) = open_nets(description)?;
    let plan = Plan { vm: &vm, control: &control, description, arena, firmware: source.firmware() };
    let board = plan.build(disks, nets).map_err(host("read random numbers"))?;
    let snapshots = snapshots(&vm, &control, arena, &board);
    // Before any thread starts, since each keeps what its starter had.
    let reach =
        sandbox::confine_files(description).map_err(host("confine the VM to its files (--sandbox off doesn't)"))?;
    let power_on = vcpus[0].registers()?;
    let debugger = description.gdb.as_ref().map(|address| {
        Stub::listen(&address.0, control.clone()).map_err(host(format!("listen for a debugger at {}", address.0)))
    });
    let debugger = Arc::new(Mutex::new(debugger.transpose()?));
    let description = description.clone();
    let recorder = Recorder::new(vm.clone(), board.sound.clone());
    let handle = Handle {
        control: control.clone(),
        screen: board.vga.clone().map(Screen::new),
        keyboard: board.keyboard.clone(),
        ide: board.ide.clone(),
        tablet: board.tablet.clone(),
    };
    let machine = Machine {
        handle,
        snapshots: Arc::new(snapshots),
        vm,
        control: control.clone(),
        board,
        source,
        power_on,
        description,
        debugger,
        subscribers: Arc::default(),
        recorder,
        reach,
    };
    let description = &machine.description;
    let start = machine.boot_registers()?;
    vcpus[0].set_registers(&start)?;
    let monitors = machine.open_monitors()?;
    let shared = |target: &SerialTarget| monitors.clone().filter(|_| *target == SerialTarget::Stdio);
    serial::connect(
        &description.serial,
        &machine.board.serial_out,
        &machine.board.serial,
        &control,
        shared(&description.serial),
    )
    .map_err(host(format!("connect the serial port to {:?}", description.serial)))?;
    if let Some((chip, outgoing)) = &machine.board.console {
        serial::connect(&description.console, outgoing, chip, &control, shared(&description.console))
            .map_err(host(format!("connect the console to {:?}", description.console)))?;
    }
    for (plug, card) in plugs.into_iter().zip(&machine.board.cards) {
        plug.connect(card.clone(), control.clone()).map_err(host("start a thread"))?;
    }
    let served = io_thread::attach(&machine.vm, &machine.board.pci, &machine.board.busy)?;
    quit_at_signals(termination, control.clone())?;
    machine.record_sound()?;
    started(machine.handle.clone());
    let terminal = [&description.serial, &description.console].contains(&&SerialTarget::Stdio);
    let _raw = (terminal || monitors.is_some()).then(RawTerminal::enter);
    if let Some(monitor) = monitors.filter(|_| !terminal) {
        let work = move || monitor.read();
        std::thread::Builder::new().name("monitor".into()).spawn(work).map_err(host("start a thread"))?;
    }
    limits.watch(&control).map_err(host("start a thread"))?;
    sandbox::drop_privileges(&description.sandbox).map_err(host("drop privileges"))?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = vcpus
            .into_iter()
            .zip(queues)
            .enumerate()
            .map(|(index, (vcpu, queue))| {
                let machine = &machine;
                std::thread::Builder::new()
                    .name(format!("vcpu{index}"))
                    .spawn_scoped(scope, move || machine.run_vcpu(index as u32, vcpu, &queue))
            })
            .collect();
        let io = served.iter().map(|device| {
            let control = &control;
            std::thread::Builder::new().name("io".into()).spawn_scoped(scope, move || device.work(control))
        });
        let threads = threads.into_iter().chain(io).collect::<Result<Vec<_>, _>>();
        let result = threads.map_err(host("start a thread")).and_then(|_| machine.supervise(&events));
        control.end();
        served.iter().for_each(Served::wake);
        result
    })
}

/// Keeps all disks together to what the VM may have.
fn limit_disks(limits: &LimitDescription, disks: &[DiskImage]) {
    // As much as QEMU's throttling lets through at once: a tenth of a second.
    let rate = |per_second: u64| Rate { per_second, burst: (per_second / 10).max(1) };
    let options =
        ThrottleOptions { requests: limits.iops.map(rate), bytes: limits.bps.map(rate), ..ThrottleOptions::default() };
    if options != ThrottleOptions::default() {
        let group = Arc::new(ThrottleGroup::new(options));
        disks.iter().for_each(|disk| disk.join(&group));
    }
}

/// The images in the order of the descriptions, of which some are of empty drives.
fn with_descriptions(description: &VmDescription, disks: Vec<DiskImage>) -> Vec<OpenDisk> {
    let mut images = disks.into_iter();
    let disks = description.disks.iter().cloned().map(|description| {
        let image = if description.is_empty() { None } else { images.next() };
        OpenDisk { description, image }
    });
    disks.collect()
}

/// What makes and loads snapshots of the VM.
fn snapshots(vm: &Arc<dyn Vm>, control: &Arc<Control>, arena: Arena, board: &Board) -> Snapshots {
    let keeper = Keeper::new(vm.clone(), control.clone(), board.chips.clone(), arena, board.pci.clone());
    Snapshots::new(keeper, control.clone(), vm.clock().clone(), board.drives.clone())
}

/// Ends the VM when the process is told to end.
fn quit_at_signals(termination: Termination, control: Arc<Control>) -> Result<(), RunError> {
    let waiting = move || {
        if termination.wait().is_ok() {
            control.report(Event::Quit);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(waiting).map(drop).map_err(host("start a thread"))
}

fn make_vm(description: &VmDescription, arena: Arena) -> Result<Arc<dyn Vm>, RunError> {
    // The board makes the map when its chips are there.
    let memory = Arc::new(GuestMemory::new(Ram::new(arena.len())?, &[])?);
    let clock = Arc::new(match description.clock {
        ClockSource::Host => VmClock::Host(HostClock::default()),
        ClockSource::Icount => VmClock::Instructions(InstructionClock::default()),
    });
    if use_kvm(description) {
        return Ok(Arc::new(KvmVm::new(memory, description.cpus, clock)?));
    }
    let seed = match description.clock {
        // Runs repeat: so do the random numbers.
        ClockSource::Icount => 1,
        ClockSource::Host => std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64),
    };
    Ok(Arc::new(SoftVm::new(memory, description.cpus, clock, seed)?))
}

/// Whether KVM is to execute the guest: asked for, or good enough by its self-test.
fn use_kvm(description: &VmDescription) -> bool {
    match description.accelerator {
        Accelerator::Kvm => true,
        Accelerator::Soft => false,
        Accelerator::Auto if description.clock == ClockSource::Icount => false,
        Accelerator::Auto => match kvm::self_test() {
            Ok(()) => true,
            Err(why) => {
                warn!("KVM is of no use here ({why}): the software CPU executes the guest");
                false
            }
        },
    }
}

fn open_nets(description: &VmDescription) -> Result<(Vec<OpenNet>, Vec<network::Plug>), RunError> {
    let (mut nets, mut plugs) = (vec![], vec![]);
    let shared = network::SharedRate::new(description.limits.rate);
    for (index, net) in description.nets.iter().enumerate() {
        let (plug, sink) =
            network::open(net, &shared).map_err(|(operation, source)| RunError::Host { operation, source })?;
        let mac = net.mac.unwrap_or_else(|| stable_mac(&description.name, index));
        nets.push(OpenNet { mac, queues: net.options.queues, sink });
        plugs.push(plug);
    }
    Ok((nets, plugs))
}

impl Machine {
    fn record_sound(&self) -> Result<(), RunError> {
        match &self.description.audio {
            AudioTarget::None => Ok(()),
            AudioTarget::Null => self.recorder.play().map_err(host("start a thread")),
            AudioTarget::Wav(path) => {
                let started = self.recorder.start(path, WaveForm::default());
                started.map_err(host(format!("write the sound to {}", path.display())))
            }
        }
    }

    /// Places kernel or firmware in memory and returns the registers with which it begins.
    fn boot_registers(&self) -> Result<Registers, BootError> {
        let memory = self.vm.memory();
        match &self.source {
            BootSource::Kernel(kernel) => {
                self.board.set_up();
                boot::load(memory, self.description.memory.0, self.board.acpi, kernel, &self.power_on)
            }
            BootSource::Firmware(firmware) => {
                self.board.reset();
                memory.ram().write(self.description.memory.0 as usize, &firmware.image);
                Ok(self.power_on)
            }
        }
    }

    /// Opens the monitors; the one that has the terminal, if there is one.
    fn open_monitors(&self) -> Result<Option<Arc<TerminalSession>>, RunError> {
        let Self { description, board, .. } = self;
        let cards = board.cards.iter().zip(&description.nets).enumerate().map(|(index, (card, net))| {
            let mac = net.mac.unwrap_or_else(|| stable_mac(&description.name, index));
            let info = NetworkInfo {
                name: format!("net{index}"),
                model: card.model().into(),
                mac: mac.to_string(),
                peer: net.backend.to_string(),
                link: true,
            };
            (info, card.clone())
        });
        let parts = Parts {
            name: description.name.clone(),
            vm: self.vm.clone(),
            handle: self.handle.clone(),
            vnc: self.open_vnc()?,
            bus: board.bus.clone(),
            power: board.power.clone(),
            balloon: board.balloon.clone(),
            cards: cards.collect(),
            drives: board.drives.clone(),
            snapshots: self.snapshots.clone(),
            recorder: self.recorder.clone(),
            debugger: self.debugger.clone(),
            memory: description.memory.0,
            prelaunch: description.paused,
            reach: self.reach.clone(),
            chardevs: monitor::chardevs(description),
        };
        let operator = Arc::new(Operator::new(parts, self.subscribers.clone()));
        for (language, targets) in [(Language::Hmp, &description.monitors), (Language::Qmp, &description.qmps)] {
            for target in targets {
                monitor::listen(target, language, operator.clone())
                    .map_err(host(format!("listen for a monitor at {target:?}")))?;
            }
        }
        let terminal = description.monitors.contains(&MonitorTarget::Stdio);
        Ok(terminal.then(|| monitor::terminal_session(operator, std::io::stdin().is_terminal())))
    }

    /// Opens the VNC server, if there is to be one.
    fn open_vnc(&self) -> Result<Option<Arc<vnc::Server>>, RunError> {
        let Some(target) = &self.description.vnc else { return Ok(None) };
        let password = target.password_file.as_deref().map(read).transpose()?;
        let name = self.description.name.clone();
        let server = vnc::Server::listen(target, password, name, self.handle.clone(), self.subscribers.clone());
        server.map(Some).map_err(host(format!("listen for VNC at {}", target.place)))
    }

    fn run_vcpu(&self, index: u32, mut vcpu: Box<dyn Vcpu>, queue: &JobQueue) {
        loop {
            if let Turn::End = self.control.next_turn(queue, &mut *vcpu) {
                return;
            }
            match vcpu.run(&*self.board.bus) {
                Exit::Kicked => {}
                Exit::Shutdown => {
                    self.describe_triple_fault(&mut *vcpu);
                    self.stop_for(Event::ResetRequested { guest: true }, queue, &mut *vcpu);
                }
                Exit::Debug(stop) => self.stop_for(Event::Debug { vcpu: index, stop }, queue, &mut *vcpu),
                Exit::Failed(what) => self.stop_for(Event::Failed(what), queue, &mut *vcpu),
            }
        }
    }

    /// For whoever debugs a guest: where it was, and the bytes there.
    fn describe_triple_fault(&self, vcpu: &mut dyn Vcpu) {
        let Ok(registers) = vcpu.registers() else { return };
        let address = registers.segments[ferro_hypervisor::CS].base.wrapping_add(registers.rip);
        let mut bytes = [0; 16];
        let read = vcpu.translate(address).map_or(0, |physical| self.vm.memory().read(physical, &mut bytes));
        debug!("triple fault at {address:#x}, code {:02x?}, {registers:x?}", &bytes[..read]);
    }

    /// Reports something after which this vCPU must not run before the run loop has acted.
    fn stop_for(&self, event: Event, queue: &JobQueue, vcpu: &mut dyn Vcpu) {
        self.control.hold();
        self.control.report(event);
        let _ = self.control.next_turn(queue, vcpu);
    }

    /// Acts on events until the VM ends.
    fn supervise(&self, events: &Receiver<Event>) -> Result<Outcome, RunError> {
        if let Some(tag) = &self.description.loadvm {
            let loaded = self.snapshots.load(tag, &Scope::default(), &Progress::default());
            let told = |error: SnapshotError| RunError::LoadVm { tag: tag.clone(), told: error.to_string() };
            loaded.map_err(told)?;
        }
        if self.description.paused {
            self.control.begin_stopped();
        } else {
            self.control.resume();
        }
        loop {
            let event = match self.clock_deadline() {
                Some(wait) => match events.recv_timeout(wait) {
                    Err(RecvTimeoutError::Timeout) => {
                        self.control.if_running(|| lock(&self.board.rtc).advance());
                        continue;
                    }
                    other => other.ok(),
                },
                None => events.recv().ok(),
            };
            debug!("event: {event:?}");
            let outcome = match event {
                Some(Event::PoweredOff) => Outcome::PoweredOff,
                Some(Event::ResetRequested { .. }) if self.description.no_reboot => Outcome::Reset,
                Some(Event::ResetRequested { guest }) => {
                    self.subscribers.tell(&monitor::Event::Reset { guest });
                    self.reset(events)?;
                    continue;
                }
                Some(Event::Debug { vcpu, stop }) => {
                    if let Some(debugger) = &*lock(&self.debugger) {
                        debugger.stopped(vcpu, stop);
                    }
                    continue;
                }
                Some(Event::Failed(what)) => return Err(RunError::Guest(what)),
                Some(Event::Quit) | None => Outcome::Quit,
            };
            let _whole = self.control.whole();
            self.control.pause();
            self.recorder.end();
            self.board.serial_out.drain();
            self.board.console.iter().for_each(|(_, outgoing)| outgoing.drain());
            if let Some(debugger) = &*lock(&self.debugger) {
                debugger.end();
            }
            self.subscribers.tell(&monitor::Event::Shutdown { guest: outcome != Outcome::Quit });
            self.subscribers.finish();
            return Ok(outcome);
        }
    }

    /// How long until the real-time clock has an interrupt; looked at again at least every 50 ms, since the guest may
    /// have changed it meanwhile.
    fn clock_deadline(&self) -> Option<Duration> {
        const LOOK_AGAIN: Duration = Duration::from_millis(50);
        let deadline = lock(&self.board.rtc).deadline();
        let wait = deadline.and_then(|deadline| self.vm.clock().until(deadline));
        Some(wait.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN))
    }

    fn reset(&self, events: &Receiver<Event>) -> Result<(), RunError> {
        info!("reset");
        let _whole = self.control.whole();
        self.control.pause();
        // One reset is enough for all that asked while it was on its way.
        while events.try_recv().is_ok_and(|event| matches!(event, Event::ResetRequested { .. })) {}
        self.vm.reset();
        self.board.reset();
        let start = self.boot_registers()?;
        for index in 0..self.description.cpus {
            let result = self.control.with_vcpu(index, move |vcpu| {
                vcpu.reset()?;
                if index == 0 { vcpu.set_registers(&start) } else { Ok(()) }
            });
            result.unwrap_or(Ok(()))?;
        }
        self.control.resume_unless_stopped();
        Ok(())
    }
}
