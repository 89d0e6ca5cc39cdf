//! The store's promises, on a real disk; faults come in through the medium.

mod basics;
mod crash;
mod damage;
mod faults;
pub(crate) mod fixture;
mod frames;
mod life;
mod model;
