//! The fault campaign: cases of many kinds, each from a seed of its own, until the time is over. What a case must hold is
//! always the ledger: each publish that was acknowledged is at the hub, each reading at the hub was published, and a
//! reading that damage took is named.
//!
//! ```text
//! torture [--minutes N] [--cases N] [--from N] [--kinds a,b] [--seed S] [--totals FILE]    a campaign; kinds take turns
//! torture --kind K --seed S                                                     one case again
//! torture --list                                                                the kinds
//! ```
//!
//! `RELAY_TORTURE_QUICK` makes each case small. A case is a process of its own, with a directory of its own for all that it makes. Where it fails, the directory stays,
//! and the command that replays it is printed. A seed repeats the choices of a case, not the moments that threads take.

mod campaign;
mod case;
mod clocks;
mod combined;
mod cuts;
mod damage;
mod full_disk;
mod hubs;
mod kills;
mod matrix;
mod outcome;
mod power;
mod replays;
mod totals;
mod two_relays;
mod village;
mod wreck;

use std::process::ExitCode;

use anyhow::Result;

fn main() -> Result<ExitCode> {
    if let Some(request) = case::requested() {
        return Ok(case::run(&request));
    }
    let plan = campaign::Plan::from_arguments(std::env::args().skip(1))?;
    campaign::run(&plan)
}
