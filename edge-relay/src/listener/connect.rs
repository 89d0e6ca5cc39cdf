//! Lets a client in: TLS handshake, CONNECT, who it is, its session, CONNACK. All of it within `connect_timeout`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rand::Rng;
use rumqttd::protocol::{ConnAckProperties, ConnectReturnCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::codec::connect::{self, Connect, ConnectError, ConnectWill};
use super::codec::{Version, wire, write};
use super::connection::{Before, Client, Connection};
use super::{Settings, Shared, wills};
use crate::broker::exactly_once::Position;
use crate::broker::will::Will;
use crate::broker::{Attach, Attached};

/// What an MQTT 5 client's session expiry interval says for "never".
const NEVER: u32 = u32::MAX;

/// The longest a client may take to read its refusal.
const REFUSAL_MAX: Duration = Duration::from_secs(2);

/// Handshake, then [`serve`].
pub(super) async fn serve_tls(
    shared: Arc<Shared>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    ending: CancellationToken,
) {
    let within = shared.settings().connect_timeout;
    match tokio::time::timeout(within, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certified = stream.get_ref().1.peer_certificates().is_some();
            serve(shared, stream, peer, certified, ending).await;
        }
        Ok(Err(error)) => {
            shared.stats.tls_failures_total.one();
            tracing::debug!(%peer, %error, "TLS handshake failed");
        }
        Err(_) => shared.stats.connect_timeouts_total.one(),
    }
}

/// Serves one connection until it ends. `certified`: it showed a client certificate that our CA signed.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    shared: Arc<Shared>,
    mut stream: S,
    peer: SocketAddr,
    certified: bool,
    ending: CancellationToken,
) {
    let within = shared.settings().connect_timeout;
    let admitted = tokio::select! {
        admitted = tokio::time::timeout(within, admit(&shared, &mut stream, certified)) => admitted,
        () = ending.cancelled() => return,
    };
    match admitted {
        Ok(Ok(admitted)) => {
            let span = tracing::info_span!("connection", client_id = %admitted.client.id, %peer);
            let connection = Connection::new(shared, stream, admitted, ending);
            connection.run().instrument(span).await;
        }
        Ok(Err(refused)) => tracing::debug!(%peer, reason = refused.0, "a client was not let in"),
        Err(_) => {
            shared.stats.connect_timeouts_total.one();
            tracing::debug!(%peer, "no CONNECT in time");
        }
    }
}

/// In words.
struct Refused(&'static str);

/// A client that was let in, and what it sent after its CONNECT.
pub(super) struct Admitted {
    pub(super) client: Client,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
}

async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Arc<Shared>,
    stream: &mut S,
    certified: bool,
) -> Result<Admitted, Refused> {
    let settings = shared.settings();
    let mut input = BytesMut::with_capacity(4096);
    let connect = match read_connect(stream, &mut input, &settings).await? {
        Ok(connect) => connect,
        Err(error) => {
            shared.stats.protocol_errors_total.one();
            return refuse_bytes(stream, error).await;
        }
    };
    let refusal = |code, reason| (connect.version, code, reason);
    if connect.properties.authentication_method.is_some() {
        let code = ConnectReturnCode::BadAuthenticationMethod;
        return refuse(stream, refusal(code, "an authentication method")).await;
    }
    if let Err(code) = authenticate(shared, &settings, &connect, certified).await {
        shared.stats.auth_failures_total.one();
        let now = std::time::Instant::now();
        if let Some(connections) = shared.strangers.add(1, now) {
            tracing::info!(
                client_id = connect.client_id,
                user = connect.user_name,
                connections,
                "not authorised"
            );
        }
        return refuse(stream, refusal(code, "not authorised")).await;
    }
    let Some((client_id, assigned)) = client_id(&connect) else {
        let code = ConnectReturnCode::ClientIdentifierNotValid;
        return refuse(stream, refusal(code, "no client id, and a session to keep")).await;
    };
    let expiry = session_expiry(&connect, &settings);
    let size = connack(&connect, &settings, &client_id, assigned, expiry, false).len();
    if size > packet_bytes_max(&connect) {
        let code = ConnectReturnCode::PacketTooLarge;
        return refuse(
            stream,
            refusal(code, "no CONNACK fits in its maximum packet size"),
        )
        .await;
    }
    let number = shared.connection_number();
    let will = connect.will.clone();
    let will = will.map(|will| make_will(will, &client_id, number));
    let will = will.filter(|w| !w.topic.starts_with("$SYS"));
    let (epoch, sequence) = shared.store.last();
    let attach = Attach {
        client_id: client_id.clone(),
        clean_start: connect.clean_start,
        expiry,
        window: connect
            .properties
            .receive_maximum
            .unwrap_or(u16::MAX)
            .min(settings.in_flight_max),
        connection: number,
        will,
        stored: Position { epoch, sequence },
    };
    let Ok(attached) = shared.broker.attach(&attach) else {
        let code = ConnectReturnCode::QuotaExceeded;
        return refuse(stream, refusal(code, "sessions_max is reached")).await;
    };
    shared.stats.connects_total.one();
    Ok(let_in(
        shared, &settings, &connect, attached, attach, assigned, input,
    ))
}

fn let_in(
    shared: &Arc<Shared>,
    settings: &Settings,
    connect: &Connect,
    mut attached: Attached,
    attach: Attach,
    assigned: bool,
    input: BytesMut,
) -> Admitted {
    if let Some(will) = attached.will.take() {
        let shared = shared.clone();
        tokio::spawn(async move { wills::publish_all(&shared, vec![will]).await });
    }
    let (keep_alive, _) = keep_alive(connect, settings);
    let output = connack(
        connect,
        settings,
        &attach.client_id,
        assigned,
        attach.expiry,
        attached.session_present,
    );
    let client = Client {
        version: connect.version,
        id: attach.client_id,
        key: attached.key,
        connection: attach.connection,
        wake: attached.wake,
        taken_over: attached.taken_over,
        keep_alive,
        packet_bytes_max: packet_bytes_max(connect),
        persistent: !attach.expiry.is_zero(),
        will: attach.will,
        through: attached.through,
        before: Before {
            previous: attached.previous,
            will_stored: attached.will_stored,
        },
    };
    Admitted {
        client,
        input,
        output,
    }
}

/// The CONNACK of a client that is let in.
fn connack(
    connect: &Connect,
    settings: &Settings,
    client_id: &str,
    assigned: bool,
    expiry: Duration,
    session_present: bool,
) -> BytesMut {
    let (_, server_keep_alive) = keep_alive(connect, settings);
    let properties = ConnAckProperties {
        session_expiry_interval: told_expiry(connect, expiry),
        receive_max: Some(settings.in_flight_max),
        max_packet_size: Some(settings.packet_bytes_max),
        assigned_client_identifier: assigned.then(|| client_id.to_owned()),
        topic_alias_max: Some(settings.topic_alias_max),
        server_keep_alive,
        ..ConnAckProperties::default()
    };
    let mut output = BytesMut::with_capacity(1024);
    write::connack(
        &mut output,
        connect.version,
        session_present,
        ConnectReturnCode::Success,
        properties,
    );
    output
}

/// The largest packet the client takes [MQTT-3.1.2-24].
fn packet_bytes_max(connect: &Connect) -> usize {
    let max = connect.properties.maximum_packet_size;
    max.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX))
}

async fn read_connect<S: AsyncRead + Unpin>(
    stream: &mut S,
    input: &mut BytesMut,
    settings: &Settings,
) -> Result<Result<Connect, ConnectError>, Refused> {
    let bytes_max = usize::try_from(settings.packet_bytes_max).unwrap_or(usize::MAX);
    loop {
        if input.first().is_some_and(|first| *first != 0x10) {
            return Err(Refused("the first packet is no CONNECT"));
        }
        match wire::frame(input, bytes_max) {
            Err(_) => return Err(Refused("a CONNECT that is too large")),
            Ok(Some(frame)) => {
                let packet = input.split_to(frame.end);
                let body = packet.get(frame.body_at..).unwrap_or_default();
                return Ok(connect::read(frame.first_byte, body));
            }
            Ok(None) => {}
        }
        match stream.read_buf(input).await {
            Ok(0) | Err(_) => return Err(Refused("gone before its CONNECT")),
            Ok(_) => {}
        }
    }
}

/// CONNECT could not be read: MQTT 3.1.1 is told only about the level, MQTT 5 all (3.1.4.1).
async fn refuse_bytes<S: AsyncWrite + Unpin, T>(
    stream: &mut S,
    error: ConnectError,
) -> Result<T, Refused> {
    match error {
        ConnectError::NotMqtt => Err(Refused("it is not MQTT")),
        ConnectError::Level(level) => {
            let version = if level > 5 { Version::V5 } else { Version::V4 };
            let code = ConnectReturnCode::UnsupportedProtocolVersion;
            refuse(
                stream,
                (version, code, "another protocol level than 4 and 5"),
            )
            .await
        }
        ConnectError::Violation(Version::V5, violation) => {
            refuse(
                stream,
                (Version::V5, violation.connack_code(), violation.what),
            )
            .await
        }
        ConnectError::Violation(Version::V4, violation) => Err(Refused(violation.what)),
    }
}

async fn refuse<S: AsyncWrite + Unpin, T>(
    stream: &mut S,
    (version, code, reason): (Version, ConnectReturnCode, &'static str),
) -> Result<T, Refused> {
    let mut output = BytesMut::new();
    write::connack(
        &mut output,
        version,
        false,
        code,
        ConnAckProperties::default(),
    );
    let written = async {
        let _ = stream.write_all(&output).await;
        let _ = stream.shutdown().await;
    };
    let _ = tokio::time::timeout(REFUSAL_MAX, written).await;
    Err(Refused(reason))
}

/// A certificate is enough; else a user name that is known with its password; else, where allowed, no name.
async fn authenticate(
    shared: &Shared,
    settings: &Settings,
    connect: &Connect,
    certified: bool,
) -> Result<(), ConnectReturnCode> {
    let Some(name) = &connect.user_name else {
        let allowed = certified || settings.allow_anonymous;
        return if allowed {
            Ok(())
        } else {
            Err(ConnectReturnCode::NotAuthorized)
        };
    };
    let password = connect.password.as_deref().unwrap_or_default();
    if shared.users.verify(name, password).await {
        Ok(())
    } else {
        Err(ConnectReturnCode::BadUserNamePassword)
    }
}

/// The client's id, and whether we made it [MQTT-3.1.3-6] to [MQTT-3.1.3-8].
fn client_id(connect: &Connect) -> Option<(Arc<str>, bool)> {
    if !connect.client_id.is_empty() {
        return Some((connect.client_id.as_str().into(), false));
    }
    if connect.version == Version::V4 && !connect.clean_start {
        return None;
    }
    let number: u128 = rand::rng().random();
    Some((format!("auto-{number:032x}").into(), true))
}

fn session_expiry(connect: &Connect, settings: &Settings) -> Duration {
    let asked = match (connect.version, connect.clean_start) {
        (Version::V4, true) => return Duration::ZERO,
        (Version::V4, false) => NEVER,
        (Version::V5, _) => connect.properties.session_expiry_interval.unwrap_or(0),
    };
    limit_expiry(asked, settings)
}

/// No longer than `session_expiry_max`.
pub(super) fn limit_expiry(asked_s: u32, settings: &Settings) -> Duration {
    Duration::from_secs(asked_s.into()).min(settings.session_expiry_max)
}

/// MQTT 5 clients are told where they do not get what they asked for.
fn told_expiry(connect: &Connect, expiry: Duration) -> Option<u32> {
    let asked = connect.properties.session_expiry_interval.unwrap_or(0);
    let given = u32::try_from(expiry.as_secs()).unwrap_or(NEVER);
    (connect.version == Version::V5 && given != asked).then_some(given)
}

/// How long the client may be silent, and the keep alive it is told in place of its own.
fn keep_alive(connect: &Connect, settings: &Settings) -> (Option<Duration>, Option<u16>) {
    if connect.keep_alive_s > 0 {
        // One and a half times [MQTT-3.1.2-22].
        let silence = Duration::from_secs(connect.keep_alive_s.into()) * 3 / 2;
        return (Some(silence), None);
    }
    let Some(idle) = settings.idle_timeout else {
        return (None, None);
    };
    let told = u16::try_from(idle.as_secs()).unwrap_or(u16::MAX).max(1);
    (
        Some(idle * 3 / 2),
        (connect.version == Version::V5).then_some(told),
    )
}

fn make_will(will: ConnectWill, client_id: &Arc<str>, connection: u64) -> Will {
    Will {
        client_id: client_id.clone(),
        connection,
        topic: will.topic.into(),
        payload: will.payload,
        qos: will.qos,
        retain: will.retain,
        delay: Duration::from_secs(will.delay_s.into()),
        expiry: will.expiry_s.map(|s| Duration::from_secs(s.into())),
        properties: will.properties,
    }
}
