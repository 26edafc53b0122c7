//! Services in the kernel: their frontends, the sets of backends that those lead to, and the smallest change from what
//! is there to what is wanted.
//!
//! The work for a change is in proportion to the Service that it concerns, the writes to what differs. What an earlier
//! agent left is taken over by what leads there: a set has no name in the kernel, but the frontends that lead to it do.

mod known;
mod plan;
mod slots;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use aya::Ebpf;
use weft_model::Protocol;
use weft_model::compile::{self, Step};
use weft_packet::layout::name;
use weft_packet::{Addr, Frontend, MemberKey, PeerKey, Port, SockAddr};

use super::range::Ranges;
use super::{Result, Usage};
use known::Known;
use plan::Plan;
use tables::{Counts, Tables, Writes};

pub(super) struct Services {
    tables: Tables,
    ranges: Ranges,
    known: Known,
    /// What has been accepted, and is in `known`, but not in the kernel yet.
    writes: Writes,
    /// Somebody may hold a UDP socket that is connected to a backend that has gone.
    released: bool,
}

impl Services {
    /// Reads what the maps hold, and removes what an agent that died half-way left out of reach.
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self> {
        let mut services = Self {
            tables: Tables::take(ebpf)?,
            ranges: Ranges::take(ebpf, name::SOURCE_RANGES)?,
            known: Known::default(),
            writes: Writes::default(),
            released: false,
        };
        services.read()?;
        Ok(services)
    }

    fn read(&mut self) -> Result<()> {
        (self.known, self.writes) = Known::read(&self.tables, &self.ranges)?;
        self.flush()
    }

    /// What steps mean for the maps. Nothing is changed yet.
    pub(super) fn plan(&self, steps: &[Step]) -> Result<Plan> {
        Plan::of(&self.known, steps)
    }

    /// What the tables hold once a plan is carried out, at most.
    pub(super) fn with(&self, plan: &Plan) -> Result<Vec<Usage>> {
        self.ranges.has_room_for(self.writes.ranges.len() + plan.needs.ranges)?;
        let (is, more) = (self.known.counts, plan.needs);
        let sum = Counts {
            frontends: is.frontends + more.frontends,
            sets: is.sets + more.sets,
            backends: is.backends + more.backends,
            members: is.members + more.members,
            maglev: is.maglev + more.maglev,
            ranges: is.ranges + more.ranges,
        };
        Ok(self.tables.usage(sum).to_vec())
    }

    /// Takes a plan in, which is the last that was made. It is in force after [`Services::flush`].
    pub(super) fn accept(&mut self, plan: Plan) {
        self.released |= plan.releases;
        plan.carry_out(&mut self.known, &mut self.writes);
    }

    /// Writes what has been accepted. After an error, what is remembered is what is there.
    pub(super) fn flush(&mut self) -> Result<()> {
        let writes = std::mem::take(&mut self.writes);
        let result = writes.run(&mut self.tables, &mut self.ranges);
        if result.is_err() {
            let numbers = std::mem::take(&mut self.known.numbers);
            self.known = Known::read(&self.tables, &self.ranges)?.0;
            self.known.claim(numbers);
        }
        result
    }

    /// Removes every frontend but these, and every set that none of them leads to and nobody has asked for.
    pub(super) fn retain(&mut self, wanted: &HashSet<compile::Frontend>) -> Result<()> {
        let wanted: HashSet<Frontend> = wanted.iter().map(key_of).collect();
        let unwanted: Vec<Frontend> = self
            .known
            .frontends
            .keys()
            .filter(|key| !wanted.contains(key))
            .copied()
            .collect();
        self.released |= unwanted.iter().any(|key| key.protocol == Protocol::Udp.number());
        for key in unwanted {
            plan::remove_frontend(key, &mut self.known, &mut self.writes);
        }
        let services = self.known.frontends.values().map(|entry| entry.service);
        let used: HashSet<u32> = services.flat_map(|service| [service.inside, service.outside]).collect();
        let unused = self
            .known
            .sets
            .iter()
            .filter(|(number, held)| !held.claimed && !used.contains(number));
        let unused: Vec<u32> = unused.map(|(number, _)| *number).collect();
        for number in unused {
            plan::forget(number, &mut self.known, &mut self.writes);
        }
        self.flush()
    }

    /// The frontends that the kernel has, with what those inside are led to.
    pub(super) fn all(&self) -> BTreeMap<compile::Frontend, Vec<compile::Backend>> {
        let slots = |number| {
            self.known
                .sets
                .get(&number)
                .map(|held| &held.slots)
                .into_iter()
                .flatten()
        };
        self.known
            .frontends
            .iter()
            .filter_map(|(key, entry)| Some((frontend_of(key)?, slots(entry.service.inside).map(backend_of).collect())))
            .collect()
    }

    /// How full the maps are.
    pub(super) fn usage(&self) -> Vec<Usage> {
        let tables = self.tables.usage(self.known.counts);
        tables.into_iter().chain([self.ranges.usage()]).collect()
    }

    /// How many entries were written or removed since the agent was started.
    pub(super) fn writes(&self) -> u64 {
        self.tables.writes() + self.ranges.writes()
    }

    /// The tables of another object, some of them larger, filled with what ours hold.
    pub(super) fn larger(&self, ebpf: &mut Ebpf) -> Result<Tables> {
        let mut tables = Tables::take(ebpf)?;
        tables.follow(&self.tables)?;
        Ok(tables)
    }

    /// Goes on with tables that hold the same.
    pub(super) fn move_to(&mut self, tables: Tables) {
        self.tables = tables;
    }

    /// Whether UDP backends have gone since this was asked last.
    pub(super) fn take_released(&mut self) -> bool {
        std::mem::take(&mut self.released)
    }

    /// Whether a UDP socket that was told `backend` for `service` is led nowhere any more.
    pub(super) fn is_stale(&self, peer: &PeerKey, service: &SockAddr) -> Result<bool> {
        let at = |protocol: Protocol| {
            let exact = Frontend::new(service.addr, service.port, protocol.number());
            let any = Frontend::new(service.addr.unspecified(), service.port, protocol.number());
            self.known
                .frontends
                .get(&exact)
                .or_else(|| self.known.frontends.get(&any))
        };
        let Some(entry) = at(Protocol::Udp) else {
            // Perhaps a socket of TCP, which keeps what it has.
            return Ok(at(Protocol::Tcp).is_none());
        };
        let member = MemberKey::new(entry.service.inside, &SockAddr::new(peer.addr, peer.port));
        Ok(self.tables.members.get(member)?.is_none())
    }
}

fn key_of(frontend: &compile::Frontend) -> Frontend {
    Frontend::new(
        Addr::from(frontend.ip),
        Port::from_host(frontend.port),
        frontend.protocol.number(),
    )
}

fn frontend_of(key: &Frontend) -> Option<compile::Frontend> {
    let protocol = match key.protocol {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        _ => return None,
    };
    Some(compile::Frontend {
        ip: IpAddr::from(key.addr),
        port: key.port.host(),
        protocol,
    })
}

fn backend_of(slot: &SockAddr) -> compile::Backend {
    compile::Backend {
        ip: IpAddr::from(slot.addr),
        port: slot.port.host(),
    }
}
