//! The maps of services, and the order in which they are written: every single write leaves a state that a packet or
//! a connection may meet, and that the next agent can go on from.

use aya::Ebpf;
use weft_packet::layout::name;
use weft_packet::{BackendKey, Frontend, Maglev, MemberKey, Prefix, Service, Set, SockAddr};

use crate::bpf::range::Ranges;
use crate::bpf::table::Table;
use crate::bpf::{Result, Usage};

/// What a map of members holds beside its keys: nothing that means anything.
pub(super) const PRESENT: u32 = 1;

pub(in crate::bpf) struct Tables {
    pub(super) frontends: Table<Frontend, Service>,
    pub(super) sets: Table<u32, Set>,
    pub(super) backends: Table<BackendKey, SockAddr>,
    pub(super) members: Table<MemberKey, u32>,
    pub(super) maglev: Table<u32, Maglev>,
}

impl Tables {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            frontends: Table::take(ebpf, name::FRONTENDS)?,
            sets: Table::take(ebpf, name::SETS)?,
            backends: Table::take(ebpf, name::BACKENDS)?,
            members: Table::take(ebpf, name::MEMBERS)?,
            maglev: Table::take(ebpf, name::MAGLEV)?,
        })
    }

    /// The same tables, of which some are larger and still empty: those are filled.
    pub(super) fn follow(&mut self, before: &Self) -> Result<()> {
        self.frontends.follow(&before.frontends)?;
        self.sets.follow(&before.sets)?;
        self.backends.follow(&before.backends)?;
        self.members.follow(&before.members)?;
        self.maglev.follow(&before.maglev)
    }

    /// How full they are, with so many entries each.
    pub(super) fn usage(&self, used: Counts) -> [Usage; 5] {
        [
            self.frontends.usage(used.frontends),
            self.sets.usage(used.sets),
            self.backends.usage(used.backends),
            self.members.usage(used.members),
            self.maglev.usage(used.maglev),
        ]
    }

    /// How many entries were written or removed.
    pub(super) fn writes(&self) -> u64 {
        self.frontends.writes()
            + self.sets.writes()
            + self.backends.writes()
            + self.members.writes()
            + self.maglev.writes()
    }
}

/// Entries of each of the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) frontends: usize,
    pub(super) sets: usize,
    pub(super) backends: usize,
    pub(super) members: usize,
    pub(super) maglev: usize,
    pub(super) ranges: usize,
}

/// Writes that belong together, of one Service or of many, in the order in which they are done.
#[derive(Default)]
pub(super) struct Writes {
    // What nothing leads to yet. Here the room may turn out to be missing.
    pub(super) appended: Vec<(BackendKey, SockAddr)>,
    pub(super) members: Vec<(MemberKey, u32)>,
    pub(super) tables: Vec<(u32, Maglev)>,
    pub(super) ranges: Vec<Prefix>,
    // Sets that are new, or reach further, or say that the above is there.
    pub(super) grown: Vec<(u32, Set)>,
    // Other backends in slots that are reached already.
    pub(super) replaced: Vec<(BackendKey, SockAddr)>,
    // Sets that reach less far.
    pub(super) shrunk: Vec<(u32, Set)>,
    pub(super) frontends: Vec<(Frontend, Service)>,
    // What is not wanted any more, and then what nothing leads to any more.
    pub(super) gone_frontends: Vec<Frontend>,
    pub(super) gone_sets: Vec<u32>,
    pub(super) gone_tables: Vec<u32>,
    pub(super) gone_backends: Vec<BackendKey>,
    pub(super) gone_members: Vec<MemberKey>,
    pub(super) gone_ranges: Vec<Prefix>,
}

impl Writes {
    /// Does them.
    pub(super) fn run(&self, tables: &mut Tables, ranges: &mut Ranges) -> Result<()> {
        tables.backends.insert_all(&self.appended)?;
        tables.members.insert_all(&self.members)?;
        tables.maglev.insert_all(&self.tables)?;
        self.ranges.iter().try_for_each(|prefix| ranges.insert(*prefix))?;
        tables.sets.insert_all(&self.grown)?;
        tables.backends.insert_all(&self.replaced)?;
        tables.sets.insert_all(&self.shrunk)?;
        tables.frontends.insert_all(&self.frontends)?;
        tables.frontends.remove_all(&self.gone_frontends)?;
        tables.sets.remove_all(&self.gone_sets)?;
        tables.maglev.remove_all(&self.gone_tables)?;
        tables.backends.remove_all(&self.gone_backends)?;
        tables.members.remove_all(&self.gone_members)?;
        self.gone_ranges.iter().try_for_each(|prefix| ranges.remove(*prefix))
    }
}
