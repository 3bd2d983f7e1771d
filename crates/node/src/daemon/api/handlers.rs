//! What can be asked of a node, and what is done then. Here is the table of routes; serving it is elsewhere.

use axum::http::StatusCode;
use ferro_cluster::{Admin, NodeId};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::assemble::vm_place;
use super::route::{Method, Plain, Refused, Route, conflict};
use super::{Context, GroupRequest, InfraRequest, NodeStatus, VmRequest, openapi, status};
use crate::cluster::{Command, Logged};
use crate::infra::Infra;
use crate::resource::vm::{VmPlace, qmp};

/// The page for people.
const PAGE: &str = include_str!("page.html");

/// Everything that can be asked.
pub(super) fn table() -> Vec<Route> {
    use Method::{Delete, Get, Post, Put};
    vec![
        Route::page("/", ("page", "A page that shows how things stand."), PAGE),
        Route::new((Get, "/openapi.json"), ("openapi", "This document."), document),
        Route::new((Get, "/v1/status"), ("status", "How the node, its groups, VMs and mirrors stand."), node_status),
        Route::new((Get, "/v1/events"), ("events", "What happened lately, the oldest first."), events),
        Route::with_body(
            (Put, "/v1/infra"),
            ("infraUp", "Bring an infrastructure up; what runs and is still declared goes on."),
            infra_up,
        ),
        Route::new((Delete, "/v1/infra"), ("infraDown", "Stop everything on this node in good order."), infra_down),
        Route::with_body((Post, "/v1/groups/{action}"), ("group", "Do something with groups."), group_action),
        Route::with_body((Post, "/v1/vms/{name}/{action}"), ("vm", "Do something with a VM."), vm_action),
    ]
}

/// What can be done with groups.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum GroupAction {
    /// Run nothing on this node: what runs moves to the other.
    Standby,
    /// End the standby.
    Online,
    /// Start, stop and restart nothing by itself.
    MaintenanceOn,
    /// Do so again.
    MaintenanceOff,
    /// Move to the other node, or to the one given.
    Move,
    /// Start here although nobody vouches for the data.
    Promote,
    /// Forget that it failed here.
    Cleanup,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
struct GroupPath {
    /// What is to be done.
    action: GroupAction,
}

/// What can be done with a VM.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum VmAction {
    /// Start it, if it was stopped.
    Start,
    /// Shut it down, and keep it so.
    Stop,
    /// Press its reset button.
    Reset,
    /// Save memory and disks under a name.
    Snapshot,
    /// Go back to a snapshot.
    Rollback,
}

#[derive(Deserialize, JsonSchema)]
struct VmPath {
    /// The VM.
    name: String,
    /// What is to be done.
    action: VmAction,
}

fn ending() -> Refused {
    Refused(StatusCode::SERVICE_UNAVAILABLE, "the node is shutting down".into())
}

fn document(_: &Context, _: Plain) -> Result<Value, Refused> {
    Ok(openapi::document(&table()))
}

fn node_status(context: &Context, _: Plain) -> Result<NodeStatus, Refused> {
    status::gather(&context.config, &context.infra, &context.handle).ok_or_else(ending)
}

fn events(context: &Context, _: Plain) -> Result<Vec<Logged>, Refused> {
    Ok(context.handle.report().map(|report| report.events).unwrap_or_default())
}

/// Does what ends this process a little later, so that whoever asked for it hears that it will be done.
fn after_the_answer(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        work();
    });
}

/// Checks the text, keeps it, and lets a new daemon begin with it; what runs and is still declared goes on.
fn infra_up(context: &Context, _: Plain, request: InfraRequest) -> Result<(), Refused> {
    let InfraRequest { text, folder } = request;
    Infra::parse(&text, &context.config.infra(), &folder).map_err(|error| conflict(error.to_string()))?;
    super::super::keep_infra(&context.config, &text, &folder).map_err(|error| conflict(error.to_string()))?;
    let handle = context.handle.clone();
    after_the_answer(move || handle.leave());
    Ok(())
}

/// Stops everything in good order; then nothing is declared any more.
fn infra_down(context: &Context, _: Plain) -> Result<(), Refused> {
    super::super::keep_infra(&context.config, "name = \"\"\n", std::path::Path::new("/"))
        .map_err(|error| conflict(error.to_string()))?;
    let handle = context.handle.clone();
    after_the_answer(move || handle.shut_down());
    Ok(())
}

fn group_action(context: &Context, path: GroupPath, request: GroupRequest) -> Result<(), Refused> {
    let admin = match path.action {
        GroupAction::Standby => Admin::Standby(true),
        GroupAction::Online => Admin::Standby(false),
        GroupAction::MaintenanceOn => Admin::Maintenance(true),
        GroupAction::MaintenanceOff => Admin::Maintenance(false),
        GroupAction::Move => {
            let own = context.handle.report().map_or(NodeId::Zero, |report| report.node);
            let node = request.node.map_or(Some(own.peer()), NodeId::from_index);
            Admin::MoveTo(node.ok_or_else(|| conflict("nodes are 0 and 1"))?)
        }
        GroupAction::Promote => Admin::Promote,
        GroupAction::Cleanup => Admin::CleanUp,
    };
    match context.handle.command(Command { group: request.group, admin }) {
        Some(told) => told.map_err(|error| conflict(error.to_string())),
        None => Err(ending()),
    }
}

fn vm_action(context: &Context, path: VmPath, request: VmRequest) -> Result<(), Refused> {
    let VmPath { name, action } = path;
    if !context.infra.vms.iter().any(|vm| vm.name == name) {
        return Err(Refused(StatusCode::NOT_FOUND, format!("there is no VM '{name}': 'ferro ps' lists them")));
    }
    command_vm(&vm_place(&context.config, &name), action, request)
}

fn command_vm(place: &VmPlace, action: VmAction, request: VmRequest) -> Result<(), Refused> {
    let tell = |command: &str, arguments: Value| qmp(&place.qmp(), command, arguments).map_err(conflict);
    let fail = |error: std::io::Error| conflict(format!("{}: {error}", place.halted().display()));
    let VmRequest { snapshot, force } = request;
    let human = |command: &str| {
        let name = snapshot.ok_or_else(|| conflict("say which snapshot"))?;
        let told = tell("human-monitor-command", json!({ "command-line": format!("{command} {name}") }))?;
        match told.as_str().map(str::trim) {
            None | Some("") => Ok(()),
            Some(complaint) => Err(conflict(complaint)),
        }
    };
    match action {
        // Its group starts it at its next look.
        VmAction::Start => match std::fs::remove_file(place.halted()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(fail(error)),
            _ => Ok(()),
        },
        VmAction::Stop => {
            std::fs::write(place.halted(), "").map_err(fail)?;
            if place.processes().is_empty() {
                return Ok(());
            }
            tell(if force { "quit" } else { "system_powerdown" }, json!({})).map(drop)
        }
        VmAction::Reset => tell("system_reset", json!({})).map(drop),
        VmAction::Snapshot => human("savevm"),
        VmAction::Rollback => human("loadvm"),
    }
}
