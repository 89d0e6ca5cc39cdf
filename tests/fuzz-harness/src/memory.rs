//! A limit of memory: what a corrupt length can make a parser allocate shows up as a failure, not as a full machine.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes that this thread holds more than when it was set to 0.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, which counts for each thread what it holds. Where it is not the global allocator, [`within`]
/// checks nothing.
#[derive(Debug)]
pub struct Counting;

fn count(bytes: isize) {
    // A thread that ends frees after its thread-locals are gone.
    let _ = HELD.try_with(|held| {
        held.set(held.get().saturating_add(bytes));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

#[allow(unsafe_code)] // an allocator has no safe face
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: as it came.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(signed(bytes).saturating_sub(signed(layout.size())));
        // SAFETY: as it came.
        unsafe { System.realloc(old, layout, bytes) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        count(signed(layout.size()).saturating_neg());
        // SAFETY: as it came.
        unsafe { System.dealloc(old, layout) }
    }
}

/// Runs `work`, which must never hold more than `bytes_max` bytes at a time on this thread, beside what was there before.
///
/// # Panics
/// Where it did.
pub fn within<T>(bytes_max: usize, work: impl FnOnce() -> T) -> T {
    HELD.set(0);
    PEAK.set(0);
    let result = work();
    let peak = PEAK.get();
    assert!(
        peak <= signed(bytes_max),
        "held {peak} bytes, and {bytes_max} are enough for this input"
    );
    result
}
