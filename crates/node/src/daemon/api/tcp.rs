//! The API over TCP: who has no token is turned away before anything of the request is looked at. There is no TLS here.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::route::Refused;
use super::token::Token;

/// Connections at the same time: strangers can't use up the daemon's descriptors.
const CONNECTIONS: usize = 64;
/// Between two attempts to listen.
const PAUSE: Duration = Duration::from_secs(1);
/// The page runs its own script, asks this daemon, and is shown in no other page.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Who may.
struct Door {
    token: Token,
    /// Paths for which no token is needed.
    open: Vec<&'static str>,
}

async fn admit(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION);
    if door.open.contains(&request.uri().path()) || given.is_some_and(|given| door.token.admits(given.as_bytes())) {
        return next.run(request).await;
    }
    let why = "a token is needed: Authorization: Bearer TOKEN, with what token-file in node.toml's [api] holds";
    let mut response = Refused(StatusCode::UNAUTHORIZED, why.into()).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

async fn protect(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The router, behind a door.
pub(super) fn guarded(router: Router, token: Token, open: Vec<&'static str>) -> Router {
    router.layer(from_fn_with_state(Arc::new(Door { token, open }), admit)).layer(from_fn(protect))
}

/// Listens and serves without end. That it can't is no reason for a node to do nothing else: an address may come later.
pub(super) async fn serve(address: SocketAddr, router: Router) {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                told = false;
                tracing::info!("the API listens on {address}");
                let listener = Bounded { listener, free: Arc::new(Semaphore::new(CONNECTIONS)) };
                if let Err(error) = axum::serve(listener, router.clone()).await {
                    tracing::error!("the API over TCP: {error}");
                }
            }
            Err(error) if !told => {
                told = true;
                tracing::error!("the API can't listen on {address}: {error}; it is tried again and again");
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A listener that has only so many connections at a time; others wait.
struct Bounded {
    listener: TcpListener,
    free: Arc<Semaphore>,
}

/// A connection, and its place among them.
struct Counted {
    stream: TcpStream,
    _place: Option<OwnedSemaphorePermit>,
}

impl axum::serve::Listener for Bounded {
    type Io = Counted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted, SocketAddr) {
        // The semaphore is never closed.
        let place = Arc::clone(&self.free).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => return (Counted { stream, _place: place }, from),
                Err(error) => {
                    tracing::debug!("the API over TCP: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, to)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
