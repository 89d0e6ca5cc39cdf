//! `/backlog/stick/…`: files of readings for a stick, and the hub's receipt (`crate::stick`).

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use hub_bridge::stick::Listed;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, Refused, blocking};
use crate::stick::{Desk, DeskError, Wanted};

/// No list or receipt is longer, in bytes.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What takes a body: a list of many files, a receipt of many ranges.
pub(super) fn taking() -> Router<Arc<Admin>> {
    Router::new()
        .route("/backlog/stick/list", post(list))
        .route("/backlog/stick/receipt", post(receipt))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

impl Admin {
    fn desk(&self) -> Desk {
        let settings = self.live.settings();
        Desk {
            store: self.store.clone(),
            clock: self.clock.clone(),
            village: self.store.village(),
            data_dir: self.store.data_dir(),
            settings: settings.stick,
        }
    }
}

/// Does `work` at the desk, where it may block.
async fn at_desk<T: Send + 'static>(
    admin: Arc<Admin>,
    work: impl FnOnce(&Desk) -> Result<T, DeskError> + Send + 'static,
) -> Result<T, Refused> {
    let done = blocking(move || work(&admin.desk())).await?;
    done.map_err(|error| {
        let status = match error {
            DeskError::Key(_) | DeskError::Stick(_) | DeskError::Backlog(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Refused::new(status, error)
    })
}

pub(super) async fn key(State(admin): State<Arc<Admin>>) -> Result<Json<Value>, Refused> {
    let work = |desk: &Desk| Ok(json!({ "village": desk.village, "key": desk.key()?.public() }));
    at_desk(admin, work).await.map(Json)
}

/// `?all`
#[derive(Debug, Deserialize)]
pub(super) struct EpochsQuery {
    #[serde(default)]
    all: bool,
}

pub(super) async fn epochs(
    State(admin): State<Arc<Admin>>,
    Query(query): Query<EpochsQuery>,
) -> Result<Json<Value>, Refused> {
    let work = move |desk: &Desk| Ok(json!(desk.waiting(query.all)));
    at_desk(admin, work).await.map(Json)
}

/// 204 where nothing is left.
pub(super) async fn file(
    State(admin): State<Arc<Admin>>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Refused> {
    let file = at_desk(admin, move |desk| desk.file(wanted)).await?;
    Ok(match file {
        Some(bytes) => octets(bytes),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

async fn list(
    State(admin): State<Arc<Admin>>,
    Json(files): Json<Vec<Listed>>,
) -> Result<Response, Refused> {
    at_desk(admin, move |desk| desk.list(files))
        .await
        .map(octets)
}

async fn receipt(State(admin): State<Arc<Admin>>, body: Bytes) -> Result<Json<Value>, Refused> {
    let work = move |desk: &Desk| Ok(json!(desk.take_receipt(&body)?));
    at_desk(admin, work).await.map(Json)
}

fn octets(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
}
