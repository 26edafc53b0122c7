//! The rules, which never change, and the chains that pick a backend, of which there is one for each number of backends.

use std::ffi::CStr;
use std::io;

use netlink_bindings::nftables::{MetaKeys, SetFlags};

use super::counters::{INVALID, NO_ENDPOINT, NO_PORT, NOT_ALLOWED, Reason, SILENT, UNALLOCATED};
use super::names::{FAMILIES, Family, MASQUERADE, Pick, SIZES, TABLE, View, family};
use crate::net::name;
use crate::net::nft::{self, Batch, Expr, Field, Fields, Place, REGISTER, Set, To};

/// Registers of four bytes: the first four are [`REGISTER`].
const WORD: u32 = 8;
/// How many clients keep a backend by affinity, at most; the others get any.
const CLIENTS: u32 = 1 << 18;
/// linux/in.h: IPPROTO_TCP.
const TCP: u8 = 6;
/// linux/netfilter/nf_tables.h: NFT_SET_MAP with NFT_SET_TIMEOUT and NFT_SET_EVAL, that rules may add to.
const REMEMBERS: u32 = SetFlags::Map as u32 | SetFlags::Timeout as u32 | SetFlags::Eval as u32;

const PRE_ROUTING: &CStr = c"prerouting";
const HAIRPIN: &CStr = c"hairpin";
const OUTPUT: &CStr = c"output";
const FORWARD: &CStr = c"forward";
const POST_ROUTING: &CStr = c"postrouting";
/// Where what nobody serves is refused.
const REFUSALS: [(&CStr, &Reason); 2] = [(c"no-endpoint", &NO_ENDPOINT), (c"no-port", &NO_PORT)];

/// Where a packet's parts are while it is looked up. The registers are laid out so that what is one key lies in a row:
/// client, set, and behind that in turn the frontend, the slot, and the backend.
struct Registers<'a> {
    family: &'a Family,
}

impl Registers<'_> {
    /// (client, set) begins here.
    const CLIENT: u32 = WORD;

    /// (set, slot) and (set, address, port) begin here.
    fn set(&self) -> u32 {
        WORD + self.family.words
    }

    /// The frontend, the slot, or the backend's address.
    fn key(&self) -> u32 {
        self.set() + 1
    }

    /// The port of the backend.
    fn port(&self) -> u32 {
        self.key() + self.family.words
    }

    fn bytes(&self) -> u32 {
        self.family.words * 4
    }

    /// Loads the client's address in front of the set.
    fn client(&self) -> Expr<'static> {
        Expr::Network(self.family.source, self.bytes(), Self::CLIENT)
    }

    /// Loads the frontend that a packet is for: the address and port it goes to.
    fn address(&self) -> Vec<Expr<'static>> {
        vec![
            Expr::Network(self.family.destination, self.bytes(), self.key()),
            Expr::Protocol(self.port()),
            Expr::Port(self.port() + 1),
        ]
    }

    /// Goes on with packets to addresses of this node, and loads the node port that they are for. Not with those to
    /// the loopback: the kernel lets no answer from elsewhere come back to it, unless every neighbour may then send to
    /// it (CVE-2020-8558).
    fn node_port(&self) -> Vec<Expr<'static>> {
        let destination = self.family.destination;
        let mut steps = vec![Expr::ToLocal];
        steps.extend(match self.family.v4 {
            true => [Expr::Network(destination, 1, REGISTER), Expr::Different(&[127])],
            false => [
                Expr::Network(destination, self.bytes(), REGISTER),
                Expr::Different(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            ],
        });
        steps.push(Expr::Load(&[0; 16][..self.bytes() as usize], self.key()));
        steps.extend([Expr::Protocol(self.port()), Expr::Port(self.port() + 1)]);
        steps
    }

    /// Both ways to a frontend, the exact one first.
    fn frontends(&self) -> [Vec<Expr<'static>>; 2] {
        [self.address(), self.node_port()]
    }
}

/// All sets and maps, of every family.
pub(super) fn sets() -> Vec<Set<'static>> {
    const NUMBER: Fields<'_> = Fields(&[Field::Class]);
    let mut sets: Vec<Set<'static>> = vec![map(SIZES, NUMBER, To::Verdict)];
    for family in FAMILIES {
        let fields = Parts::of(family);
        for view in &family.views {
            sets.push(map(view.frontends, fields.frontend, To::Data(NUMBER)));
            let marked = view.masquerade.into_iter().chain([view.silent]);
            sets.extend(marked.map(|name| set(name, fields.frontend, 0)));
        }
        let ranges = SetFlags::Interval as u32;
        sets.extend([
            map(
                family.backends,
                Fields(&[Field::Class, Field::Number]),
                To::Data(fields.backend),
            ),
            set(family.members, fields.member, 0),
            Set {
                flags: REMEMBERS,
                size: Some(CLIENTS),
                ..map(family.affinity, fields.client, To::Data(fields.backend))
            },
            set(family.restricted, fields.frontend, 0),
            set(family.allowed, fields.allowed, ranges | SetFlags::Concat as u32),
            set(family.live, fields.address, 0),
            set(family.ranges, fields.address, ranges),
            set(family.pods, fields.address, ranges),
        ]);
    }
    sets
}

/// What keys and values consist of.
struct Parts {
    address: Fields<'static>,
    frontend: Fields<'static>,
    backend: Fields<'static>,
    member: Fields<'static>,
    client: Fields<'static>,
    allowed: Fields<'static>,
}

impl Parts {
    fn of(family: &Family) -> Self {
        use Field::{Class, Ipv4, Ipv6, Port, Protocol};
        match family.v4 {
            true => Self {
                address: Fields(&[Ipv4]),
                frontend: Fields(&[Ipv4, Protocol, Port]),
                backend: Fields(&[Ipv4, Port]),
                member: Fields(&[Class, Ipv4, Port]),
                client: Fields(&[Ipv4, Class]),
                allowed: Fields(&[Ipv4, Protocol, Port, Ipv4]),
            },
            false => Self {
                address: Fields(&[Ipv6]),
                frontend: Fields(&[Ipv6, Protocol, Port]),
                backend: Fields(&[Ipv6, Port]),
                member: Fields(&[Class, Ipv6, Port]),
                client: Fields(&[Ipv6, Class]),
                allowed: Fields(&[Ipv6, Protocol, Port, Ipv6]),
            },
        }
    }
}

fn set(name: &'static CStr, key: Fields<'static>, flags: u32) -> Set<'static> {
    Set {
        name,
        flags,
        key,
        value: None,
        size: None,
    }
}

fn map(name: &'static CStr, key: Fields<'static>, to: To<'static>) -> Set<'static> {
    Set {
        value: Some(to),
        ..set(name, key, SetFlags::Map as u32)
    }
}

/// Names of all chains that are always there.
pub(super) fn constant_chains() -> Vec<&'static CStr> {
    let mut chains = vec![PRE_ROUTING, HAIRPIN, OUTPUT, FORWARD, POST_ROUTING];
    chains.extend(REFUSALS.map(|(chain, _)| chain));
    for family in FAMILIES {
        let [inside, outside] = &family.views;
        chains.extend([inside, outside, &family.of_remote_pods].map(|view| view.chain));
    }
    chains
}

/// What the kernel says about the constant chains' rules: the same bytes as long as nobody changes them.
pub(super) fn listed() -> io::Result<Vec<u8>> {
    let listed = constant_chains()
        .into_iter()
        .map(|chain| nft::contents(TABLE, chain, &[]));
    Ok(listed
        .collect::<io::Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .flatten()
        .collect())
}

/// Adds the constant chains, where they are not there, and makes their rules anew. Sets and counters have to be there.
pub(super) fn write(batch: &mut Batch) {
    batch.add_nat_chain(TABLE, PRE_ROUTING, Place::PreRouting, nft::DESTINATION_NAT);
    batch.add_filter_chain(TABLE, HAIRPIN, Place::PreRouting, nft::DESTINATION_NAT + 1);
    batch.add_nat_chain(TABLE, OUTPUT, Place::Output, nft::DESTINATION_NAT);
    batch.add_filter_chain(TABLE, FORWARD, Place::Forward, nft::FILTER);
    batch.add_nat_chain(TABLE, POST_ROUTING, Place::PostRouting, nft::SOURCE_NAT);
    let callable = constant_chains().into_iter().skip(5);
    callable.for_each(|chain| batch.add_chain(TABLE, chain));
    constant_chains()
        .into_iter()
        .for_each(|chain| batch.flush_chain(TABLE, chain));

    for family in FAMILIES {
        write_entry(batch, family);
        let views = family.views.iter().chain([&family.of_remote_pods]);
        views.for_each(|view| write_view(batch, family, view));
    }
    for (chain, reason) in REFUSALS {
        batch.add_rule(TABLE, chain, &[Expr::Count(reason.name)]);
        batch.add_rule(
            TABLE,
            chain,
            &[Expr::Protocol(REGISTER), Expr::Equal(&[TCP]), Expr::Reset],
        );
        batch.add_rule(TABLE, chain, &[Expr::Unreachable]);
    }
    // A pod that is led to itself would take its own address for a forged one.
    let hairpin = [
        Expr::State(nft::NEW),
        Expr::Translated,
        Expr::Interface(MetaKeys::Iifname, name::PREFIX),
        Expr::Returning,
        Expr::Mark(MASQUERADE),
    ];
    batch.add_rule(TABLE, HAIRPIN, &hairpin);
    // What conntrack does not take for a part of a connection it does not translate either: the other side would see
    // addresses it never spoke to, and break the connection off.
    let invalid = [Expr::State(nft::INVALID), Expr::Count(INVALID.name), Expr::Drop];
    batch.add_rule(TABLE, FORWARD, &invalid);
    let zero = [Expr::Translated, Expr::Load(&[0; 4], REGISTER), Expr::Note(REGISTER)];
    batch.add_rule(TABLE, POST_ROUTING, &zero);
    batch.add_rule(TABLE, POST_ROUTING, &[Expr::Marked(MASQUERADE), Expr::Masquerade]);
}

/// Who is inside and who is outside.
fn write_entry(batch: &mut Batch, family: &Family) {
    let [inside, outside] = &family.views;
    let own = Expr::Family(family.nfproto);
    let from_pod = [
        own,
        Expr::Interface(MetaKeys::Iifname, name::PREFIX),
        // The tunnel's name begins so.
        Expr::OtherInterface(MetaKeys::Iifname, "weft-"),
        Expr::Goto(inside.chain),
    ];
    let from_pods = [
        own,
        Expr::Network(family.source, family.words * 4, REGISTER),
        Expr::In(family.pods, REGISTER),
        Expr::Goto(family.of_remote_pods.chain),
    ];
    batch.add_rule(TABLE, PRE_ROUTING, &from_pod);
    batch.add_rule(TABLE, PRE_ROUTING, &from_pods);
    batch.add_rule(TABLE, PRE_ROUTING, &[own, Expr::Goto(outside.chain)]);
    batch.add_rule(TABLE, OUTPUT, &[own, Expr::Goto(inside.chain)]);
}

/// From a packet to its frontend, and to the chain that picks a backend; or to its refusal.
fn write_view(batch: &mut Batch, family: &Family, view: &View) {
    let at = Registers { family };
    let (key, set) = (at.key(), at.set());
    let mut add = |first: &[Expr<'_>], then: &[Expr<'_>]| batch.add_rule(TABLE, view.chain, &[first, then].concat());
    let not_allowed = [
        Expr::In(family.restricted, key),
        Expr::Network(family.source, at.bytes(), at.port() + 2),
        Expr::NotIn(family.allowed, key),
        Expr::Count(NOT_ALLOWED.name),
        Expr::Drop,
    ];
    add(&at.address(), &not_allowed);
    for frontend in at.frontends() {
        let to_set = [Expr::Map(view.frontends, key, set), Expr::Note(set)];
        match view.masquerade {
            Some(some) => add(&frontend, &[Expr::In(some, key), Expr::Mark(MASQUERADE)]),
            None => add(&frontend, &[&to_set[..], &[Expr::Mark(MASQUERADE)]].concat()),
        }
        let pick = [Expr::Noted(set), Expr::Verdict(SIZES, set)];
        add(&frontend, &[to_set, pick].concat());
        add(
            &frontend,
            &[Expr::In(view.silent, key), Expr::Count(SILENT.name), Expr::Drop],
        );
        let [(no_endpoint, _), _] = REFUSALS;
        add(&frontend, &[&to_set[..], &[Expr::Goto(no_endpoint)]].concat());
    }
    let destination = [Expr::Network(family.destination, at.bytes(), REGISTER)];
    let [_, (no_port, _)] = REFUSALS;
    add(&destination, &[Expr::In(family.live, REGISTER), Expr::Goto(no_port)]);
    let unallocated = [
        Expr::In(family.ranges, REGISTER),
        Expr::Count(UNALLOCATED.name),
        Expr::Drop,
    ];
    add(&destination, &unallocated);
}

/// Adds the chain that picks so, or makes its rules anew.
///
/// A packet that is under way while a transaction comes into force walks the rules of before, but looks into the maps of
/// after it. So a chain is to be in force before elements lead to it: it would be empty for such a packet. And where the
/// slot that it has drawn has gone meanwhile, it takes the first one, which a set that has any does not lose.
pub(super) fn write_pick(batch: &mut Batch, pick: &Pick) {
    let family = family(pick.v4);
    let at = Registers { family };
    let (key, set) = (at.key(), at.set());
    let chain = pick.chain();
    batch.add_chain(TABLE, &chain);
    batch.flush_chain(TABLE, &chain);
    let mut add = |parts: &[&[Expr<'_>]]| batch.add_rule(TABLE, &chain, &parts.concat());
    let go = Expr::Destination(family.nfproto, key, at.port());
    let random = [
        Expr::Noted(set),
        Expr::Random(pick.backends, key),
        Expr::Map(family.backends, set, key),
    ];
    if let Some(timeout) = pick.affinity {
        let client = [at.client(), Expr::Noted(set)];
        let remember = Expr::Remember(family.affinity, Registers::CLIENT, key, timeout);
        let as_before = [
            Expr::Map(family.affinity, Registers::CLIENT, key),
            Expr::In(family.members, set),
        ];
        add(&[&client, &as_before, &[remember, go]]);
        let forget = Expr::Forget(family.affinity, Registers::CLIENT, key);
        add(&[&random, &client, &[forget, remember, go]]);
    }
    // Without affinity, or where no more clients can be remembered.
    add(&[&random, &[go]]);
    let first = [
        Expr::Noted(set),
        Expr::Load(&[0; 4], key),
        Expr::Map(family.backends, set, key),
    ];
    add(&[&first, &[go]]);
    // Never on without a backend: the connection would stay without one for as long as it is tried. It is tried again.
    add(&[&[Expr::Drop]]);
}

/// Deletes the chain that picks so.
pub(super) fn delete_pick(batch: &mut Batch, pick: &Pick) {
    batch.delete_chain(TABLE, &pick.chain());
}
