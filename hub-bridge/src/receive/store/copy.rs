//! New rows into `readings` by binary `COPY`: the fastest way in that PostgreSQL has.

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use tokio_postgres::Transaction;

use super::row::{Row, clock_word};

const SQL: &str = "COPY readings (village, epoch, sequence, topic, client_id, received_at, clock, payload, digest, qos, \
                   retain, repeat_of, properties, source, meter, ts, power_kw, energy_kwh, voltage_v, unmapped) \
                   FROM STDIN (FORMAT BINARY)";
const COLUMNS: i16 = 20;
/// The signature, no flags, no header extension (PostgreSQL, `COPY`, "Binary Format").
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// So much goes to the server at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// PostgreSQL counts microseconds from 2000.
const EPOCH_2000_US: i64 = 946_684_800_000_000;

/// Copies the rows; an error of any of them fails the transaction.
pub(super) async fn copy_in(
    transaction: &Transaction<'_>,
    rows: &[Row<'_>],
) -> Result<(), tokio_postgres::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let sink = transaction.copy_in::<_, Bytes>(SQL).await?;
    let mut sink = std::pin::pin!(sink);
    let mut chunk = BytesMut::with_capacity(CHUNK_BYTES + 4096);
    chunk.put_slice(HEADER);
    for row in rows {
        put_row(&mut chunk, row);
        if chunk.len() >= CHUNK_BYTES {
            sink.send(chunk.split().freeze()).await?;
            chunk.reserve(CHUNK_BYTES + 4096);
        }
    }
    chunk.put_i16(-1);
    sink.send(chunk.freeze()).await?;
    sink.finish().await?;
    Ok(())
}

fn put_row(to: &mut BytesMut, row: &Row<'_>) {
    let reading = &row.incoming.reading;
    let mapped = &row.mapped;
    to.put_i16(COLUMNS);
    put(to, row.incoming.village.as_str().as_bytes());
    put(to, row.incoming.epoch.to_string().as_bytes());
    put(to, &row.sequence.to_be_bytes());
    put(to, row.topic.as_bytes());
    put(to, row.client_id.as_bytes());
    put_time(to, Some(row.received_us));
    put(to, clock_word(row.clock).as_bytes());
    put(to, &reading.payload);
    put(to, &row.digest.0);
    put(to, &i16::from(reading.qos).to_be_bytes());
    put(to, &[u8::from(reading.retain)]);
    put_or_null(to, row.repeat_of.map(i64::to_be_bytes));
    put_json(to, row.properties.as_deref());
    put(to, row.incoming.source.as_str().as_bytes());
    put_or_null(to, mapped.meter.as_deref());
    put_time(to, mapped.ts_us);
    put_or_null(to, mapped.power_kw.map(f64::to_be_bytes));
    put_or_null(to, mapped.energy_kwh.map(f64::to_be_bytes));
    put_or_null(to, mapped.voltage_v.map(f64::to_be_bytes));
    put_or_null(to, mapped.unmapped.as_deref());
}

fn put(to: &mut BytesMut, value: &[u8]) {
    // A packet of MQTT is at most 256 MiB.
    to.put_i32(i32::try_from(value.len()).unwrap_or(i32::MAX));
    to.put_slice(value);
}

fn put_or_null(to: &mut BytesMut, value: Option<impl AsRef<[u8]>>) {
    match value {
        Some(value) => put(to, value.as_ref()),
        None => to.put_i32(-1),
    }
}

/// `jsonb` on the wire is a version and a text.
fn put_json(to: &mut BytesMut, json: Option<&str>) {
    let Some(json) = json else {
        to.put_i32(-1);
        return;
    };
    to.put_i32(i32::try_from(json.len() + 1).unwrap_or(i32::MAX));
    to.put_u8(1);
    to.put_slice(json.as_bytes());
}

fn put_time(to: &mut BytesMut, since_1970_us: Option<i64>) {
    put_or_null(
        to,
        since_1970_us.map(|us| (us - EPOCH_2000_US).to_be_bytes()),
    );
}
