-- Readings, exactly once, and what belongs to them. Times are UTC.

-- Which sequences of an epoch are rows. The row's lock is what makes "exactly once" hold whatever times two copies of a
-- reading carry: a primary key of a table that is partitioned by time cannot leave the time out.
CREATE TABLE progress (
    village text NOT NULL,
    epoch text NOT NULL,
    stored int8multirange NOT NULL DEFAULT '{}',
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (village, epoch)
);

-- Partitioned by month of `received_at`; each partition has the primary key (village, epoch, sequence). What carries no
-- plausible time is in `readings_undated`.
CREATE TABLE readings (
    village text NOT NULL,
    epoch text NOT NULL,
    sequence bigint NOT NULL,
    topic text NOT NULL,
    client_id text NOT NULL,
    received_at timestamptz NOT NULL,
    clock text NOT NULL CHECK (clock IN ('synchronised', 'unsynchronised')),
    payload bytea NOT NULL,
    digest bytea NOT NULL,
    qos smallint,
    retain boolean,
    repeat_of bigint,
    properties jsonb,
    -- How it came: frame, plain or import.
    source text NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    -- What the mapping found in the payload, and why it did not fit where it did not.
    meter text,
    ts timestamptz,
    power_kw double precision,
    energy_kwh double precision,
    voltage_v double precision,
    unmapped text
) PARTITION BY RANGE (received_at);

CREATE TABLE readings_undated PARTITION OF readings DEFAULT;
ALTER TABLE readings_undated ADD PRIMARY KEY (village, epoch, sequence);
CREATE INDEX readings_meter_ts ON readings (village, meter, ts);

-- The same identity with another digest: never silently away.
CREATE TABLE conflicts (
    village text NOT NULL,
    epoch text NOT NULL,
    sequence bigint NOT NULL,
    digest bytea NOT NULL,
    topic text NOT NULL,
    client_id text NOT NULL,
    received_at timestamptz NOT NULL,
    clock text NOT NULL,
    payload bytea NOT NULL,
    source text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (village, epoch, sequence, digest)
);

-- What could not be read at all, with its bytes.
CREATE TABLE dead_letters (
    digest bytea PRIMARY KEY,
    topic text NOT NULL,
    reason text NOT NULL,
    payload bytea NOT NULL,
    times bigint NOT NULL DEFAULT 1,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now()
);

-- What each relay said of its own store.
CREATE TABLE accounts (
    village text NOT NULL,
    epoch text NOT NULL,
    through bigint NOT NULL,
    is_current boolean NOT NULL,
    stored bigint NOT NULL,
    digest bytea NOT NULL,
    lost jsonb NOT NULL,
    refused jsonb NOT NULL,
    said_at timestamptz NOT NULL,
    clock text NOT NULL,
    heard_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (village, epoch, through)
);
