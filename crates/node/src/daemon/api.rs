//! The daemon's REST API: JSON over HTTP on a unix socket that only its owner may open, and over TCP for those who have a
//! token. An answer that isn't 2xx has `{"error": "…"}` that says why. `/openapi.json` describes it.

mod handlers;
mod openapi;
mod route;
mod status;
mod tcp;
#[cfg(test)]
mod tests;
pub mod token;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::NodeError;
use super::config::NodeConfig;
use crate::cluster::Handle;
use crate::infra::Infra;
pub use status::{GroupStatus, LinkStatus, MirrorStatus, NodeStatus, UnitStatus, VmStatus};

/// What requests may concern.
struct Context {
    config: NodeConfig,
    infra: Infra,
    handle: Handle,
}

/// The body of a request about groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InfraRequest {
    /// The text of the file.
    pub text: String,
    /// The absolute folder that file names in it are relative to.
    pub folder: std::path::PathBuf,
}

/// The API's OpenAPI document.
#[must_use]
pub fn openapi() -> Value {
    openapi::document(&handlers::table())
}

/// Serves the API in the background.
pub(super) fn serve(config: &NodeConfig, infra: &Infra, handle: &Handle) -> Result<(), NodeError> {
    let path = config.socket();
    let fail = |error: std::io::Error| NodeError::File(path.clone(), "listen on", error);
    let table = handlers::table();
    let open: Vec<&str> = table.iter().filter(|route| route.open).map(|route| route.path).collect();
    let context = Arc::new(Context { config: config.clone(), infra: infra.clone(), handle: handle.clone() });
    let router = route::router(table, context);
    let tcp = match &config.api {
        Some(api) => Some((api.listen, tcp::guarded(router.clone(), api.token()?, open))),
        None => None,
    };
    // Whoever made it is gone: the daemon's lock is ours.
    let _ = std::fs::remove_file(&path);
    let listener = std::os::unix::net::UnixListener::bind(&path).map_err(fail)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| NodeError::Api(error.to_string()))?;
    let work = move || {
        runtime.block_on(async move {
            if let Some((address, router)) = tcp {
                tokio::spawn(tcp::serve(address, router));
            }
            let served = match tokio::net::UnixListener::from_std(listener) {
                Ok(listener) => axum::serve(listener, router).await,
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
