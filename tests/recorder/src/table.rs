//! Which descriptors are files below the root.
//!
//! Descriptors that the C library closes by itself (`closedir`) stay in the table until they are opened again. They are
//! directories, so a write to such a number, which then is a socket's, is known not to be meant.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Descriptors above are not followed; the relay has at most a few thousand connections.
const DESCRIPTORS: usize = 1 << 16;

/// What is known of an open file.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    /// Its number in the records.
    pub(crate) handle: u64,
    /// Its path when it was opened.
    pub(crate) path: Vec<u8>,
    /// A directory.
    pub(crate) directory: bool,
}

/// All of them. The numbers are looked at without the lock, since most descriptors are sockets.
pub(crate) struct Table {
    slots: Vec<AtomicU32>,
    opened: Mutex<Vec<Option<Opened>>>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            slots: (0..DESCRIPTORS).map(|_| AtomicU32::new(0)).collect(),
            opened: Mutex::default(),
        }
    }

    fn slot(&self, fd: i32) -> Option<&AtomicU32> {
        self.slots.get(usize::try_from(fd).ok()?)
    }

    /// What `fd` is, if it is below the root.
    pub(crate) fn get(&self, fd: i32) -> Option<Opened> {
        let number = self.slot(fd)?.load(Ordering::Acquire) as usize;
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.get(number.checked_sub(1)?)?.clone()
    }

    /// `fd` is a new open file with the number that `make` makes of a free place.
    pub(crate) fn set(&self, fd: i32, opened: Opened) {
        let Some(slot) = self.slot(fd) else {
            return;
        };
        let mut all = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        Self::vacate(slot, &mut all);
        let place = all.iter().position(Option::is_none).unwrap_or(all.len());
        if place == all.len() {
            all.push(None);
        }
        if let Some(free) = all.get_mut(place) {
            *free = Some(opened);
        }
        slot.store(u32::try_from(place + 1).unwrap_or(0), Ordering::Release);
    }

    /// `fd` is closed, or something else now.
    pub(crate) fn clear(&self, fd: i32) {
        if let Some(slot) = self.slot(fd)
            && slot.load(Ordering::Acquire) != 0
        {
            let mut all = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
            Self::vacate(slot, &mut all);
        }
    }

    fn vacate(slot: &AtomicU32, all: &mut [Option<Opened>]) {
        let place = slot.swap(0, Ordering::AcqRel) as usize;
        if let Some(used) = place.checked_sub(1).and_then(|place| all.get_mut(place)) {
            *used = None;
        }
    }
}
