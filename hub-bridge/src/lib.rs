//! Both banks of the crossing from a village's backlog to the national hub.

pub mod backlog;
pub mod clock;
pub mod identity;
pub mod reading;
