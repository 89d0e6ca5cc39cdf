# The recipes are what CI runs (.ci/run), by name.

# What CI checks, all of it.
ci:
    bash .ci/run

# Install what the tests need, build, run every test.
test *filter:
    tests/run {{filter}}

# Formatting, lints, documentation, dependencies: quick.
check:
    bash .ci/run fmt dependencies clippy docs

# systemd unit, image, manifests: builds the static binary and runs the demo with it.
deploy:
    bash .ci/run deploy

# A village, a bad uplink and a hub on this machine, in a minute.
demo:
    cargo run --release -p edge-relay -- demo

# The bridge in virtual time over faults of many seeds (docs/simulation.md).
simulate steps='10000000':
    RELAY_TEST_SIMULATION_STEPS={{steps}} cargo test --release -p hub-bridge --test simulation -- --nocapture every_invariant

# The store's benches; the figures and their commands stand in docs/performance.md.
bench:
    cargo bench -p edge-relay

# This relay beside mosquitto, nats-server and the floor: tables with ratios, about a quarter of an hour.
# One part alone: `just compare part=pubacks` (drain, memory, device); `into=FILE` writes between that file's marks.
compare *arguments:
    tests/compare {{arguments}}

# The fault campaign: ten minutes, or `just torture --minutes 60 --kinds kill,power`; --totals docs/reliability.md adds to
# the totals there. A failure prints the command that replays it.
torture *arguments:
    cargo build --locked -p relay-recorder
    cargo build --release --locked -p edge-relay
    cargo run --release --locked -p relay-tests --bin torture -- {{arguments}}

# Coverage-guided fuzzing of one target (docs/fuzzing.md); without one, lists them.
fuzz *arguments:
    fuzz/run {{arguments}}
