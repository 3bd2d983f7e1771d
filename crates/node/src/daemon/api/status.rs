//! How a node stands, as the API tells it.

use ferro_cluster::group::{Role, Sole, UnitState};
use ferro_cluster::heartbeat::{LinkState, PeerState};
use ferro_cluster::{Arbiter, Overview, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::assemble::vm_place;
use super::super::config::NodeConfig;
use crate::cluster::Handle;
use crate::infra::{DEFAULT_GROUP, Infra, MirrorSettings};
use crate::mirror::{Command, Place, call};

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// Its number in the pair.
    pub number: u8,
    /// The process of its daemon: another one after each `ferro up` and `down`.
    pub pid: u32,
    /// What is declared.
    pub infra: String,
    /// `unknown`, `alive`, `late`, `dead`; none where there is no pair.
    pub peer: Option<String>,
    /// `witness`, `fence`, `none`.
    pub arbiter: String,
    /// Ways to the peer.
    pub links: Vec<LinkStatus>,
    /// Resource groups.
    pub groups: Vec<GroupStatus>,
    /// Virtual machines.
    pub vms: Vec<VmStatus>,
    /// Mirrored disks.
    #[serde(default)]
    pub mirrors: Vec<MirrorStatus>,
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkStatus {
    /// Where this node listens.
    pub address: String,
    /// `up`, `down`.
    pub state: String,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// `stopped`, `claiming`, `starting`, `active`, `stopping`: on this node.
    pub role: String,
    /// The same on the peer; none if that isn't there.
    pub peer_role: Option<String>,
    /// The epoch.
    pub epoch: u64,
    /// Whose data are valid: `both`, `this`, `peer`.
    pub data: String,
    /// Whether a standby has been asked for.
    pub standby: bool,
    /// Whether a maintenance has.
    pub maintenance: bool,
    /// Whether it failed on this node.
    pub failed: bool,
    /// Whether the peer has another infra.toml.
    pub differs: bool,
    /// Milliseconds for which this node may still run it, if that isn't prolonged; none if without end, or not here.
    pub permission_ms: Option<u64>,
    /// Whether the witness answers; none if it isn't asked.
    pub witness: Option<bool>,
    /// Why it isn't started here.
    pub waiting: Option<String>,
    /// Its parts.
    pub units: Vec<UnitStatus>,
}

/// A part of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnitStatus {
    /// Its name.
    pub name: String,
    /// `stopped`, `starting`, `running`, `stopping`, `failed`.
    pub state: String,
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VmStatus {
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: String,
    /// `running`, `stopped`, `halted` (by an operator), `elsewhere`.
    pub state: String,
    /// Its process.
    pub pid: Option<i32>,
    /// The socket of its serial console.
    pub console: String,
    /// The socket that takes QMP.
    pub qmp: String,
}

/// A mirrored disk; on a node alone, a plain image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MirrorStatus {
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Bytes of the disk.
    pub size: u64,
    /// `plain` (on a node alone), `down` (its process doesn't answer), or `standalone`, `connecting`, `handshake`,
    /// `connected`.
    pub connection: String,
    /// `primary`, `secondary`; none where there is no process.
    pub role: Option<String>,
    /// This node's data: `up-to-date`, `consistent`, `inconsistent`, `failed`, `unknown`.
    pub disk: Option<String>,
    /// The peer's.
    pub peer_disk: Option<String>,
    /// Bytes in which the two differ, as far as is known.
    pub out_of_sync: Option<u64>,
}

fn mirror(config: &NodeConfig, settings: &MirrorSettings) -> MirrorStatus {
    let alone = config.cluster.is_none();
    let told = match Place::new(&config.mirrors(), &settings.name) {
        Ok(place) if !alone => call(&place, Command::Status).unwrap_or_default(),
        _ => Value::Null,
    };
    let word = |key: &str| told[key].as_str().map(str::to_owned);
    let absent = if alone { "plain" } else { "down" };
    MirrorStatus {
        name: settings.name.clone(),
        group: settings.group.clone().unwrap_or_else(|| DEFAULT_GROUP.into()),
        size: settings.bytes().unwrap_or(0),
        connection: word("connection").unwrap_or_else(|| absent.into()),
        role: word("role"),
        disk: word("disk"),
        peer_disk: word("peer-disk"),
        out_of_sync: told["out-of-sync"].as_u64(),
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Stopped => "stopped",
        Role::Claiming => "claiming",
        Role::Starting => "starting",
        Role::Active => "active",
        Role::Stopping => "stopping",
    }
}

fn group(now: Time, overview: &Overview, alive: bool) -> GroupStatus {
    GroupStatus {
        name: overview.name.clone(),
        role: role(overview.own.role).into(),
        peer_role: overview.peer.filter(|_| alive).map(|report| role(report.role).into()),
        epoch: overview.durable.epoch,
        data: match overview.durable.sole {
            Sole::Nobody => "both",
            Sole::This => "this",
            Sole::Peer => "peer",
        }
        .into(),
        standby: overview.durable.standby,
        maintenance: overview.durable.maintenance,
        failed: overview.failed,
        differs: overview.differs,
        permission_ms: overview.permission.map(|until| u64::try_from(until.since(now).as_millis()).unwrap_or(u64::MAX)),
        witness: overview.witness,
        waiting: overview.waiting.map(|why| why.to_string()),
        units: overview
            .units
            .iter()
            .map(|(name, state)| UnitStatus {
                name: name.clone(),
                state: match state {
                    UnitState::Stopped => "stopped",
                    UnitState::Starting => "starting",
                    UnitState::Running => "running",
                    UnitState::Stopping => "stopping",
                    UnitState::Failed => "failed",
                }
                .into(),
            })
            .collect(),
    }
}

/// Everything; `None` if the daemon is ending.
pub(super) fn gather(config: &NodeConfig, infra: &Infra, handle: &Handle) -> Option<NodeStatus> {
    let report = handle.report()?;
    let vms = infra.vms.iter().map(|vm| {
        let place = vm_place(config, &vm.name);
        let name = vm.group.clone().unwrap_or_else(|| DEFAULT_GROUP.into());
        let pid = place.processes().first().map(|pid| pid.as_raw_nonzero().get());
        let here = report.groups.iter().any(|group| group.name == name && group.own.role.is_running());
        let state = match pid {
            Some(_) => "running",
            None if place.halted().exists() => "halted",
            None if here => "stopped",
            None => "elsewhere",
        };
        VmStatus {
            name: vm.name.clone(),
            group: name,
            state: state.into(),
            pid,
            console: place.console().display().to_string(),
            qmp: place.qmp().display().to_string(),
        }
    });
    let alive = matches!(report.peer, Some(PeerState::Alive | PeerState::Late));
    let links = report.links.iter().map(|(address, state)| LinkStatus {
        address: address.clone(),
        state: if *state == LinkState::Up { "up" } else { "down" }.into(),
    });
    Some(NodeStatus {
        node: config.name.clone(),
        number: report.node.index(),
        pid: std::process::id(),
        infra: infra.name.clone(),
        peer: report.peer.map(|peer| {
            match peer {
                PeerState::Unknown => "unknown",
                PeerState::Alive => "alive",
                PeerState::Late => "late",
                PeerState::Dead => "dead",
            }
            .into()
        }),
        arbiter: match report.arbiter {
            Arbiter::Witness => "witness",
            Arbiter::Fence => "fence",
            Arbiter::None => "none",
        }
        .into(),
        links: links.collect(),
        groups: report.groups.iter().map(|overview| group(report.now, overview, alive)).collect(),
        vms: vms.collect(),
        mirrors: infra.mirrors.iter().map(|settings| mirror(config, settings)).collect(),
    })
}
