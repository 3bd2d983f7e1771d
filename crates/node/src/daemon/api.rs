//! The daemon's REST API: JSON over HTTP on a unix socket that only its owner may open. `GET /v1/status` tells how things
//! stand, `POST` asks for something; an answer that isn't 2xx has `{"error": "…"}` that says why.

mod status;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use ferro_cluster::{Admin, NodeId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::NodeError;
use super::assemble::vm_place;
use super::config::NodeConfig;
use crate::cluster::{Command, Handle};
use crate::infra::Infra;
use crate::resource::vm::{VmPlace, qmp};
pub use status::{GroupStatus, LinkStatus, NodeStatus, UnitStatus, VmStatus};

/// What requests may concern.
struct Context {
    config: NodeConfig,
    infra: Infra,
    handle: Handle,
}

type Shared = State<Arc<Context>>;

/// The body of a request about groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRequest {
    /// One group; all if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// To which node (0 or 1) it is to be moved; the other one if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u8>,
}

/// The body of a request about a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmRequest {
    /// The name of a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// At once, without asking the guest.
    #[serde(default)]
    pub force: bool,
}

/// The body of `PUT /v1/infra`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InfraRequest {
    /// The text of the file.
    pub text: String,
    /// The absolute folder that file names in it are relative to.
    pub folder: std::path::PathBuf,
}

/// A refusal.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

fn conflict(why: impl Into<String>) -> Refused {
    Refused(StatusCode::CONFLICT, why.into())
}

fn router(context: Arc<Context>) -> Router {
    Router::new()
        .route("/v1/status", get(node_status))
        .route("/v1/events", get(events))
        .route("/v1/infra", put(infra_up).delete(infra_down))
        .route("/v1/groups/{action}", post(group_action))
        .route("/v1/vms/{name}/{action}", post(vm_action))
        .with_state(context)
}

/// Serves the API in the background.
pub(super) fn serve(config: &NodeConfig, infra: &Infra, handle: &Handle) -> Result<(), NodeError> {
    let path = config.socket();
    let fail = |error: std::io::Error| NodeError::File(path.clone(), "listen on", error);
    // Whoever made it is gone: the daemon's lock is ours.
    let _ = std::fs::remove_file(&path);
    let listener = std::os::unix::net::UnixListener::bind(&path).map_err(fail)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| NodeError::Api(error.to_string()))?;
    let context = Arc::new(Context { config: config.clone(), infra: infra.clone(), handle: handle.clone() });
    let work = move || {
        runtime.block_on(async move {
            let served = match tokio::net::UnixListener::from_std(listener) {
                Ok(listener) => axum::serve(listener, router(context)).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::error!("the API: {error}");
            }
        });
    };
    let thread = std::thread::Builder::new().name("api".into()).spawn(work);
    thread.map(drop).map_err(|error| NodeError::Api(error.to_string()))
}

/// What blocks is done beside the thread that serves.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

async fn node_status(State(context): Shared) -> Result<Json<NodeStatus>, Refused> {
    let status = blocking(move || status::gather(&context.config, &context.infra, &context.handle)).await?;
    status.map(Json).ok_or_else(|| Refused(StatusCode::SERVICE_UNAVAILABLE, "the node is shutting down".into()))
}

async fn events(State(context): Shared) -> Result<Json<Value>, Refused> {
    let report = blocking(move || context.handle.report()).await?;
    Ok(Json(json!(report.map(|report| report.events).unwrap_or_default())))
}

/// Does what ends this process a little later, so that whoever asked for it hears that it will be done.
fn after_the_answer(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        work();
    });
}

/// Checks the text, keeps it, and lets a new daemon begin with it; what runs and is still declared goes on.
async fn infra_up(State(context): Shared, Json(request): Json<InfraRequest>) -> Result<Json<Value>, Refused> {
    blocking(move || {
        Infra::parse(&request.text, &context.config.infra(), &request.folder)
            .map_err(|error| conflict(error.to_string()))?;
        super::keep_infra(&context.config, &request.text, &request.folder)
            .map_err(|error| conflict(error.to_string()))?;
        after_the_answer(move || context.handle.leave());
        Ok(Json(Value::Null))
    })
    .await?
}

/// Stops everything in good order; then nothing is declared any more.
async fn infra_down(State(context): Shared) -> Result<Json<Value>, Refused> {
    blocking(move || {
        super::keep_infra(&context.config, "name = \"\"\n", std::path::Path::new("/"))
            .map_err(|error| conflict(error.to_string()))?;
        after_the_answer(move || context.handle.shut_down());
        Ok(Json(Value::Null))
    })
    .await?
}

async fn group_action(
    State(context): Shared,
    Path(action): Path<String>,
    Json(request): Json<GroupRequest>,
) -> Result<Json<Value>, Refused> {
    blocking(move || {
        let own = context.handle.report().map_or(NodeId::Zero, |report| report.node);
        let admin = match action.as_str() {
            "standby" => Admin::Standby(true),
            "online" => Admin::Standby(false),
            "maintenance-on" => Admin::Maintenance(true),
            "maintenance-off" => Admin::Maintenance(false),
            "move" => {
                let node = request.node.map_or(Some(own.peer()), NodeId::from_index);
                Admin::MoveTo(node.ok_or_else(|| conflict("nodes are 0 and 1"))?)
            }
            "promote" => Admin::Promote,
            "cleanup" => Admin::CleanUp,
            _ => return Err(Refused(StatusCode::NOT_FOUND, format!("there is no action '{action}'"))),
        };
        match context.handle.command(Command { group: request.group, admin }) {
            Some(Ok(())) => Ok(Json(Value::Null)),
            Some(Err(error)) => Err(conflict(error.to_string())),
            None => Err(Refused(StatusCode::SERVICE_UNAVAILABLE, "the node is shutting down".into())),
        }
    })
    .await?
}

async fn vm_action(
    State(context): Shared,
    Path((name, action)): Path<(String, String)>,
    Json(request): Json<VmRequest>,
) -> Result<Json<Value>, Refused> {
    if !context.infra.vms.iter().any(|vm| vm.name == name) {
        return Err(Refused(StatusCode::NOT_FOUND, format!("there is no VM '{name}': 'ferro ps' lists them")));
    }
    let place = vm_place(&context.config, &name);
    blocking(move || command_vm(&place, &action, &request)).await?
}

fn command_vm(place: &VmPlace, action: &str, request: &VmRequest) -> Result<Json<Value>, Refused> {
    let tell = |command: &str, arguments: Value| qmp(&place.qmp(), command, arguments).map_err(conflict);
    let fail = |error: std::io::Error| conflict(format!("{}: {error}", place.halted().display()));
    let snapshot = || request.snapshot.clone().ok_or_else(|| conflict("say which snapshot"));
    let human = |line: String| {
        let told = tell("human-monitor-command", json!({ "command-line": line }))?;
        match told.as_str().map(str::trim) {
            None | Some("") => Ok(Value::Null),
            Some(complaint) => Err(conflict(complaint)),
        }
    };
    match action {
        // Its group starts it at its next look.
        "start" => match std::fs::remove_file(place.halted()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(fail(error)),
            _ => Ok(Json(Value::Null)),
        },
        "stop" => {
            std::fs::write(place.halted(), "").map_err(fail)?;
            if place.processes().is_empty() {
                return Ok(Json(Value::Null));
            }
            tell(if request.force { "quit" } else { "system_powerdown" }, json!({})).map(Json)
        }
        "reset" => tell("system_reset", json!({})).map(Json),
        "snapshot" => human(format!("savevm {}", snapshot()?)).map(Json),
        "rollback" => human(format!("loadvm {}", snapshot()?)).map(Json),
        _ => Err(Refused(StatusCode::NOT_FOUND, format!("there is no action '{action}'"))),
    }
}
