//! The `edge-relay` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    edge_relay::allocator::keep_small();
    edge_relay::cli::main()
}
