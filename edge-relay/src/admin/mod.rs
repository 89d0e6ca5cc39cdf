//! The admin API: health, status, metrics, drains, reload, and the backlog's own commands.
//!
//! `/healthz` and `/readyz` are open to all, since probes ask them; the rest needs the token where one is set.
//! Payloads are shown by `/backlog/peek` only, secrets nowhere.

mod alarms;
mod backlog;
mod by_hand;
mod drains;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod guard;
mod status;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hub_bridge::bridge::BridgeHandle;
use parking_lot::RwLock;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::clock::SystemClock;
use crate::config::LiveConfig;
use crate::drain_log::KeptDrains;
use crate::listener::Handle;
use crate::metrics;
use crate::store::{OpenReport, Store};

pub use backlog::{BacklogRequest, answer as answer_backlog};
pub use guard::{Guard, Settings};

/// What the admin API shows and moves.
pub struct Admin {
    /// The readings.
    pub store: Store,
    /// What its start found.
    pub opened: OpenReport,
    /// The way to the hub.
    pub uplink: BridgeHandle,
    /// The meters.
    pub meters: Handle,
    /// The configuration in force.
    pub live: Arc<LiveConfig>,
    /// The clock.
    pub clock: Arc<SystemClock>,
    /// The drains of before.
    pub drains: Arc<KeptDrains>,
    /// When the process began.
    pub started: Instant,
    /// What stays wrong until the next start, in words.
    pub start_alarms: Vec<String>,
    /// Who may use it.
    pub guard: Arc<RwLock<Guard>>,
    /// Cancelled when the relay begins to stop.
    pub stopping: CancellationToken,
}

/// A request that could not be done.
#[derive(Debug)]
pub(crate) struct Refused(StatusCode, String);

impl Refused {
    pub(crate) fn new(status: StatusCode, reason: impl std::fmt::Display) -> Self {
        Self(status, reason.to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

/// Serves on `listener` until `stop`.
///
/// # Errors
/// Where the socket fails for good.
pub async fn serve(
    listener: TcpListener,
    admin: Arc<Admin>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, router(admin))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

fn router(admin: Arc<Admin>) -> Router {
    let guarded = Router::new()
        .route("/status", get(show_status))
        .route("/metrics", get(show_metrics))
        .route("/reload", post(reload))
        .route("/drain", post(drains::request).get(drains::latest))
        .route("/drain/{id}", get(drains::one))
        .route("/drains", get(drains::all))
        .route("/backlog/segments", get(backlog::segments))
        .route("/backlog/peek", get(backlog::peek))
        .route("/backlog/verify", post(backlog::verify))
        .route("/backlog/replay", post(backlog::replay))
        .route("/backlog/refused", get(backlog::refused))
        .route("/backlog/retry", post(backlog::retry))
        .route("/backlog/stick/key", get(by_hand::key))
        .route("/backlog/stick/epochs", get(by_hand::epochs))
        .route("/backlog/stick/file", get(by_hand::file))
        .merge(by_hand::taking())
        .layer(middleware::from_fn_with_state(admin.clone(), admit));
    Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .merge(guarded)
        .with_state(admin)
}

async fn admit(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION);
    let admitted = {
        let guard = admin.guard.read();
        guard.admits(authorization.and_then(|value| value.to_str().ok()))
    };
    if admitted {
        return next.run(request).await;
    }
    let refused = Refused::new(
        StatusCode::UNAUTHORIZED,
        "the bearer token is missing or wrong",
    );
    ([(header::WWW_AUTHENTICATE, "Bearer")], refused).into_response()
}

/// 503 while meters' readings cannot be acknowledged, and when the relay stops.
async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let health = admin.store.health().borrow().clone();
    if admin.stopping.is_cancelled() {
        return Refused::new(StatusCode::SERVICE_UNAVAILABLE, "the relay stops").into_response();
    }
    let status = if health.takes_readings() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(health)).into_response()
}

async fn show_status(State(admin): State<Arc<Admin>>) -> Result<Json<Value>, Refused> {
    blocking(move || status::status(&admin)).await.map(Json)
}

async fn show_metrics(State(admin): State<Arc<Admin>>) -> Result<Response, Refused> {
    let text = blocking(move || metrics::exposition(&admin)).await?;
    let text = text.map_err(|error| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn reload(State(admin): State<Arc<Admin>>) -> Response {
    match blocking(move || admin.live.reload()).await {
        Ok(Ok(reloaded)) => Json(reloaded).into_response(),
        Ok(Err(error)) => {
            let body = json!({ "error": error.to_string(), "problems": error.problems });
            (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()
        }
        Err(refused) => refused.into_response(),
    }
}

/// Runs what blocks on the disk or a lock.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error))
}
