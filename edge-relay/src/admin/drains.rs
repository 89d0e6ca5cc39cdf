//! Drains over the admin API: ask for one, look how far it is.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use hub_bridge::drain::{DrainLog, DrainRecord};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, Refused};

/// `?wait`
#[derive(Debug, Deserialize)]
pub(super) struct Wait {
    /// Answer only when the drain has ended.
    #[serde(default)]
    wait: Option<String>,
}

/// `POST /drain`: begins one, or joins the one that runs. Going away does not stop it.
pub(super) async fn request(
    State(admin): State<Arc<Admin>>,
    Query(wait): Query<Wait>,
) -> Result<Json<Value>, Refused> {
    let job = admin
        .uplink
        .drain()
        .await
        .map_err(|error| Refused::new(StatusCode::SERVICE_UNAVAILABLE, error))?;
    let joined = job.joined();
    let waits = wait.wait.is_some_and(|word| word != "0" && word != "false");
    let record = if waits {
        job.finished().await
    } else {
        job.progress()
    };
    Ok(Json(json!({ "joined": joined, "drain": record })))
}

/// `GET /drain`: the one that runs, else the last one.
pub(super) async fn latest(State(admin): State<Arc<Admin>>) -> Result<Json<DrainRecord>, Refused> {
    let running = admin.uplink.status().drain;
    let found = running.or_else(|| admin.drains.last());
    found.map(Json).ok_or_else(none)
}

/// `GET /drain/{id}`, of this process.
pub(super) async fn one(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<u64>,
) -> Result<Json<DrainRecord>, Refused> {
    let running = admin.uplink.status().drain.filter(|record| record.id == id);
    let ended = || {
        admin
            .drains
            .all()
            .into_iter()
            .rev()
            .find(|record| record.id == id)
    };
    running.or_else(ended).map(Json).ok_or_else(none)
}

/// `GET /drains`: those that are kept, oldest first.
pub(super) async fn all(State(admin): State<Arc<Admin>>) -> Json<Vec<DrainRecord>> {
    Json(admin.drains.all())
}

fn none() -> Refused {
    Refused::new(StatusCode::NOT_FOUND, "no such drain")
}
