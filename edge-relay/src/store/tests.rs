//! The store's promises, on a real disk; faults come in through the medium.

mod basics;
mod fixture;
