//! `GET /healthz`, `/readyz`, `/status`, `/metrics`. Nothing can be changed here, and there is no authentication.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::metrics::{self, Metrics};
use super::state::State;

/// Listens on `address`, where there is one.
pub(super) async fn serve(
    address: Option<SocketAddr>,
    metrics: &Arc<Metrics>,
    state: &Arc<State>,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listener = tokio::net::TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("admin.listen: {address}"))?;
    info!(address = %listener.local_addr()?, "admin API");
    let router = router(Arc::clone(metrics), Arc::clone(state));
    Ok(Some(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            warn!(%error, "the admin API ended");
        }
    })))
}

fn router(metrics: Arc<Metrics>, state: Arc<State>) -> Router {
    let shared = (metrics, state);
    let (ready, status, exposed) = (shared.clone(), shared.clone(), shared);
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route(
            "/readyz",
            get(async move || match ready.1.not_ready(&ready.0) {
                None => (StatusCode::OK, "ready\n".to_owned()),
                Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            }),
        )
        .route(
            "/status",
            get(async move || Json(status.1.status(&status.0))),
        )
        .route(
            "/metrics",
            get(async move || {
                // Sets what is derived.
                let _ = exposed.1.status(&exposed.0);
                let kind = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
                (kind, exposed.0.exposition()).into_response()
            }),
        )
}
