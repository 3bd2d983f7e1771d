//! The monitor's commands about snapshots of the whole VM, and the jobs that programs start for them.

use std::sync::Arc;

use chrono::{DateTime, Local};
use ferro_block::qcow2 as block;
use ferro_console::monitor::{Command, Event, OperationError, Reply, SnapshotInfo, SnapshotJob};

use super::operator::{Operator, failed};
use crate::bus::lock;
use crate::snapshot::Scope;
use crate::state::Progress;

type Result = std::result::Result<Reply, OperationError>;

/// A name for a snapshot that was given none.
fn made_up() -> String {
    Local::now().format("vm-%Y%m%d%H%M%S").to_string()
}

fn shown(found: &block::SnapshotInfo) -> SnapshotInfo {
    let date = DateTime::from_timestamp(found.date_sec.into(), 0).map(|date| date.with_timezone(&Local));
    let seconds = found.vm_clock_sec;
    SnapshotInfo {
        id: found.id.clone(),
        tag: found.name.clone(),
        vm_size: found.vm_state_size,
        date: date.map_or_else(String::new, |date| date.format("%Y-%m-%d %H:%M:%S").to_string()),
        vm_clock: format!(
            "{:02}:{:02}:{:02}.{:03}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            found.vm_clock_nsec / 1_000_000
        ),
    }
}

impl Operator {
    pub(super) fn query_snapshots(&self) -> Result {
        let found = self.snapshots.list().map_err(failed)?;
        Ok(Reply::Snapshots(found.iter().map(shown).collect()))
    }

    /// Saves, loads or deletes; nobody else commands the VM meanwhile.
    pub(super) fn act_on_snapshot(
        &self,
        action: &Command,
        scope: &Scope,
        replace: bool,
        progress: &Progress,
    ) -> Result {
        match action {
            Command::SaveVm { tag } => {
                let tag = tag.clone().unwrap_or_else(made_up);
                self.while_stopped(|| self.snapshots.save(&tag, scope, replace, progress)).map_err(failed)?;
            }
            Command::LoadVm { tag } => {
                self.while_stopped(|| self.snapshots.load(tag, scope, progress)).map_err(failed)?;
            }
            Command::DeleteVm { tag } => self.snapshots.delete(tag, scope).map_err(failed)?,
            _ => return Err(OperationError::new("this is nothing to do with a snapshot")),
        }
        Ok(Reply::Done)
    }

    /// Does what stops the VM for a time, and tells of it.
    fn while_stopped<T>(&self, work: impl FnOnce() -> T) -> T {
        let ran = self.control.is_running();
        if ran {
            self.subscribers.tell(&Event::Stop);
        }
        let result = work();
        if ran && self.control.is_running() {
            self.subscribers.tell(&Event::Resume);
        }
        result
    }

    pub(super) fn start_snapshot_job(self: &Arc<Self>, job: SnapshotJob) -> Result {
        let kind = match &*job.action {
            Command::SaveVm { .. } => "snapshot-save",
            Command::LoadVm { .. } => "snapshot-load",
            _ => "snapshot-delete",
        };
        let operator = self.clone();
        let SnapshotJob { id, action, vmstate, devices, .. } = job;
        let scope = Scope { vmstate, devices };
        self.jobs.start(&id, kind, move |progress| {
            let _turn = lock(&operator.turn);
            operator.act_on_snapshot(&action, &scope, false, progress).map(drop)
        })?;
        Ok(Reply::Done)
    }
}
