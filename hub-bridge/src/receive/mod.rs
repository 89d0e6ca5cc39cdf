//! The receiver: from the hub's broker into PostgreSQL, each reading once.
//!
//! `store` is the database's side, and what `import` uses too.

pub mod mapping;
pub mod store;
pub mod topics;
