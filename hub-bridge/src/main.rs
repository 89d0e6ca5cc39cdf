//! The hub's side: see `hub-bridge --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    hub_bridge::hub::cli::main()
}
