//! Which endpoints of a service port a connection may go to: conditions, families, topology and traffic policy.

use std::collections::{BTreeMap, HashMap};

use super::{Backend, Choice, Problem, trust};
use crate::state::{Condition, Hint, Member, Slice};
use crate::{EndpointPort, ObjectKey, Protocol, ServicePort, State};

/// The slices of one Service by the ports that they serve, so that each port finds its own at once.
pub(super) struct Endpoints<'a> {
    state: &'a State,
    /// Slices with the target port in each.
    by_port: HashMap<(&'a str, Protocol), Vec<(&'a Slice, u16)>>,
}

impl<'a> Endpoints<'a> {
    pub(super) fn of(state: &'a State, service: &ObjectKey) -> Self {
        let mut by_port: HashMap<_, Vec<(&Slice, u16)>> = HashMap::new();
        for slice in state.slices_of(service) {
            // A port without a number is that of a headless Service; of two with one name the first counts.
            for EndpointPort { name, protocol, port } in &slice.ports {
                let slices = by_port.entry((name.as_str(), *protocol)).or_default();
                if let Some(port) = port
                    && !slices.last().is_some_and(|(last, _)| std::ptr::eq(*last, slice))
                {
                    slices.push((slice, *port));
                }
            }
        }
        Self { state, by_port }
    }

    /// What must not be trusted, one line for each slice.
    pub(super) fn problems(&self, service: &ObjectKey) -> impl Iterator<Item = Problem> {
        self.state.slices_of(service).iter().filter_map(|slice| {
            let bad = |member: &Member| Some((member.ip, trust::endpoint(self.state, member.ip)?));
            let mut found = slice.members.iter().filter_map(bad);
            let (ip, why) = found.next()?;
            Some(Problem::Endpoint {
                slice: slice.name.to_string(),
                ip,
                why,
                more: found.count(),
            })
        })
    }

    /// Every usable endpoint of the family that serves this port. An endpoint that is in two slices, as happens while
    /// one replaces the other, counts once and in its better condition.
    pub(super) fn candidates(&self, port: &ServicePort, ipv6: bool) -> Candidates<'a> {
        let mut found: BTreeMap<Backend, &'a Member> = BTreeMap::new();
        let slices = self.by_port.get(&(port.name.as_str(), port.protocol));
        for (slice, target) in slices.into_iter().flatten() {
            let members = slice.members.iter().filter(|member| member.ip.is_ipv6() == ipv6);
            for member in members.filter(|member| trust::endpoint(self.state, member.ip).is_none()) {
                let backend = Backend {
                    ip: member.ip,
                    port: *target,
                };
                if found
                    .get(&backend)
                    .is_none_or(|known| known.condition < member.condition)
                {
                    found.insert(backend, member);
                }
            }
        }
        Candidates(found)
    }
}

/// The usable endpoints of one port and family, before any policy.
pub(super) struct Candidates<'a>(BTreeMap<Backend, &'a Member>);

impl Candidates<'_> {
    /// True where the port has no endpoint anywhere.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that traffic under this policy may go to, in order.
    pub(super) fn choose(&self, state: &State, choice: Choice) -> Vec<Backend> {
        let near: Box<dyn Fn(&Member) -> bool> = match choice {
            Choice::Local => Box::new(|member| member.local),
            Choice::Cluster => self.hinted(state),
        };
        let best = self.0.values().filter(|m| near(m)).map(|m| m.condition).max();
        let chosen = self.0.iter().filter(|(_, m)| near(m) && Some(m.condition) == best);
        chosen.map(|(backend, _)| *backend).collect()
    }

    /// Who the hints leave. They hold only when every ready endpoint carries them and one names this node (or its
    /// zone); nodes come before zones (KEP-3015). They never leave nobody.
    fn hinted<'s>(&self, state: &'s State) -> Box<dyn Fn(&Member) -> bool + 's> {
        let zone = state.local().and_then(|node| node.zone.as_deref());
        let here = |member: &Member| member.nodes == Hint::Here;
        let in_zone = move |member: &Member| {
            let mut zones = member.zones.iter().flat_map(|zones| zones.iter());
            zones.any(|name| Some(&**name) == zone)
        };
        let ready = || self.0.values().filter(|member| member.condition == Condition::Ready);
        if ready().all(|m| m.nodes != Hint::None) && ready().any(|m| here(m)) {
            Box::new(here)
        } else if ready().all(|m| m.zones.is_some()) && ready().any(|m| in_zone(m)) {
            Box::new(in_zone)
        } else {
            Box::new(|_| true)
        }
    }
}
