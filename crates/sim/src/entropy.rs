//! The system's randomness, from the seed.
//!
//! Hash maps of the standard library and tokio's `select!` draw on the system's generator, and with it the order of
//! events would differ from run to run. The linker prefers this `getrandom` to the one of the C library.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static SEEDED: AtomicBool = AtomicBool::new(false);
static STATE: AtomicU64 = AtomicU64::new(0);

/// Answers all who ask for randomness in this process from `seed` on. To be called before anybody has asked.
pub fn seed(seed: u64) {
    STATE.store(seed, Ordering::Relaxed);
    SEEDED.store(true, Ordering::Relaxed);
}

/// The C library's function of this name.
///
/// # Safety
/// `buffer` has room for `length` bytes, as for the C library's.
// SAFETY: it has the C library's signature and keeps its contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut libc::c_void, length: libc::size_t, flags: libc::c_uint) -> isize {
    if !SEEDED.load(Ordering::Relaxed) {
        // SAFETY: the arguments are the caller's, as the system call wants them.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize };
    }
    for at in 0..length {
        // SAFETY: the caller promises `length` writable bytes.
        unsafe { buffer.cast::<u8>().add(at).write(next().to_le_bytes()[0]) };
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}

/// SplitMix64.
fn next() -> u64 {
    let state = STATE.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed).wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
