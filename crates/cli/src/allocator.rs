//! Tells glibc's allocator to give back what is large as soon as it is freed: the only `unsafe` of this crate.
//!
//! By default glibc raises the size from which it asks the system for each allocation, up to 32 MiB, whenever such a one is
//! freed, and keeps smaller ones in an arena for each thread. A node that has taken in a few components of some megabytes
//! would hold hundreds of them for good. `mallopt` is unsafe only because it is foreign: it takes two integers and changes
//! settings, and it is called before any other thread exists.
#![allow(unsafe_code)]

/// From this size on, an allocation is a mapping of its own, which goes back to the system when it is freed; and no arena
/// keeps more than this for later. Components with a language's runtime inside are larger; a column of a batch, or a body of
/// a mebibyte, is not: to have its pages faulted in anew each time takes longer than to send it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES_MIN: libc::c_int = 4 << 20;

/// Fixes the size; where the allocator is another one, nothing is to be done.
pub(crate) fn give_back_what_is_large() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: see above.
    unsafe {
        // It cannot fail with these values; if it did, the defaults would stay.
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN);
        libc::mallopt(libc::M_TRIM_THRESHOLD, MAPPED_BYTES_MIN);
    }
}
