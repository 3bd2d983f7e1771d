//! Executes the monitor's commands on the running VM: each operation once, whatever the language it was asked in.

use std::io::BufWriter;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferro_block::jobs::Watch;
use ferro_console::keys;
use ferro_console::monitor::{
    BalloonInfo, CaptureInfo, ChardevInfo, Command, Event, MouseButtons, MouseInfo, NetworkInfo, NetworkLink,
    OperationError, Reply, RunState, Screenshot, Wave,
};
use ferro_devices::pci::PowerFunction;
use ferro_devices::ps2::{Buttons, Key};
use ferro_devices::virtio::{Balloon, TABLET_MAX, VirtioPci};
use ferro_hypervisor::Vm;

use super::jobs::Jobs;
use super::{Drive, Subscribers, inspect};
use crate::Handle;
use crate::bus::{MachineBus, Shared, lock};
use crate::control::Control;
use crate::gdb::Stub;
use crate::log;
use crate::network::Card;
use crate::sandbox::Reach;
use crate::snapshot::{Scope, Snapshots};
use crate::sound::{Recorder, WaveForm};
use crate::state::Progress;
use crate::vnc;

/// What the operator reaches of a VM.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) vm: Arc<dyn Vm>,
    pub(crate) handle: Handle,
    pub(crate) vnc: Option<Arc<vnc::Server>>,
    pub(crate) bus: Arc<MachineBus>,
    pub(crate) power: Shared<PowerFunction>,
    pub(crate) balloon: Shared<VirtioPci<Balloon>>,
    pub(crate) cards: Vec<(NetworkInfo, Card)>,
    pub(crate) drives: Arc<[Drive]>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) debugger: Arc<Mutex<Option<Stub>>>,
    /// Bytes of RAM.
    pub(crate) memory: u64,
    /// It has not begun yet.
    pub(crate) prelaunch: bool,
    /// The files that the process reaches; `None` for all.
    pub(crate) reach: Option<Reach>,
    pub(crate) chardevs: Vec<ChardevInfo>,
}

/// Does what the monitor's sessions ask for.
pub(crate) struct Operator {
    pub(super) control: Arc<Control>,
    pub(super) handle: Handle,
    pub(super) bus: Arc<MachineBus>,
    pub(super) drives: Arc<[Drive]>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) jobs: Arc<Jobs>,
    recorder: Arc<Recorder>,
    pub(super) subscribers: Arc<Subscribers>,
    name: String,
    vnc: Option<Arc<vnc::Server>>,
    vm: Arc<dyn Vm>,
    power: Shared<PowerFunction>,
    balloon: Shared<VirtioPci<Balloon>>,
    cards: Vec<(NetworkInfo, Card)>,
    debugger: Arc<Mutex<Option<Stub>>>,
    memory: u64,
    prelaunch: Mutex<bool>,
    reach: Option<Reach>,
    chardevs: Vec<ChardevInfo>,
    buttons: Mutex<Buttons>,
    /// One command at a time, whoever asks.
    pub(super) turn: Mutex<()>,
}

/// A failure as the monitor tells it.
pub(super) fn failed(error: impl std::fmt::Display) -> OperationError {
    OperationError::new(error.to_string())
}

/// The file of the host that a command names.
fn file_of(command: &Command) -> Option<&Path> {
    let file = match command {
        Command::Screenshot(Screenshot { path, .. })
        | Command::StartCapture(Wave { path, .. })
        | Command::SaveMemory { path, .. }
        | Command::DumpGuestMemory { path }
        | Command::LogFile { path } => path,
        // Images may also be at servers.
        Command::ChangeMedium { file, .. } | Command::SnapshotDrive { file, .. } if !file.contains("://") => file,
        _ => return None,
    };
    Some(Path::new(file))
}

fn unsupported(what: &str) -> OperationError {
    OperationError::new(format!("{what} is not supported by this VM"))
}

type Result = std::result::Result<Reply, OperationError>;

impl Operator {
    /// An operator for this VM.
    pub(crate) fn new(parts: Parts, subscribers: Arc<Subscribers>) -> Self {
        Self {
            control: parts.handle.control.clone(),
            handle: parts.handle,
            bus: parts.bus,
            drives: parts.drives,
            snapshots: parts.snapshots,
            jobs: Jobs::new(subscribers.clone()),
            recorder: parts.recorder,
            subscribers,
            name: parts.name,
            vnc: parts.vnc,
            vm: parts.vm,
            power: parts.power,
            balloon: parts.balloon,
            cards: parts.cards,
            debugger: parts.debugger,
            memory: parts.memory,
            prelaunch: Mutex::new(parts.prelaunch),
            reach: parts.reach,
            chardevs: parts.chardevs,
            buttons: Mutex::default(),
            turn: Mutex::default(),
        }
    }

    /// The VM's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Executes one command.
    ///
    /// # Errors
    /// What failed, for whoever asked.
    pub(crate) fn execute(self: &Arc<Self>, command: Command) -> Result {
        match command {
            // Keys are held for a time, in which others may go on.
            Command::SendKeys { keys, hold } => return self.send_keys(&keys, hold),
            // A job takes its turn when it can; how far it is can be asked at any time.
            Command::StartSnapshotJob(job) => return self.start_snapshot_job(job),
            Command::StartCommitJob { id, device } => return self.start_commit_job(&id, device),
            Command::QueryJobs => return Ok(Reply::Jobs(self.jobs.list())),
            Command::DismissJob { id } => return self.jobs.dismiss(&id).map(|()| Reply::Done),
            Command::QueryStatus => return Ok(Reply::Status(self.run_state())),
            _ => {}
        }
        let _turn = lock(&self.turn);
        self.check_reach(&command)?;
        match command {
            Command::SaveVm { .. } | Command::LoadVm { .. } | Command::DeleteVm { .. } => {
                self.act_on_snapshot(&command, &Scope::default(), true, &Progress::default())
            }
            Command::QuerySnapshots => self.query_snapshots(),
            Command::Continue if self.control.is_broken() => Err(OperationError::new(
                "the VM has half of a saved state and can't go on: load a snapshot (loadvm), or end it (quit)",
            )),
            Command::Stop | Command::Continue | Command::Quit | Command::Reset | Command::PowerDown | Command::Nmi => {
                Ok(self.run_control(&command))
            }
            Command::QueryRegisters { cpu } => self.query_registers(cpu),
            Command::QueryCpus => self.query_cpus(),
            Command::QueryPages { cpu } => self.query_pages(cpu),
            Command::QueryBlock => Ok(self.query_block()),
            Command::Examine { space, address, what } => self.examine(space, address, what),
            Command::SaveMemory { space, address, size, path } => self.save_memory(space, address, size, &path),
            Command::DumpGuestMemory { path } => self.dump_guest_memory(&path),
            Command::PortRead { port, size } => Ok(self.read_port(port, size)),
            Command::PortWrite { port, size, value } => Ok(self.write_port(port, size, value)),
            Command::Eject { device, force } => self.eject(&device, force),
            Command::ChangeMedium { device, file, format, force } => {
                self.change_medium(&device, &file, format.as_deref(), force)
            }
            Command::Resize { device, size } => self.resize(&device, size),
            Command::Commit { device } => self.commit(&device, &Watch::new()),
            Command::SnapshotDrive { device, file, format, reuse } => {
                self.snapshot_drive(&device, &file, format.as_deref(), reuse)
            }
            Command::Throttle { device, limits } => self.throttle(&device, limits),
            Command::MouseMove { dx, dy, dz } => Ok(self.move_mouse(dx, dy, dz)),
            Command::MouseButtons(buttons) => Ok(self.press_buttons(buttons)),
            Command::Screenshot(screenshot) => self.screenshot(&screenshot),
            Command::Balloon { bytes } => self.set_balloon(bytes),
            Command::SetLink(link) => self.set_link(&link),
            Command::StartCapture(wave) => self.start_capture(&wave),
            Command::StopCapture { index } => self.stop_capture(index),
            Command::GdbServer { address } => self.gdb_server(address.as_deref()),
            command => self.query(&command),
        }
    }

    /// Says what to do about a file that the sandbox keeps from this process, before the kernel refuses it.
    fn check_reach(&self, command: &Command) -> std::result::Result<(), OperationError> {
        let Some((reach, file)) = self.reach.as_ref().zip(file_of(command)) else { return Ok(()) };
        if reach.contains(file) {
            return Ok(());
        }
        let folder = file.parent().unwrap_or(file).display();
        Err(OperationError::new(format!(
            "{}: the sandbox keeps this VM to {reach}; --allow-path {folder} at its start would let it in",
            file.display()
        )))
    }

    /// What needs no more than looking.
    fn query(&self, command: &Command) -> Result {
        Ok(match command {
            Command::QueryName => Reply::Name(self.name.clone()),
            Command::QueryKvm => {
                let present = std::path::Path::new("/dev/kvm").exists();
                Reply::Kvm { enabled: self.vm.accelerator() == "kvm", present }
            }
            Command::QueryPci => inspect::pci(self.bus.pci()),
            Command::QueryMemoryMap => self.query_memory_map(),
            Command::QueryNetwork => {
                let card = |(info, card): &(NetworkInfo, Card)| NetworkInfo { link: card.has_link(), ..info.clone() };
                Reply::Network(self.cards.iter().map(card).collect())
            }
            Command::QueryVnc => Reply::Vnc(self.vnc.as_ref().map_or_else(vnc::absent, |server| server.info())),
            Command::QueryBalloon => {
                let given = u64::from(lock(&self.balloon).device().actual()) << 12;
                Reply::Balloon(BalloonInfo { actual: self.memory.saturating_sub(given) })
            }
            Command::QueryMice => Reply::Mice(self.mice()),
            Command::QueryCaptures => Reply::Captures(self.captures()),
            Command::QueryChardev => Reply::Chardev(self.chardevs.clone()),
            Command::Log { .. } | Command::LogFile { .. } => return change_log(command),
            Command::ChangeVncPassword { password } => {
                let Some(server) = &self.vnc else {
                    return Err(OperationError::new("the VM has no VNC server (--vnc)"));
                };
                server.change_password(password.as_bytes());
                Reply::Done
            }
            _ => return Err(unsupported("this")),
        })
    }

    fn run_state(&self) -> RunState {
        if self.control.is_still() {
            return RunState::SaveVm;
        }
        if self.control.is_broken() {
            return RunState::InternalError;
        }
        match (self.control.is_running(), *lock(&self.prelaunch)) {
            (true, _) => RunState::Running,
            (false, true) => RunState::Prelaunch,
            (false, false) => RunState::Paused,
        }
    }

    fn run_control(&self, command: &Command) -> Reply {
        match command {
            Command::Stop if self.control.is_running() => {
                self.control.stop();
                self.subscribers.tell(&Event::Stop);
            }
            Command::Continue if !self.control.is_running() => {
                *lock(&self.prelaunch) = false;
                self.control.go_on();
                self.subscribers.tell(&Event::Resume);
            }
            Command::Quit => self.handle.quit(),
            Command::Reset => self.handle.reset(),
            Command::PowerDown => {
                lock(&self.power).registers().press_power_button();
                self.subscribers.tell(&Event::PowerDown);
            }
            Command::Nmi => (0..self.control.vcpus()).for_each(|vcpu| self.vm.inject_nmi(vcpu)),
            _ => {}
        }
        Reply::Done
    }

    fn send_keys(&self, keys: &[keys::Key], hold: u32) -> Result {
        let known = keys.iter().map(|key| {
            let name = key.name().unwrap_or("of this number");
            Key::from_evdev(key.0).ok_or_else(|| OperationError::new(format!("the keyboard has no key {name}")))
        });
        let known = known.collect::<std::result::Result<Vec<_>, _>>()?;
        let mut room = true;
        for key in &known {
            room &= self.handle.key(*key, true);
        }
        std::thread::sleep(Duration::from_millis(u64::from(hold)));
        for key in known.iter().rev() {
            room &= self.handle.key(*key, false);
        }
        if !room {
            return Err(OperationError::new("the guest doesn't read its keyboard: keys were lost"));
        }
        Ok(Reply::Done)
    }

    fn move_mouse(&self, dx: i32, dy: i32, dz: i32) -> Reply {
        // A tablet's pointer is put somewhere, a mouse is moved.
        if self.handle.pointer_is_absolute() {
            let place = |to: i32| to.clamp(0, TABLET_MAX.into()) as u16;
            self.handle.point((place(dx), place(dy)), dz, *lock(&self.buttons));
            return Reply::Done;
        }
        // Down the screen is towards the user, which a mouse counts as negative.
        self.handle.move_mouse(dx, dy.saturating_neg(), dz, *lock(&self.buttons));
        Reply::Done
    }

    /// The mouse, and the tablet, which is listened to once its driver is up.
    fn mice(&self) -> Vec<MouseInfo> {
        let tablet = self.handle.pointer_is_absolute();
        let one = |index, name: &str, current, absolute| MouseInfo { name: name.into(), index, current, absolute };
        let mut mice = vec![one(0, "PS/2 mouse", !tablet, false)];
        if self.handle.has_tablet() {
            mice.push(one(1, "virtio tablet", tablet, true));
        }
        mice
    }

    fn press_buttons(&self, wanted: MouseButtons) -> Reply {
        let MouseButtons { left, middle, right } = wanted;
        let buttons = Buttons { left, middle, right, ..Buttons::default() };
        *lock(&self.buttons) = buttons;
        match self.handle.pointer().filter(|_| self.handle.pointer_is_absolute()) {
            Some(at) => _ = self.handle.point(at, 0, buttons),
            None => self.handle.move_mouse(0, 0, 0, buttons),
        }
        Reply::Done
    }

    fn screenshot(&self, screenshot: &Screenshot) -> Result {
        let Some(screen) = self.handle.screen() else { return Err(OperationError::new("the VM has no screen")) };
        let picture = screen.picture();
        let Screenshot { path, png } = screenshot;
        let written = if *png { write_png(path, &picture) } else { std::fs::write(path, picture.to_ppm()) };
        written.map_err(|error| OperationError::new(format!("cannot write {path}: {error}")))?;
        Ok(Reply::Done)
    }

    fn start_capture(&self, wave: &Wave) -> Result {
        let Wave { path, frequency, bits, channels } = wave;
        let form = WaveForm { frequency: *frequency, bits: *bits, channels: *channels };
        let started = self.recorder.start(path.as_ref(), form);
        started.map_err(|error| OperationError::new(format!("cannot write {path}: {error}")))?;
        Ok(Reply::Done)
    }

    fn stop_capture(&self, index: usize) -> Result {
        if self.recorder.stop(index) {
            return Ok(Reply::Done);
        }
        Err(OperationError::new(format!("there is no recording {index}: info capture lists them")))
    }

    fn captures(&self) -> Vec<CaptureInfo> {
        let one = |(path, form, bytes): (String, WaveForm, u32)| {
            let WaveForm { frequency, bits, channels } = form;
            CaptureInfo { wave: Wave { path, frequency, bits, channels }, bytes: u64::from(bytes) }
        };
        self.recorder.list().into_iter().map(one).collect()
    }

    fn set_balloon(&self, bytes: u64) -> Result {
        let give = self.memory.saturating_sub(bytes.max(1 << 20)) >> 12;
        let pages = u32::try_from(give).map_err(failed)?;
        lock(&self.balloon).config_changed(|balloon| balloon.set_target(pages));
        Ok(Reply::Done)
    }

    fn set_link(&self, link: &NetworkLink) -> Result {
        let index = self.cards.iter().position(|(info, _)| info.name == link.name);
        let index = index.ok_or_else(|| OperationError::no_device(&link.name))?;
        self.cards[index].1.set_link(link.up);
        Ok(Reply::Done)
    }

    fn gdb_server(&self, address: Option<&str>) -> Result {
        let mut debugger = lock(&self.debugger);
        let Some(address) = address else {
            if let Some(stub) = debugger.take() {
                stub.end();
            }
            return Ok(Reply::Text("Disabled gdbserver\n".into()));
        };
        if debugger.is_some() {
            return Err(OperationError::new("a gdb stub listens already: gdbserver none ends it"));
        }
        let place: crate::GdbAddress = address.parse().map_err(failed)?;
        if !place.is_loopback() {
            return Err(OperationError::new("let gdb connect at 127.0.0.1: it reads and writes the whole guest"));
        }
        let told = |error: std::io::Error| OperationError::new(format!("cannot listen at {}: {error}", place.0));
        *debugger = Some(Stub::listen(&place.0, self.control.clone()).map_err(told)?);
        Ok(Reply::Text(format!("Waiting for gdb connection on device 'tcp:{}'\n", place.0)))
    }
}

fn change_log(command: &Command) -> Result {
    let control = log::control().ok_or_else(|| OperationError::new("this process has no log that could be changed"))?;
    match command {
        Command::Log { items } => control.set_filter(items.as_deref()).map_err(OperationError::new)?,
        Command::LogFile { path } => {
            let told = |error| OperationError::new(format!("cannot write {path}: {error}"));
            control.set_file(path.as_ref()).map_err(told)?;
        }
        _ => {}
    }
    Ok(Reply::Done)
}

fn write_png(path: &str, picture: &crate::Surface) -> std::io::Result<()> {
    let mut encoder =
        png::Encoder::new(BufWriter::new(std::fs::File::create(path)?), picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let bytes: Vec<u8> =
        picture.pixels().iter().flat_map(|pixel| [(pixel >> 16) as u8, (pixel >> 8) as u8, *pixel as u8]).collect();
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&bytes)?;
    writer.finish()?;
    Ok(())
}
