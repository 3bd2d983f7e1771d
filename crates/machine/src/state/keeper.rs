//! Takes the state of a stopped VM, and puts one into a stopped VM: which sections there are, and in which order they go
//! in, so that nothing is half taken over. Disks are somebody else's business.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use ferro_devices::pci::PciBus;
use ferro_guest::{LoadError, StateReader, StateSection, StateWriter};
use ferro_hypervisor::{self as hypervisor, Part, Vm, VmClock};

use super::format::{Fingerprint, Section};
use super::memory::{self, Loader, Pagemap};
use super::reader::{Record, StreamReader};
use super::writer::StreamWriter;
use super::{Progress, StateError};
use crate::bus::lock;
use crate::control::Control;
use crate::layout::Arena;

const CLOCK: &str = "clock";
const VCPU: &str = "vcpu";
/// Threads that compress memory at most.
const THREADS: usize = 4;

/// A chip of the board with the name of its section, which says its place, too.
pub(crate) type NamedChip = (String, Arc<Mutex<dyn StateSection>>);

/// What has become of a VM that didn't take a state over.
#[derive(Debug)]
pub(crate) enum LoadFailure<E> {
    /// It is as it was.
    Untouched(E),
    /// It is neither the one nor the other, and must not run.
    Broken(E),
}

/// Saves and loads one VM.
pub(crate) struct Keeper {
    vm: Arc<dyn Vm>,
    control: Arc<Control>,
    chips: Vec<NamedChip>,
    arena: Arena,
    pci: Arc<PciBus>,
    pagemap: Pagemap,
}

impl From<Part> for Section {
    fn from(part: Part) -> Self {
        Self { name: part.name, instance: part.instance, version: part.version, bytes: part.bytes }
    }
}

fn load_error(section: &Section, error: hypervisor::StateError) -> StateError {
    match error {
        hypervisor::StateError::Load(source) => chip_error(section, source),
        hypervisor::StateError::Host(error) => error.into(),
        hypervisor::StateError::Unknown => StateError::Damaged("it has a chip that can't be"),
    }
}

fn chip_error(section: &Section, source: LoadError) -> StateError {
    StateError::Chip { chip: section.name.clone(), source }
}

impl Keeper {
    /// For a VM with these chips. To be made before the process gives up its rights to files.
    pub(crate) fn new(
        vm: Arc<dyn Vm>,
        control: Arc<Control>,
        chips: Vec<NamedChip>,
        arena: Arena,
        pci: Arc<PciBus>,
    ) -> Self {
        Self { vm, control, chips, arena, pci, pagemap: Pagemap::open() }
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint {
            accelerator: self.vm.accelerator().into(),
            cpu: self.vm.cpu_model(),
            vcpus: self.control.vcpus(),
            ram: self.arena.ram,
            rom: self.arena.rom,
            video: self.arena.video,
            chips: self.chips.iter().map(|(name, _)| name.clone()).collect(),
        }
    }

    /// The state of everything but memory. The VM is stopped.
    fn sections(&self) -> Result<Vec<Section>, StateError> {
        let mut clock = StateWriter::new();
        self.vm.clock().save(&mut clock);
        let section = |name: &str, version, bytes| Section { name: name.into(), instance: 0, version, bytes };
        let mut sections = vec![section(CLOCK, VmClock::VERSION, clock.finish())];
        for (name, chip) in &self.chips {
            let chip = lock(chip);
            sections.push(section(name, chip.version(), chip.save_section()));
        }
        for index in 0..self.control.vcpus() {
            let saved = self.control.with_vcpu(index, |vcpu| vcpu.save()).ok_or(StateError::Ended)?;
            let (version, bytes) = saved?;
            sections.push(Section { instance: index, ..section(VCPU, version, bytes) });
        }
        sections.extend(self.vm.save_chips()?.into_iter().map(Section::from));
        Ok(sections)
    }

    /// Puts the state of everything but memory into the VM. The clock is first, because chips look at it, and the
    /// interrupt controllers are last: what lines do while the chips behind them are loaded doesn't count.
    fn put(&self, sections: &[Section]) -> Result<(), StateError> {
        let with_name = |name: &'static str| sections.iter().filter(move |section| section.name == name);
        for section in with_name(CLOCK) {
            let mut from = StateReader::new(&section.bytes);
            let loaded = self.vm.clock().load(section.version, &mut from).and_then(|()| from.finish());
            loaded.map_err(|source| chip_error(section, source))?;
        }
        for (name, chip) in &self.chips {
            for section in sections.iter().filter(|section| section.name == *name) {
                let loaded = lock(chip).load_section(section.version, &section.bytes);
                loaded.map_err(|source| chip_error(section, source))?;
            }
        }
        for section in with_name(VCPU) {
            let (version, bytes) = (section.version, section.bytes.clone());
            let loaded = self.control.with_vcpu(section.instance, move |vcpu| vcpu.load(version, &bytes));
            loaded.ok_or(StateError::Ended)?.map_err(|error| load_error(section, error))?;
        }
        let ours = |section: &&Section| {
            let name = section.name.as_str();
            name != CLOCK && name != VCPU && !self.chips.iter().any(|(chip, _)| chip == name)
        };
        for section in sections.iter().filter(ours) {
            let Section { name, instance, version, bytes } = section.clone();
            let part = Part { name, instance, version, bytes };
            self.vm.load_chip(&part).map_err(|error| load_error(section, error))?;
        }
        Ok(())
    }

    /// Writes the whole VM, which is stopped.
    ///
    /// # Errors
    /// The stream's, the accelerator's.
    pub(crate) fn save(&self, into: impl Write, progress: &Progress) -> Result<(), StateError> {
        let mut writer = StreamWriter::new(into, &self.fingerprint())?;
        for section in self.sections()? {
            writer.section(&section)?;
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
        memory::save(self.vm.memory().ram(), &self.pagemap, progress, threads, |body| writer.memory(body))?;
        writer.finish()?;
        Ok(())
    }

    /// Reads a whole stream and says whether this VM can take it over: its board, versions and checksums. Nothing is
    /// touched. The answer is what [`Keeper::load`] needs.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self, from: impl Read) -> Result<Vec<Section>, StateError> {
        let reader = StreamReader::new(from)?;
        self.fingerprint().check(reader.fingerprint())?;
        reader.sections()
    }

    /// Puts a state into the VM, which is stopped: what [`Keeper::check`] returned, then what `disks` does, then the memory
    /// out of the same stream, which is read once more.
    ///
    /// A state that a chip refuses leaves the VM as it was: what was taken over until then is put back. So does a failure
    /// of `disks` that has changed none. If `disks` fails half way, or the stream can't be read a second time, the VM is
    /// broken, and the caller keeps it stopped.
    ///
    /// # Errors
    /// As said.
    pub(crate) fn load<E: From<StateError>>(
        &self,
        sections: &[Section],
        disks: impl FnOnce() -> Result<(), LoadFailure<E>>,
        memory: impl Read,
        progress: &Progress,
    ) -> Result<(), LoadFailure<E>> {
        let untouched = |error: StateError| LoadFailure::Untouched(error.into());
        let before = self.sections().map_err(untouched)?;
        let key = |section: &Section| (section.name.clone(), section.instance);
        let (mut wanted, mut found): (Vec<_>, Vec<_>) =
            (before.iter().map(key).collect(), sections.iter().map(key).collect());
        wanted.sort();
        found.sort();
        if wanted != found {
            return Err(untouched(StateError::Damaged("it has other sections than its board needs")));
        }
        let put_back = |error: E| match self.put(&before) {
            Ok(()) => LoadFailure::Untouched(error),
            Err(_) => LoadFailure::Broken(error),
        };
        self.put(sections).map_err(|error| put_back(error.into()))?;
        disks().map_err(|failure| match failure {
            LoadFailure::Untouched(error) => put_back(error),
            broken => broken,
        })?;
        self.load_memory(memory, progress).map_err(|error| LoadFailure::Broken(error.into()))?;
        self.pci.loaded();
        self.pci.ring_all();
        Ok(())
    }

    fn load_memory(&self, from: impl Read, progress: &Progress) -> Result<(), StateError> {
        let ram = self.vm.memory().ram();
        let mut reader = StreamReader::new(from)?;
        if reader.fingerprint().memory() != ram.len() as u64 {
            return Err(StateError::Damaged("it has changed while it was read"));
        }
        progress.begin(ram.len() as u64);
        let mut loader = Loader::new(ram);
        loop {
            match reader.next()? {
                Record::Section(_) => {}
                Record::Memory(chunk) => {
                    loader.apply(&chunk)?;
                    progress.advance(chunk.bytes());
                }
                Record::End => return loader.finish(),
            }
        }
    }
}
