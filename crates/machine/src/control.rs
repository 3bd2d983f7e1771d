//! Commanding a running VM from any thread: pause, resume, reset, power off, and work on a vCPU's registers in the
//! thread that owns it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use ferro_devices::i8042::ResetLine;
use ferro_devices::power::{PowerRequest, PowerSwitch};
use ferro_guest::GuestMemory;
use ferro_hypervisor::{DebugStop, Vcpu, Vm};

use crate::bus::lock;

/// What happened that the run loop has to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest switched itself off.
    PoweredOff,
    /// The guest, a triple fault, or somebody outside asks for a reset.
    ResetRequested {
        /// The guest did, rather than somebody outside.
        guest: bool,
    },
    /// Somebody wants the VM to end now.
    Quit,
    /// A vCPU stopped for the debugger.
    Debug {
        /// Which one.
        vcpu: u32,
        /// Why.
        stop: DebugStop,
    },
    /// The accelerator can't go on.
    Failed(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Paused,
    Ended,
}

type Job = Box<dyn FnOnce(&mut dyn Vcpu) + Send>;

struct State {
    phase: Phase,
    parked: u32,
    /// Threads beside the vCPUs' that are at work on the guest's memory or devices.
    working: u32,
    /// A bit for each vCPU that runs when the VM does: all, unless a debugger holds some.
    allowed: u64,
    /// Somebody stopped the VM, and it stays so until told to go on, whatever happens meanwhile.
    stopped: bool,
    /// The VM is kept still to look at the whole of it.
    still: bool,
    /// The vCPUs that go on when it is no longer kept still.
    after_still: Option<u64>,
    /// A state was half taken over: it doesn't run until it has a whole one.
    broken: bool,
    /// The vCPUs have used their processor time for now.
    rationed: bool,
}

/// The handle to a VM's vCPU threads.
pub struct Control {
    vm: Arc<dyn Vm>,
    state: Mutex<State>,
    changed: Condvar,
    jobs: Vec<Mutex<Sender<Job>>>,
    events: Mutex<Sender<Event>>,
    /// Held by whoever replaces the whole state of the VM, or looks at the whole of it.
    whole: Mutex<()>,
}

/// What a vCPU thread does next.
pub(crate) enum Turn {
    Run,
    End,
}

impl Control {
    /// A handle for `vcpus` vCPUs that begin paused, with each one's end of the job queue.
    pub(crate) fn new(vm: Arc<dyn Vm>, vcpus: u32, events: Sender<Event>) -> (Arc<Self>, Vec<JobQueue>) {
        let (jobs, queues): (Vec<_>, Vec<_>) = (0..vcpus)
            .map(|vcpu| {
                let (sender, receiver) = channel();
                (Mutex::new(sender), JobQueue { vcpu, jobs: receiver })
            })
            .unzip();
        let state = Mutex::new(State {
            phase: Phase::Paused,
            parked: 0,
            working: 0,
            allowed: u64::MAX,
            stopped: false,
            still: false,
            after_still: None,
            broken: false,
            rationed: false,
        });
        let (events, whole) = (Mutex::new(events), Mutex::default());
        (Arc::new(Self { vm, state, changed: Condvar::new(), jobs, events, whole }), queues)
    }

    /// Reports something to the run loop.
    pub fn report(&self, event: Event) {
        // Nobody listens any more when the VM has ended.
        let _ = lock(&self.events).send(event);
    }

    /// How many vCPUs there are.
    pub(crate) fn vcpus(&self) -> u32 {
        self.jobs.len() as u32
    }

    /// The guest's memory.
    pub(crate) fn memory(&self) -> &Arc<GuestMemory> {
        self.vm.memory()
    }

    fn set_phase(&self, phase: Phase) {
        let mut state = lock(&self.state);
        if state.phase != Phase::Ended {
            state.phase = phase;
        }
        drop(state);
        self.changed.notify_all();
        (0..self.vcpus()).for_each(|vcpu| self.vm.kick(vcpu));
    }

    /// Lets the vCPUs run.
    pub fn resume(&self) {
        self.resume_some(u64::MAX);
    }

    /// Stops the VM until [`Control::go_on`], through resets too.
    pub(crate) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.pause();
    }

    /// Lets a VM go on that was stopped, or has not begun.
    pub(crate) fn go_on(&self) {
        lock(&self.state).stopped = false;
        self.resume();
    }

    /// Lets the vCPUs run after something for which they had to be still, unless the VM is stopped.
    pub(crate) fn resume_unless_stopped(&self) {
        if !lock(&self.state).stopped {
            self.resume();
        }
    }

    /// The VM is not to begin by itself.
    pub(crate) fn begin_stopped(&self) {
        lock(&self.state).stopped = true;
    }

    /// Whether the vCPUs may run.
    pub(crate) fn is_running(&self) -> bool {
        lock(&self.state).phase == Phase::Running
    }

    /// Lets those vCPUs run whose bit is set, and no others.
    pub(crate) fn resume_some(&self, allowed: u64) {
        let mut state = lock(&self.state);
        if state.broken {
            return;
        }
        if state.still {
            state.after_still = Some(allowed);
            return;
        }
        state.allowed = allowed;
        drop(state);
        self.vm.clock().start();
        self.set_phase(Phase::Running);
    }

    /// Stops all vCPUs and the I/O threads; returns when none is at work any more. Not to be called by one of them.
    pub fn pause(&self) {
        lock(&self.state).after_still = None;
        self.halt();
    }

    fn halt(&self) {
        self.set_phase(Phase::Paused);
        let state = lock(&self.state);
        let all = self.vcpus();
        let busy = |state: &mut State| (state.parked < all || state.working > 0) && state.phase == Phase::Paused;
        drop(self.changed.wait_while(state, busy));
        self.vm.clock().stop();
    }

    /// Keeps the VM still until the answer is dropped; then it goes on if it ran before, or if it was told to meanwhile.
    /// Whoever else needs the whole VM waits as long: resets do. Not to be called by a vCPU's thread.
    pub(crate) fn keep_still(&self) -> Still<'_> {
        let whole = lock(&self.whole);
        {
            // From here on nobody lets it go on before this does.
            let mut state = lock(&self.state);
            state.still = true;
            state.after_still = (state.phase == Phase::Running).then_some(state.allowed);
        }
        self.halt();
        Still { control: self, _whole: whole }
    }

    /// Waits until nobody needs the whole VM, and keeps others from it.
    pub(crate) fn whole(&self) -> MutexGuard<'_, ()> {
        lock(&self.whole)
    }

    /// Whether the VM is kept still.
    pub(crate) fn is_still(&self) -> bool {
        lock(&self.state).still
    }

    /// Whether a state was half taken over.
    pub(crate) fn is_broken(&self) -> bool {
        lock(&self.state).broken
    }

    /// As [`Control::while_running`], but does nothing while the VM is paused.
    pub(crate) fn if_running(&self, work: impl FnOnce()) {
        let mut state = lock(&self.state);
        if state.phase != Phase::Running {
            return;
        }
        state.working += 1;
        drop(state);
        work();
        lock(&self.state).working -= 1;
        self.changed.notify_all();
    }

    /// Does a device's work in a thread beside the vCPUs', as soon as the VM isn't paused. `None`, without having done it, when
    /// the VM has ended.
    pub(crate) fn while_running<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let mut state = self
            .changed
            .wait_while(lock(&self.state), |state| state.phase == Phase::Paused)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if state.phase == Phase::Ended {
            return None;
        }
        state.working += 1;
        drop(state);
        let result = work();
        lock(&self.state).working -= 1;
        self.changed.notify_all();
        Some(result)
    }

    /// Stops all vCPUs without waiting: for a vCPU's thread that must not go on.
    pub(crate) fn hold(&self) {
        self.set_phase(Phase::Paused);
    }

    /// Holds the vCPUs where they are, or lets them go on; the VM counts as running all the same.
    pub(crate) fn ration(&self, rationed: bool) {
        let mut state = lock(&self.state);
        if state.rationed == rationed {
            return;
        }
        state.rationed = rationed;
        drop(state);
        self.changed.notify_all();
        if rationed {
            (0..self.vcpus()).for_each(|vcpu| self.vm.kick(vcpu));
        }
    }

    /// Whether the VM has ended.
    pub(crate) fn is_over(&self) -> bool {
        lock(&self.state).phase == Phase::Ended
    }

    /// Ends all vCPU threads.
    pub(crate) fn end(&self) {
        self.set_phase(Phase::Ended);
    }

    /// Has `work` done by the thread that owns the vCPU, between two guest instructions, and waits for its result;
    /// `None` if the VM has ended. Not to be called by a vCPU's thread.
    pub fn with_vcpu<T: Send + 'static>(
        &self,
        vcpu: u32,
        work: impl FnOnce(&mut dyn Vcpu) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = channel();
        let job: Job = Box::new(move |vcpu| {
            let _ = sender.send(work(vcpu));
        });
        lock(self.jobs.get(vcpu as usize)?).send(job).ok()?;
        // The lock orders this announcement after the thread's last look at its queue.
        drop(lock(&self.state));
        self.changed.notify_all();
        self.vm.kick(vcpu);
        receiver.recv().ok()
    }

    /// What the vCPU's thread does next; sleeps while the VM is paused, doing jobs in between.
    pub(crate) fn next_turn(&self, queue: &JobQueue, vcpu: &mut dyn Vcpu) -> Turn {
        let mut parked = false;
        loop {
            let mut state = lock(&self.state);
            if let Ok(job) = queue.jobs.try_recv() {
                drop(state);
                job(vcpu);
                continue;
            }
            let held = state.allowed >> (queue.vcpu % u64::BITS) & 1 == 0;
            let park = state.phase == Phase::Paused || state.phase == Phase::Running && held;
            if parked != park {
                parked = park;
                state.parked = if park { state.parked + 1 } else { state.parked - 1 };
                self.changed.notify_all();
            }
            match state.phase {
                Phase::Running if !park && !state.rationed => return Turn::Run,
                Phase::Ended => return Turn::End,
                Phase::Paused | Phase::Running => drop(self.changed.wait(state)),
            }
        }
    }
}

/// A VM that is kept still: see [`Control::keep_still`].
pub(crate) struct Still<'a> {
    control: &'a Control,
    _whole: MutexGuard<'a, ()>,
}

impl Still<'_> {
    /// Says whether the VM has half of a state, and must not run before it has a whole one.
    pub(crate) fn set_broken(&self, broken: bool) {
        lock(&self.control.state).broken = broken;
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        let after = {
            let mut state = lock(&self.control.state);
            state.still = false;
            state.after_still.take()
        };
        if let Some(allowed) = after {
            self.control.resume_some(allowed);
        }
    }
}

/// A vCPU thread's end of its job queue.
pub(crate) struct JobQueue {
    vcpu: u32,
    jobs: Receiver<Job>,
}

/// The power switch and the reset line, as the chips reach them.
#[derive(Clone)]
pub(crate) struct Switch(pub(crate) Arc<Control>);

impl PowerSwitch for Switch {
    fn request(&self, request: PowerRequest) {
        let PowerRequest::Off = request;
        self.0.report(Event::PoweredOff);
    }
}

impl ResetLine for Switch {
    fn reset(&self) {
        self.0.report(Event::ResetRequested { guest: true });
    }
}
