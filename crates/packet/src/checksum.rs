//! The Internet checksum, changed in place (RFC 1624).

use crate::Addr;

/// The checksum after one 16-bit word of what it covers changed from `old` to `new` (RFC 1624, equation 3).
/// All three in the same byte order, whichever that is.
#[inline(always)]
pub const fn replace(check: u16, old: u16, new: u16) -> u16 {
    let sum = !check as u32 + !old as u32 + new as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

/// What a sum over 16-bit words changes by: a sum of what is new and of the complement of what was there.
/// All words as they are in memory, so that the result fits the kernel's own (`__wsum`).
#[derive(Clone, Copy, Default)]
pub struct Change(u64);

impl Change {
    /// A 32-bit word of what is covered changes.
    #[inline(always)]
    pub const fn word(self, old: u32, new: u32) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// A 16-bit word at an even place changes.
    #[inline(always)]
    pub const fn half(self, old: u16, new: u16) -> Self {
        self.word(old as u32, new as u32)
    }

    /// An address changes: all of it, whatever its family. What v4-mapped addresses have in common cancels out.
    #[inline(always)]
    pub const fn addr(self, old: Addr, new: Addr) -> Self {
        let (old, new) = (old.v6_words(), new.v6_words());
        self.word(old[0], new[0])
            .word(old[1], new[1])
            .word(old[2], new[2])
            .word(old[3], new[3])
    }

    /// The sum, of 32 bits.
    #[inline(always)]
    pub const fn sum(self) -> u32 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((sum & 0xffff_ffff) + (sum >> 32)) as u32
    }
}

/// The checksum after a [`Change`] of what it covers, as it is in memory.
#[inline(always)]
pub const fn update(check: u16, change: u32) -> u16 {
    let sum = change as u64 + !(check as u32) as u64;
    fold(sum)
}

/// The checksum of what adds up to this (RFC 1071).
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;

    /// The checksum by its definition (RFC 1071): one's complement of the one's complement sum.
    fn naive(words: &[u16]) -> u16 {
        let mut sum: u32 = words.iter().map(|w| u32::from(*w)).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// The example of RFC 1624, section 4: equation 2 gets this one wrong.
    #[test]
    fn the_corner_case_of_the_rfc() {
        assert_eq!(replace(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn a_change_of_addresses_equals_a_new_sum(old: [u8; 16], new: [u8; 16], more in 1u16.., ports: [u16; 2]) {
            let words = |addr: [u8; 16], port: u16| {
                let words = addr.as_chunks::<2>().0.iter().map(|w| u16::from_ne_bytes(*w));
                words.chain([port, more]).collect::<Vec<_>>()
            };
            let (before, after) = (naive(&words(old, ports[0])), naive(&words(new, ports[1])));
            let change = Change::default()
                .addr(Addr::from_v6_bytes(old), Addr::from_v6_bytes(new))
                .half(ports[0], ports[1]);
            prop_assert_eq!(update(before, change.sum()), after);
            let sum = words(new, ports[1]).into_iter().map(u64::from).sum();
            prop_assert_eq!(fold(sum), after);
        }

        #[test]
        fn a_change_in_place_equals_a_new_sum(mut words in proptest::collection::vec(any::<u16>(), 2..40), at: prop::sample::Index, new: u16) {
            // A header is never all zero: its first byte is a version.
            words[0] |= 0x4000;
            let at = 1 + at.index(words.len() - 1);
            let before = naive(&words);
            let old = std::mem::replace(&mut words[at], new);
            prop_assert_eq!(replace(before, old, new), naive(&words));
            let swapped: Vec<u16> = words.iter().map(|w| w.swap_bytes()).collect();
            prop_assert_eq!(replace(before.swap_bytes(), old.swap_bytes(), new.swap_bytes()), naive(&swapped));
        }
    }
}
