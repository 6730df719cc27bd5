//! How much memory a run takes.

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Runs something, which may take at most `limit` bytes more than there were.
///
/// # Panics
/// When it takes more.
pub fn within<T>(limit: usize, run: impl FnOnce() -> T) -> T {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = run();
    let taken = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(taken <= limit, "{taken} bytes were taken, {limit} are allowed");
    result
}
