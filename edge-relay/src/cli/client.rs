//! Asks a running relay over its admin API.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::Value;

use super::AdminArgs;
use crate::admin::Guard;
use crate::config;

/// The longest answer that is read, in bytes: a peek at the largest readings.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A relay's admin API.
pub(super) struct AdminClient {
    agent: ureq::Agent,
    base: String,
    token: Option<String>,
}

/// Why a relay gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// Nobody listens, or the connection broke.
    #[error("{url} cannot be reached: {reason}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// It answered, and said no.
    #[error("{url} answered {status}: {reason}")]
    Refused {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        reason: String,
    },
}

impl AdminClient {
    /// As the arguments say, else as the configuration does.
    pub(super) fn new(file: &Path, args: &AdminArgs) -> anyhow::Result<Self> {
        let mut token = args.token_file.as_deref().map(first_line).transpose()?;
        let base = if let Some(url) = &args.admin {
            url.trim_end_matches('/').to_owned()
        } else {
            // A relay whose file has become invalid runs on, and must still be asked why.
            let start = config::start(file, &config::environment()).map_err(|error| {
                anyhow!("where the relay is cannot be told (use --admin URL):\n{error}")
            })?;
            let loaded = start.loaded;
            if let (None, Guard::Token(configured)) = (&token, &loaded.settings.admin.guard) {
                token = Some(configured.expose().to_owned());
            }
            format!("http://{}", reachable(loaded.settings.admin.listen))
        };
        let agent = ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_global(Some(Duration::from_secs(120)))
            .http_status_as_error(false)
            .build()
            .into();
        Ok(Self { agent, base, token })
    }

    /// The answer to a GET.
    pub(super) fn get(&self, path: &str) -> Result<Value, AskError> {
        let url = format!("{}{path}", self.base);
        let mut request = self.agent.get(&url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        answer(url, request.call())
    }

    /// The answer to a POST.
    pub(super) fn post(&self, path: &str) -> Result<Value, AskError> {
        let url = format!("{}{path}", self.base);
        let mut request = self.agent.post(&url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        answer(url, request.send_empty())
    }

    /// The answer to a GET, as bytes; `None` where there is nothing (204).
    pub(super) fn get_bytes(&self, path: &str) -> Result<Option<Vec<u8>>, AskError> {
        let url = format!("{}{path}", self.base);
        let mut request = self.agent.get(&url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        bytes_of(url, request.call())
    }

    /// The answer to a POST of `body`, as bytes.
    pub(super) fn post_bytes(
        &self,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Vec<u8>, AskError> {
        let url = format!("{}{path}", self.base);
        let mut request = self.agent.post(&url).header("content-type", content_type);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        Ok(bytes_of(url, request.send(body))?.unwrap_or_default())
    }
}

fn bytes_of(
    url: String,
    response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<Option<Vec<u8>>, AskError> {
    let good = |r: &ureq::http::Response<_>| r.status().is_success();
    let mut response = match response {
        Ok(response) if good(&response) => response,
        other => return answer(url, other).map(|value| Some(value.to_string().into_bytes())),
    };
    if response.status() == ureq::http::StatusCode::NO_CONTENT {
        return Ok(None);
    }
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX);
    let bytes = body.read_to_vec().map_err(|error| AskError::Unreachable {
        url,
        reason: error.to_string(),
    })?;
    Ok(Some(bytes))
}

/// An address that is listened on as one to connect to.
fn reachable(mut listen: std::net::SocketAddr) -> std::net::SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen.ip() {
            std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}

fn answer(
    url: String,
    response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<Value, AskError> {
    let unreachable = |url: &str, error: ureq::Error| AskError::Unreachable {
        url: url.to_owned(),
        reason: error.to_string(),
    };
    let mut response = response.map_err(|error| unreachable(&url, error))?;
    let status = response.status();
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX);
    let text = body
        .read_to_string()
        .map_err(|error| unreachable(&url, error))?;
    let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    if status.is_success() {
        return Ok(value);
    }
    let reason = value.get("error").and_then(Value::as_str).map_or_else(
        || value.to_string().chars().take(500).collect(),
        str::to_owned,
    );
    Err(AskError::Refused {
        url,
        status: status.as_u16(),
        reason,
    })
}

fn first_line(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}
