//! Memory that the allocator keeps although nobody uses it.
#![expect(unsafe_code, reason = "malloc_trim is a function of the C library")]

/// Gives back to the kernel what was freed. After a large list glibc keeps twice what is in use, in pieces between what is
/// kept of it, and gives nothing back by itself but what lies at the end. Takes a millisecond or less; with another C
/// library it does nothing.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and locks what it looks at.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
