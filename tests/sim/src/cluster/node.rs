//! One machine of the world: its clock, its disk, its daemon's engine, and what runs on it.

use std::time::Duration;

use ferro_cluster::group::{Durable, Found, GroupConfig, Operation, UnitConfig};
use ferro_cluster::heartbeat::Timing;
use ferro_cluster::{Arbiter, Cluster, Config, Time};

use super::world::{Arbitration, DEADTIME, id, key};
use crate::Rng;

pub(crate) struct Node {
    index: usize,
    arbiter: Arbiter,
    /// How many parts of a thousand its clock goes too fast.
    drift: i64,
    pub(crate) machine: bool,
    pub(crate) cluster: Option<Cluster>,
    pub(crate) boot: u64,
    /// When its engine wants to be called.
    pub(crate) wake: u64,
    machine_boot: u64,
    pub(crate) durable: Durable,
    version_saved: u64,
    running: [bool; 2],
    /// By part, the last order to stop.
    stops: [u64; 2],
    /// Until when what runs may run, by the world's clock.
    pub(crate) permission: Option<u64>,
    pub(crate) version: u64,
    /// Its mirror writes without the peer.
    pub(crate) alone: bool,
    last_epoch: u64,
    /// The last operation that its mirror knows of.
    pub(crate) confirmed: u64,
}

impl Node {
    pub(crate) fn new(index: usize, rng: &mut Rng, arbitration: Arbitration) -> Self {
        Self {
            index,
            arbiter: if arbitration == Arbitration::Fence { Arbiter::Fence } else { Arbiter::Witness },
            drift: i64::try_from(rng.below(11)).unwrap_or(0) - 5,
            machine: false,
            cluster: None,
            boot: 0,
            wake: 0,
            machine_boot: 0,
            durable: Durable::default(),
            version_saved: 0,
            running: [false; 2],
            stops: [0; 2],
            permission: None,
            version: 0,
            alone: false,
            last_epoch: 0,
            confirmed: 0,
        }
    }

    pub(crate) fn describe(&self) -> String {
        let state = self.cluster.as_ref().map(|cluster| {
            let overview = &cluster.overview()[0];
            format!("{:?} peer {:?} {:?}", overview.own, cluster.peer(), overview.waiting)
        });
        format!("node {} {:?} runs {:?} version {} {state:?}", self.index, self.durable, self.running, self.version)
    }

    /// The node's clock at a time of the world's.
    pub(crate) fn clock(&self, now: u64) -> Time {
        Time(now.saturating_add_signed(i64::try_from(now / 1000).unwrap_or(0) * self.drift))
    }

    /// The time of the world's at which its clock shows `time`, or a little later.
    pub(crate) fn when(&self, time: Time) -> u64 {
        let factor = 1000 + self.drift;
        let now = i128::from(time.0) * 1000 / i128::from(factor.max(1));
        u64::try_from(now).unwrap_or(u64::MAX).saturating_add(1000)
    }

    pub(crate) fn is_up(&self, boot: u64) -> bool {
        self.cluster.is_some() && self.boot == boot
    }

    /// Whether the machine on which this daemon ran is still up.
    pub(crate) fn carries_on(&self, boot: u64) -> bool {
        self.machine && boot >= self.machine_boot
    }

    /// Records are written in order.
    pub(crate) fn save(&mut self, version: u64, durable: Durable) {
        if version > self.version_saved {
            (self.version_saved, self.durable) = (version, durable);
        }
    }

    pub(crate) fn issued(&mut self, unit: usize, serial: u64, operation: Operation) {
        if matches!(operation, Operation::Stop { .. }) {
            self.stops[unit] = serial;
        }
    }

    /// A start that isn't finished ends with an order to stop, and when another daemon looks after what is left.
    pub(crate) fn is_cancelled(&self, boot: u64, unit: usize, serial: u64, operation: Operation) -> bool {
        let other = self.cluster.is_some() && self.boot != boot;
        matches!(operation, Operation::Start { .. }) && (other || serial < self.stops[unit])
    }

    /// Its service runs: the part that must not run twice.
    pub(crate) fn is_running(&self) -> bool {
        self.running[1]
    }

    pub(crate) fn boot(&mut self, now: u64, incarnation: u64) {
        self.machine = true;
        let unit = |name: &str, stop: u64| UnitConfig {
            name: name.into(),
            start_timeout: Duration::from_millis(500),
            stop_timeout: Duration::from_millis(stop),
            monitor: Some(Duration::from_millis(300)),
            restarts: 1,
            window: Duration::from_secs(10),
            mirror: name == "mirror",
        };
        let group = GroupConfig {
            name: "service".into(),
            units: vec![unit("mirror", 300), unit("vm", 300)],
            preferred: id(0),
            failback: None,
            mirrored: true,
            fingerprint: 1,
            failure_timeout: Some(Duration::from_secs(2)),
        };
        let timing = Timing {
            keepalive: Duration::from_millis(80),
            warntime: Duration::from_millis(160),
            deadtime: Duration::from_millis(DEADTIME),
            initdead: Duration::from_millis(1000),
        };
        let config = Config {
            node: id(self.index),
            cluster: "pair".into(),
            key: key(),
            links: 1,
            timing,
            arbiter: self.arbiter,
            lease: Duration::from_millis(DEADTIME),
            incarnation,
            groups: vec![group],
        };
        let all = self.running == [true; 2];
        if !all || !self.durable.active {
            self.running = [false; 2];
        }
        let inherited = self.permission.unwrap_or(u64::MAX / 4);
        let adopted = all.then(|| self.clock(inherited));
        self.cluster = Some(Cluster::new(
            self.clock(now),
            &config,
            &[Found { durable: self.durable, adopted, running: vec![true; 2] }],
        ));
    }

    pub(crate) fn crash(&mut self, machine: bool) {
        self.cluster = None;
        self.confirmed = 0;
        self.version_saved = 0;
        self.stops = [0; 2];
        self.boot += 1;
        if machine {
            self.machine_boot = self.boot;
            self.machine = false;
            self.running = [false; 2];
            self.alone = false;
            self.permission = None;
        }
    }

    /// Ends what runs when its permission does.
    pub(crate) fn guard(&mut self, now: u64) {
        let margin = DEADTIME / 16 * 1_000_000;
        if self.permission.is_some_and(|until| now >= until.saturating_sub(margin)) {
            self.running = [false; 2];
            self.alone = false;
        }
    }

    /// Whether the service starts in a new epoch, and what becomes of the operation.
    pub(crate) fn operate(
        &mut self,
        now: u64,
        unit: usize,
        op: Operation,
        connected: bool,
    ) -> (bool, Result<(), String>) {
        match op {
            Operation::Start { epoch, alone, .. } => {
                // What had been begun under a permission that is over isn't finished.
                let margin = DEADTIME / 16 * 1_000_000;
                if self.permission.is_some_and(|until| now >= until.saturating_sub(margin)) {
                    return (false, Err("too late".into()));
                }
                self.running[unit] = true;
                if unit == 0 {
                    self.alone = alone && !connected;
                    return (false, Ok(()));
                }
                let first = epoch > self.last_epoch;
                self.last_epoch = epoch;
                (first, Ok(()))
            }
            Operation::Stop { .. } => {
                self.running[unit] = false;
                if unit == 0 {
                    self.alone = false;
                }
                (false, Ok(()))
            }
            Operation::Monitor if self.running[unit] => (false, Ok(())),
            Operation::Monitor => (false, Err("it doesn't run".into())),
        }
    }
}
