//! The admin API: health, status, metrics, drains, reload, and the backlog's own commands.

mod guard;

pub use guard::{Guard, Settings};
