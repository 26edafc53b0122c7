//! The Internet checksum, changed in place (RFC 1624).

/// The checksum after one 16-bit word of what it covers changed from `old` to `new` (RFC 1624, equation 3).
/// All three in the same byte order, whichever that is.
#[inline(always)]
pub const fn replace(check: u16, old: u16, new: u16) -> u16 {
    let sum = !check as u32 + !old as u32 + new as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
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
