//! What every command of the hub's side shares: its configuration, the database, the schema, the log.

pub mod cli;
pub mod config;
pub mod database;
pub mod log;
pub mod migrations;
