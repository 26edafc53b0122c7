//! Which backend of a set a new connection gets.

use crate::{Addr, Affinity, AffinityKey, BackendKey, Maglev, Maps, MemberKey, Reason, Set, SockAddr, Tuple};

/// How often a choice starts again when the set changed between reading its size and reading a slot.
const TRIES: u32 = 3;

/// Who chooses, and of what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    /// Number of the set.
    pub(crate) set: u32,
    /// For how many seconds the client keeps its backend; 0: not at all.
    pub(crate) affinity: u32,
    /// Whom an affinity is with.
    pub(crate) client: Addr,
    /// What nodes that should choose alike have in common; nothing where the choice is random.
    pub(crate) hash: Option<u32>,
}

/// A backend, or why there is none.
#[inline(always)]
pub(crate) fn choose<M: Maps>(maps: &M, choice: &Choice) -> Result<SockAddr, Reason> {
    if choice.affinity == 0 {
        return pick(maps, choice);
    }
    let key = AffinityKey {
        client: choice.client,
        set: choice.set,
        zero: 0,
    };
    let now = maps.now();
    let backend = match maps.affinity(&key) {
        Some(last)
            if now.wrapping_sub(last.seen) <= choice.affinity
                && maps.is_member(&MemberKey::new(choice.set, &last.backend)) =>
        {
            last.backend
        }
        _ => pick(maps, choice)?,
    };
    let affinity = Affinity {
        backend,
        seen: now,
        zero: 0,
    };
    maps.set_affinity(&key, &affinity);
    Ok(backend)
}

#[inline(always)]
fn pick<M: Maps>(maps: &M, choice: &Choice) -> Result<SockAddr, Reason> {
    let mut tries = 0;
    while tries < TRIES {
        let set = maps.set(choice.set).unwrap_or_default();
        if set.count == 0 {
            return Err(Reason::NoEndpoints);
        }
        let slot = slot(maps, choice, &set);
        if let Some(backend) = maps.backend(&BackendKey { set: choice.set, slot }) {
            return Ok(backend);
        }
        // The set shrank since we read its size: read it again.
        tries += 1;
    }
    Err(Reason::BackendMissing)
}

/// By the table that all nodes have in common, or a random one: the high half of a product spreads a 32-bit random
/// number evenly without a division.
#[inline(always)]
fn slot<M: Maps>(maps: &M, choice: &Choice, set: &Set) -> u32 {
    if set.has(Set::MAGLEV)
        && let Some(hash) = choice.hash
        && let Some(slot) = maps.maglev(choice.set, hash % Maglev::SIZE as u32)
        && slot < set.count
    {
        return slot;
    }
    ((u64::from(maps.random()) * u64::from(set.count)) >> 32) as u32
}

/// A number that follows from a connection's addresses and ports, the same on every node. With an affinity, from the
/// client's address only.
#[inline(always)]
pub(crate) fn hash(tuple: &Tuple, affinity: bool) -> u32 {
    let ports = match affinity {
        true => 0,
        false => u64::from(tuple.source_port.host()) << 16 | u64::from(tuple.destination_port.host()),
    };
    let words = tuple.source.v6_words();
    let mut hash = ports ^ u64::from(tuple.protocol) << 32;
    let mut i = 0;
    while i < 4 {
        hash = mix(hash ^ u64::from(u32::from_be(words[i])));
        i += 1;
    }
    (hash >> 32) as u32
}

/// The finaliser of splitmix64: every bit of the result depends on every bit of the number.
#[inline(always)]
const fn mix(number: u64) -> u64 {
    let a = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ a >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ b >> 31
}
