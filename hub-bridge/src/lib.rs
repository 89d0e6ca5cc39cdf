//! Both banks of the crossing from a village's backlog to the national hub.

pub mod backlog;
pub mod clock;
pub mod hub_url;
pub mod identity;
pub mod reading;
pub mod secret;
pub mod settings;
pub mod topic;
pub mod window;
