//! `ferro migrate`: a VM's move to the other node by way of its group. Cold: it is shut down here and started there, from
//! the mirrored disk. Moving the memory of a VM that runs isn't there.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use ferro_node::daemon::api::{GroupRequest, GroupStatus, NodeStatus};

use super::{Daemon, PATIENCE};
use crate::exit;

/// Flags of `ferro migrate`.
#[derive(Debug, clap::Args)]
pub(crate) struct MigrateArgs {
    /// The VM
    vm: String,
    /// Shut it down here and start it there: the only way there is
    #[arg(long, required = true)]
    cold: bool,
    /// The node's number, 0 or 1
    #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u8).range(0..=1))]
    to: u8,
    #[command(flatten)]
    daemon: Daemon,
}

/// The group that has to be moved for a VM's sake: one in which there is nothing but the VM and its mirrors.
fn group_of<'a>(status: &'a NodeStatus, name: &str) -> anyhow::Result<&'a GroupStatus> {
    let Some(vm) = status.vms.iter().find(|vm| vm.name == name) else {
        bail!("there is no VM '{name}': 'ferro ps' lists them");
    };
    if status.peer.is_none() {
        bail!("this node is no part of a pair: there is nowhere to go");
    }
    let Some(group) = status.groups.iter().find(|group| group.name == vm.group) else {
        bail!("the group '{}' isn't there (any more)", vm.group);
    };
    let own = format!("vm {name}");
    let is_other = |unit: &&str| *unit != own && !unit.starts_with("mirror ");
    let others: Vec<&str> = group.units.iter().map(|unit| unit.name.as_str()).filter(is_other).collect();
    if !others.is_empty() {
        bail!(
            "the group '{}' has more than this VM: {}. 'ferro cluster move {}' moves them all; a group = of its own in \
             infra.toml lets the VM go alone",
            group.name,
            others.join(", "),
            group.name
        );
    }
    Ok(group)
}

/// Whether a group runs on node `to`, as this node knows.
fn runs_on(status: &NodeStatus, group: &GroupStatus, to: u8) -> bool {
    let role = if status.number == to { Some(&group.role) } else { group.peer_role.as_ref() };
    role.is_some_and(|role| role == "active")
}

impl MigrateArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let status = self.daemon.status()?;
        let group = group_of(&status, &self.vm)?;
        if runs_on(&status, group, self.to) {
            crate::img::print(&format!("{} is there already\n", self.vm))?;
            return Ok(ExitCode::from(exit::OK));
        }
        self.daemon.group("move", &GroupRequest { group: Some(group.name.clone()), node: Some(self.to) })?;
        let start = Instant::now();
        loop {
            // A status that fails now may come later: what was asked for is under way.
            if let Ok(status) = self.daemon.status()
                && let Some(now) = status.groups.iter().find(|one| one.name == group.name)
            {
                if runs_on(&status, now, self.to) {
                    return Ok(ExitCode::from(exit::OK));
                }
                if runs_on(&status, now, 1 - self.to) && now.epoch > group.epoch {
                    bail!(
                        "node {} didn't take {}, so it was started again where it was: ask the daemon of node {} itself",
                        self.to,
                        self.vm,
                        self.to
                    );
                }
            }
            if start.elapsed() > PATIENCE {
                bail!("it takes too long; 'ferro cluster explain' says what it waits for");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(peer: Option<&str>, units: &[&str]) -> NodeStatus {
        let units: Vec<_> = units.iter().map(|name| json!({ "name": name, "state": "running" })).collect();
        serde_json::from_value(json!({
            "node": "alpha", "number": 1, "pid": 1, "infra": "x", "peer": peer, "arbiter": "none", "links": [],
            "groups": [{
                "name": "g", "role": "active", "peer_role": "stopped", "epoch": 3, "data": "both", "standby": false,
                "maintenance": false, "failed": false, "differs": false, "permission_ms": null, "witness": null,
                "waiting": null, "units": units,
            }],
            "vms": [{ "name": "web", "group": "g", "state": "running", "pid": 1, "console": "", "qmp": "" }],
        }))
        .unwrap()
    }

    #[test]
    fn a_vm_goes_alone_or_not_at_all() {
        let alone = status(Some("alive"), &["mirror web", "vm web"]);
        let group = group_of(&alone, "web").unwrap();
        assert!(runs_on(&alone, group, 1) && !runs_on(&alone, group, 0));
        for (status, vm, words) in [
            (status(None, &["vm web"]), "web", "no part of a pair"),
            (status(Some("alive"), &["vm web", "vm mail", "address 192.168.1.1/24"]), "web", "vm mail, address"),
            (alone, "mail", "no VM 'mail'"),
        ] {
            let complaint = group_of(&status, vm).unwrap_err().to_string();
            assert!(complaint.contains(words), "{complaint}");
        }
    }
}
