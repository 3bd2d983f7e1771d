//! A node's status for people: tables, and sentences that say why.

use std::fmt::Write;

use ferro_node::daemon::api::{GroupStatus, NodeStatus};
use serde_json::Value;

use crate::net::report::table;

/// The node, the links and the groups.
pub(super) fn status(status: &NodeStatus) -> String {
    let mut text = match &status.peer {
        Some(peer) => {
            format!("node {} (number {}), peer {peer}, arbiter {}\n", status.node, status.number, status.arbiter)
        }
        None => format!("node {}, alone\n", status.node),
    };
    for (number, link) in status.links.iter().enumerate() {
        let _ = writeln!(text, "link {} ({}): {}", number + 1, link.address, link.state);
    }
    text.push('\n');
    let rows: Vec<[String; 6]> = status
        .groups
        .iter()
        .map(|group| {
            [
                group.name.clone(),
                group.role.clone(),
                group.peer_role.clone().unwrap_or_else(|| "-".into()),
                group.epoch.to_string(),
                match group.data.as_str() {
                    "both" => "on both nodes".into(),
                    "this" => "only here".into(),
                    _ => "only at the peer".into(),
                },
                notes(group),
            ]
        })
        .collect();
    text += &table(["GROUP", "HERE", "PEER", "EPOCH", "VALID DATA", "NOTES"], &rows);
    for group in &status.groups {
        text.push('\n');
        let rows: Vec<[String; 2]> = group.units.iter().map(|unit| [unit.name.clone(), unit.state.clone()]).collect();
        text += &table([group.name.as_str(), "STATE"], &rows);
    }
    text
}

fn notes(group: &GroupStatus) -> String {
    let mut notes = Vec::new();
    if group.standby {
        notes.push("standby".to_owned());
    }
    if group.maintenance {
        notes.push("maintenance".to_owned());
    }
    if group.failed {
        notes.push("failed here".to_owned());
    }
    if group.differs {
        notes.push("the peer has another infra.toml".to_owned());
    }
    if group.witness == Some(false) {
        notes.push("witness silent".to_owned());
    }
    if let Some(left) = group.permission_ms {
        notes.push(format!("permission for {left} ms"));
    }
    notes.join(", ")
}

/// The VMs.
pub(super) fn vms(status: &NodeStatus) -> String {
    let rows: Vec<[String; 4]> = status
        .vms
        .iter()
        .map(|vm| {
            let pid = vm.pid.map_or_else(|| "-".into(), |pid| pid.to_string());
            [vm.name.clone(), vm.state.clone(), vm.group.clone(), pid]
        })
        .collect();
    table(["VM", "STATE", "GROUP", "PID"], &rows)
}

/// The log.
pub(super) fn events(events: &Value) -> String {
    let mut text = String::new();
    for event in events.as_array().into_iter().flatten() {
        let at = event["at"].as_i64().and_then(chrono::DateTime::from_timestamp_millis).unwrap_or_default();
        let at = at.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S%.3f");
        let _ = writeln!(text, "{at}  {}", event["text"].as_str().unwrap_or_default());
    }
    text
}

/// Why things are as they are.
pub(super) fn explain(status: &NodeStatus) -> String {
    let mut text = String::new();
    match status.peer.as_deref() {
        None => text += "This node is no part of a pair: it runs everything itself.\n",
        Some("alive") => text += "The peer is there.\n",
        Some("late") => text += "The peer has been silent for longer than warntime, but not for deadtime.\n",
        Some("unknown") => text += "The peer hasn't been heard since this node started; initdead isn't over.\n",
        Some(_) => text += "The peer is silent on every link: it is taken for dead. If it isn't, look at the cables.\n",
    }
    for group in &status.groups {
        let _ = match (group.role.as_str(), &group.waiting) {
            ("active" | "starting", _) => writeln!(
                text,
                "{}: runs here in epoch {}{}.",
                group.name,
                group.epoch,
                match group.data.as_str() {
                    "this" => "; the peer lacks data, and won't start it until it has them",
                    _ => "",
                }
            ),
            (_, Some(why)) => writeln!(text, "{}: doesn't run here: {why}.", group.name),
            (role, None) => writeln!(text, "{}: {role}.", group.name),
        };
        if group.differs {
            let _ =
                writeln!(text, "{}: the peer has another infra.toml: 'ferro up' the same file on both.", group.name);
        }
    }
    text
}
