//! The threads that do what the engine wants: parts of groups, a group's mirrors, records. Each takes orders by a channel
//! and reports to the owner.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use ferro_cluster::group::{Data, Durable, Found, Operation};
use ferro_cluster::{Arbiter, Input, Time};

use super::{Handle, Member, StartError, store, thread};
use crate::resource::{Mirrored, Resource, Start, Wish};

/// What a part's thread is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) serial: u64,
    pub(super) operation: Operation,
}

/// A part's thread.
pub(super) struct Worker {
    orders: Sender<Job>,
    newest: Arc<AtomicU64>,
}

impl Worker {
    pub(super) fn start(
        group: usize,
        unit: usize,
        mut resource: Box<dyn Resource>,
        confirmed: &Arc<AtomicU64>,
        inbox: &Handle,
    ) -> Result<Self, StartError> {
        let (orders, jobs) = channel::<Job>();
        let newest = Arc::new(AtomicU64::new(0));
        let (void, confirmed, inbox) = (Arc::clone(&newest), Arc::clone(confirmed), inbox.clone());
        thread("resource", move || {
            for Job { serial, operation } in jobs {
                let wish = Wish::new(serial, Arc::clone(&void));
                let result = match operation {
                    Operation::Start { .. } | Operation::Monitor if wish.is_void() => Err("it was given up".into()),
                    Operation::Start { epoch, alone, force } => {
                        let result = resource.start(Start { epoch, alone, force }, &wish);
                        confirmed.fetch_max(serial, Ordering::AcqRel);
                        result
                    }
                    Operation::Stop { hard } => resource.stop(hard, &wish),
                    Operation::Monitor => resource.monitor(),
                };
                inbox.engine(Input::UnitDone { group, unit, serial, result });
            }
        })?;
        Ok(Self { orders, newest })
    }

    /// Gives an order; what is being done for an earlier one is void, unless that was only a look.
    pub(super) fn order(&self, job: Job) {
        self.newest.fetch_max(job.serial, Ordering::AcqRel);
        // Its thread lives as long as this.
        let _ = self.orders.send(job);
    }
}

/// What a group's mirrors' thread is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Watch {
    GoAlone { serial: u64 },
}

/// Starts the thread that looks at a group's mirrors again and again. What it reports has the number of the last
/// permission to go on alone that was carried out before it looked.
pub(super) fn watch(
    group: usize,
    mut mirrors: Vec<Box<dyn Mirrored>>,
    keepalive: Duration,
    inbox: &Handle,
) -> Result<(Sender<Watch>, Arc<AtomicU64>), StartError> {
    let (sender, orders) = channel::<Watch>();
    let confirmed = Arc::new(AtomicU64::new(0));
    if mirrors.is_empty() {
        return Ok((sender, confirmed));
    }
    let (done, inbox) = (Arc::clone(&confirmed), inbox.clone());
    let pause = keepalive.clamp(Duration::from_millis(10), Duration::from_millis(100));
    thread("mirrors", move || {
        let mut last = None;
        loop {
            let before = done.load(Ordering::Acquire);
            let each: Vec<Data> = mirrors.iter_mut().map(|mirror| mirror.look()).collect();
            let data = Data {
                usable: each.iter().all(|data| data.usable),
                in_sync: each.iter().all(|data| data.in_sync),
                frozen: each.iter().any(|data| data.frozen),
                confirmed: before,
            };
            // What waits is told again: the engine may have answered, and the answer not have been enough.
            if last != Some(data) || data.frozen {
                last = Some(data);
                if !inbox.engine(Input::Data { group, data }) {
                    return;
                }
            }
            match orders.recv_timeout(pause) {
                Ok(Watch::GoAlone { serial }) => {
                    mirrors.iter_mut().for_each(|mirror| mirror.go_alone());
                    done.fetch_max(serial, Ordering::AcqRel);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    })?;
    Ok((sender, confirmed))
}

/// Starts the thread that writes records, in order.
pub(super) fn records(
    path: PathBuf,
    names: Vec<String>,
    mut all: BTreeMap<String, Durable>,
    inbox: &Handle,
) -> Result<Sender<(usize, u64, Durable)>, StartError> {
    let (sender, orders) = channel::<(usize, u64, Durable)>();
    let inbox = inbox.clone();
    thread("records", move || {
        for (group, version, durable) in orders {
            let Some(name) = names.get(group) else { continue };
            all.insert(name.clone(), durable);
            // Until it is written the engine does nothing that relies on it.
            while let Err(error) = store::save(&path, &all) {
                tracing::error!("{error}: trying again");
                std::thread::sleep(Duration::from_secs(1));
            }
            if !inbox.engine(Input::Persisted { group, version }) {
                return;
            }
        }
    })?;
    Ok(sender)
}

/// Looks what of a group runs already, from an earlier daemon's time, with permission that isn't over. What has none is
/// taken down.
pub(super) fn find(member: &mut Member, durable: Durable, arbiter: Arbiter, inherited: Option<Time>) -> Found {
    let until = match arbiter {
        Arbiter::Witness => inherited,
        // Nothing ends by itself there.
        Arbiter::Fence | Arbiter::None => Some(Time(u64::MAX)),
    };
    if durable.active && until.is_some() {
        let running: Vec<bool> = member.resources.iter_mut().map(|resource| resource.monitor().is_ok()).collect();
        if running.contains(&true) {
            return Found { durable, adopted: until, running };
        }
    }
    let wish = Wish::new(u64::MAX, Arc::default());
    for resource in member.resources.iter_mut().rev() {
        if let Err(why) = resource.stop(true, &wish) {
            tracing::warn!("what an earlier daemon left can't be stopped: {why}");
        }
    }
    Found { durable, adopted: None, running: vec![] }
}
