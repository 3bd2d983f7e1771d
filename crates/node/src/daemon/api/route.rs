//! The API's routes: one typed table, from which both the router and the OpenAPI document are made, so that neither can have
//! what the other lacks. What a route takes and gives are the types of its handler.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Context;

/// A refusal.
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, axum::Json(json!({ "error": self.1 }))).into_response()
    }
}

pub(super) fn conflict(why: impl Into<String>) -> Refused {
    Refused(StatusCode::CONFLICT, why.into())
}

/// How something is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
    Put,
    Delete,
}

impl Method {
    /// As the document has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
            Self::Put => "put",
            Self::Delete => "delete",
        }
    }

    fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Put => MethodFilter::PUT,
            Self::Delete => MethodFilter::DELETE,
        }
    }
}

/// Nothing in the path but its words.
#[derive(serde::Deserialize, JsonSchema)]
pub(super) struct Plain {}

type Named = HashMap<String, String>;
type Work = dyn Fn(&Context, Named, &[u8]) -> Result<Vec<u8>, Refused> + Send + Sync;

/// One thing that can be asked.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// A short name for programs that are generated.
    pub(super) name: &'static str,
    /// What it does, in a sentence.
    pub(super) summary: &'static str,
    /// What the answer is.
    pub(super) media: &'static str,
    /// It tells nobody anything, so that no token is needed.
    pub(super) open: bool,
    /// The names in the path.
    pub(super) parameters: fn(&mut SchemaGenerator) -> Schema,
    /// The body that is taken.
    pub(super) body: Option<fn(&mut SchemaGenerator) -> Schema>,
    /// The body that is given.
    pub(super) answer: fn(&mut SchemaGenerator) -> Schema,
    work: Arc<Work>,
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

fn bad(error: &serde_json::Error) -> Refused {
    Refused(StatusCode::BAD_REQUEST, format!("the request's body: {error}"))
}

fn named<P: DeserializeOwned>(names: &Named) -> Result<P, Refused> {
    serde_json::from_value(json!(names)).map_err(|error| Refused(StatusCode::NOT_FOUND, format!("the path: {error}")))
}

impl Route {
    /// A route that takes names in its path, and no body.
    pub(super) fn new<P, A>(
        (method, path): (Method, &'static str),
        (name, summary): (&'static str, &'static str),
        handler: fn(&Context, P) -> Result<A, Refused>,
    ) -> Self
    where
        P: DeserializeOwned + JsonSchema + 'static,
        A: Serialize + JsonSchema + 'static,
    {
        Self {
            method,
            path,
            name,
            summary,
            media: "application/json",
            open: false,
            parameters: P::json_schema,
            body: None,
            answer: schema::<A>,
            work: Arc::new(move |context, names, _| answer(&handler(context, named(&names)?)?)),
        }
    }

    /// A route that takes a body, too; none at all is an empty object.
    pub(super) fn with_body<P, B, A>(
        (method, path): (Method, &'static str),
        (name, summary): (&'static str, &'static str),
        handler: fn(&Context, P, B) -> Result<A, Refused>,
    ) -> Self
    where
        P: DeserializeOwned + JsonSchema + 'static,
        B: DeserializeOwned + JsonSchema + 'static,
        A: Serialize + JsonSchema + 'static,
    {
        let work = move |context: &Context, names: Named, body: &[u8]| {
            let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
            let body: B = serde_json::from_slice(body).map_err(|error| bad(&error))?;
            answer(&handler(context, named(&names)?, body)?)
        };
        Self {
            method,
            path,
            name,
            summary,
            media: "application/json",
            open: false,
            parameters: P::json_schema,
            body: Some(schema::<B>),
            answer: schema::<A>,
            work: Arc::new(work),
        }
    }

    /// A page that everybody may see.
    pub(super) fn page(path: &'static str, (name, summary): (&'static str, &'static str), text: &'static str) -> Self {
        Self {
            method: Method::Get,
            path,
            name,
            summary,
            media: "text/html; charset=utf-8",
            open: true,
            parameters: Plain::json_schema,
            body: None,
            answer: schema::<String>,
            work: Arc::new(|_, _, _| Ok(text.into())),
        }
    }

    /// Answers one request; what blocks is done beside the thread that serves.
    async fn serve(self, context: Arc<Context>, names: Named, body: Bytes) -> Response {
        let work = Arc::clone(&self.work);
        let done = tokio::task::spawn_blocking(move || work(&context, names, &body)).await;
        match done {
            Ok(Ok(text)) => ([(header::CONTENT_TYPE, HeaderValue::from_static(self.media))], text).into_response(),
            Ok(Err(refused)) => refused.into_response(),
            Err(error) => Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

fn answer(value: &impl Serialize) -> Result<Vec<u8>, Refused> {
    serde_json::to_vec(value).map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// The router of a table of routes.
pub(super) fn router(table: Vec<Route>, context: Arc<Context>) -> Router {
    let unknown = || async { Refused(StatusCode::NOT_FOUND, "there is nothing here: see /openapi.json".into()) };
    let other = || async { Refused(StatusCode::METHOD_NOT_ALLOWED, "not by this method: see /openapi.json".into()) };
    let mut router = Router::new();
    for route in table {
        let (path, filter) = (route.path, route.method.filter());
        let handler = move |State(context): State<Arc<Context>>, Path(names): Path<Named>, body: Bytes| {
            route.clone().serve(context, names, body)
        };
        router = router.route(path, on(filter, handler));
    }
    router.fallback(unknown).method_not_allowed_fallback(other).with_state(context)
}

/// What a schema has under `key`, if it is an object.
pub(super) fn part<'a>(schema: &'a Schema, key: &str) -> Option<&'a Value> {
    schema.as_object()?.get(key)
}
