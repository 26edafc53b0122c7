//! Maglev's consistent hashing: every node maps a client to the same endpoint, and few clients to another one when an
//! endpoint comes or goes (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
//! section 3.4).

use std::net::IpAddr;

use crate::compile::Backend;

/// Entries of a table: a prime.
pub const SIZE: usize = 1021;

/// How many backends a table may have: with more, shares would differ by over a quarter.
pub const MOST_BACKENDS: usize = SIZE / 4;

/// The table for these backends: for each of [`SIZE`] hash values an index into them. The same on every node that has
/// the same backends in the same order: sort them. Empty where there are none, or too many.
pub fn table(backends: &[Backend]) -> Vec<u16> {
    if backends.is_empty() || backends.len() > MOST_BACKENDS {
        return vec![];
    }
    let mut preferences: Vec<Preference> = backends.iter().map(Preference::of).collect();
    let mut table = vec![None; SIZE];
    // Each backend in turn takes the free entry that it prefers most, until all are taken.
    for turn in 0..SIZE {
        let index = turn % backends.len();
        let free = preferences[index].next_free(&table);
        table[free] = Some(index as u16);
    }
    table.into_iter().flatten().collect()
}

/// All entries in the order in which one backend prefers them.
struct Preference {
    next: usize,
    skip: usize,
}

impl Preference {
    fn of(backend: &Backend) -> Self {
        let mut name = match backend.ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        name.extend(backend.port.to_be_bytes());
        let hash = hash(&name);
        // Two numbers that have nothing to do with each other, out of the halves of one.
        Self {
            next: (hash >> 32) as usize % SIZE,
            skip: (hash & 0xffff_ffff) as usize % (SIZE - 1) + 1,
        }
    }

    /// The next entry that nobody has. There has to be one: the steps go round a prime, and meet all.
    fn next_free(&mut self, table: &[Option<u16>]) -> usize {
        loop {
            let entry = self.next;
            self.next = (entry + self.skip) % SIZE;
            if table[entry].is_none() {
                return entry;
            }
        }
    }
}

/// FNV-1a, with the bits mixed as SplitMix64 does: all that matters is that every version of Weft has the same.
fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn backends(count: u16) -> Vec<Backend> {
        let backend = |n: u16| Backend {
            ip: IpAddr::from([10, 0, (n >> 8) as u8, n as u8]),
            port: 8080,
        };
        (0..count).map(backend).collect()
    }

    fn shares(backends: &[Backend]) -> HashMap<u16, usize> {
        let mut shares = HashMap::new();
        table(backends)
            .into_iter()
            .for_each(|index| *shares.entry(index).or_default() += 1);
        shares
    }

    #[test]
    fn everybody_gets_the_same_share() {
        for count in [1, 2, 3, 10, 100, MOST_BACKENDS as u16] {
            let shares = shares(&backends(count));
            assert_eq!(shares.len(), usize::from(count));
            let fair = SIZE / usize::from(count);
            assert!(
                shares.values().all(|share| (fair..=fair + 1).contains(share)),
                "{shares:?}"
            );
        }
        assert!(table(&[]).is_empty() && table(&backends(MOST_BACKENDS as u16 + 1)).is_empty());
    }

    #[test]
    fn when_one_goes_few_of_the_others_clients_move() {
        let all = backends(10);
        let mut fewer = all.clone();
        let gone = fewer.remove(4);
        let pairs = table(&all).into_iter().zip(table(&fewer));
        let of_others = pairs.map(|(before, after)| (all[usize::from(before)], fewer[usize::from(after)]));
        let moved = of_others
            .filter(|(before, after)| *before != gone && before != after)
            .count();
        assert!(moved < SIZE / 10, "{moved} of {SIZE} clients of others moved");
    }

    #[test]
    fn it_is_the_same_wherever_it_is_computed() {
        // Nodes of different versions have to agree: this may only change with a reason.
        assert_eq!(table(&backends(3))[..12], [1, 1, 2, 1, 1, 0, 1, 1, 2, 2, 1, 0]);
    }
}
