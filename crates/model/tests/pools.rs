//! Many agents and a controller over an API that is slow, loses answers and delivers late, while everything crashes
//! and pools are edited and deleted: no address is ever with two pods, none in use is taken away, none is lost, and
//! demand is met where there is room.
#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use weft_model::Node;
use weft_model::ipam::spec::BlockSize;
use weft_model::ipam::{Grant, IpPool, Ledger, NodeAddresses, NodeAddressesStatus, NodePools, Pool, PoolSpec};

const POOLS: [&str; 2] = ["a", "b"];

/// How large a world is.
#[derive(Clone, Copy, Debug)]
struct Scale {
    nodes: usize,
    /// The network of each pool, and a part of it.
    networks: [&'static str; 2],
    parts: [&'static str; 2],
    /// After so many steps everything is checked.
    checked: usize,
}

const SMALL: Scale = Scale {
    nodes: 3,
    networks: ["10.1.0.0/28", "10.2.0.0/29"],
    parts: ["10.1.0.0/29", "10.2.0.4/30"],
    checked: 1,
};

/// A few blocks more than nodes.
const LARGE: Scale = Scale {
    nodes: 1_000,
    networks: ["10.1.0.0/20", "10.2.0.0/22"],
    parts: ["10.1.0.0/21", "10.2.0.0/23"],
    checked: 100,
};

/// An API server: objects with versions, and writes with preconditions.
#[derive(Default)]
struct Api {
    clock: u64,
    nodes: BTreeMap<String, NodeAddresses>,
    pools: BTreeMap<String, IpPool>,
}

impl Api {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The object after the write; `None` if it was no longer at that version.
    fn write(&mut self, at: &NodeAddresses, change: impl FnOnce(&mut NodeAddresses)) -> Option<NodeAddresses> {
        let version = self.tick();
        let object = self
            .nodes
            .get_mut(&at.node)
            .filter(|object| object.version == at.version)?;
        change(object);
        object.version = version;
        Some(object.clone())
    }

    fn edit_pool(&mut self, name: &str, change: impl FnOnce(&mut IpPool)) {
        let version = self.tick();
        if let Some(pool) = self.pools.get_mut(name) {
            let before = pool.spec.clone();
            change(pool);
            pool.version = version;
            pool.generation += i64::from(pool.spec != before);
        }
    }
}

/// An agent: what it has in memory, and what survives it.
struct Agent {
    name: String,
    session: u64,
    pools: NodePools,
    seen: NodeAddresses,
    /// Attachments, as on the disk.
    pods: BTreeMap<String, Vec<IpAddr>>,
    /// Status writes that have been sent, of this run and of those before.
    sent: VecDeque<(NodeAddresses, NodeAddressesStatus)>,
}

impl Agent {
    fn start(&mut self, api: &mut Api) {
        self.session += 1;
        let found = api.nodes[&self.name].clone();
        let session = self.session.to_string();
        let opened = api.write(&found, |object| object.status.session = session).unwrap();
        self.pools = NodePools::new();
        for (owner, ips) in &self.pods {
            ips.iter().for_each(|ip| self.pools.reserve(*ip, owner).unwrap());
        }
        self.pools.resume(&opened.status);
        self.hear_pools(api);
        self.seen = opened;
        self.pools.set_allocated(&self.seen.spec);
    }

    fn hear_pools(&mut self, api: &Api) {
        for name in POOLS {
            let pool = api
                .pools
                .get(name)
                .and_then(|pool| Some((Pool::new(name, pool.status.in_force.as_ref()?).ok()?, pool)));
            match pool {
                Some((words, pool)) => self
                    .pools
                    .set_pool(words, pool.deleting.then(|| "deleted".into()), true),
                None => self.pools.remove_pool(name),
            }
        }
    }

    fn hear(&mut self, object: &NodeAddresses) {
        if object.version > self.seen.version {
            self.seen = object.clone();
            self.pools.set_allocated(&object.spec);
        }
    }

    fn send(&mut self) {
        self.pools.release_excess();
        let status = NodeAddressesStatus {
            session: self.session.to_string(),
            ..self.pools.status()
        };
        if status != self.seen.status {
            self.sent.push_back((self.seen.clone(), status));
        }
    }

    fn deliver(&mut self, api: &mut Api) {
        let Some((at, status)) = self.sent.pop_front() else {
            return;
        };
        let current = status.session == self.session.to_string();
        let written = api.write(&at, |object| object.status = status);
        if current {
            let object = written.unwrap_or_else(|| api.nodes[&self.name].clone());
            self.hear(&object);
        }
    }

    fn add(&mut self, owner: String, pool: &str, fixed: Option<IpAddr>) {
        if self.pods.contains_key(&owner) {
            return;
        }
        let given = match fixed {
            Some(ip) => self.pools.allocate_fixed(&owner, &[ip]).map(|()| vec![ip]),
            None => self.pools.allocate(&owner, pool),
        };
        if let Ok(ips) = given {
            self.pods.insert(owner, ips);
        }
    }

    fn delete(&mut self, owner: &str) {
        self.pods.remove(owner);
        self.pools.free(owner);
    }
}

/// What the controller has on its way.
struct Write {
    grant: Grant,
}

struct World {
    scale: Scale,
    api: Api,
    agents: Vec<Agent>,
    ledger: Ledger,
    /// Objects that the controller's watches have not delivered yet.
    news: VecDeque<News>,
    writes: Vec<Write>,
}

enum News {
    Node(NodeAddresses),
    Pool(Box<IpPool>),
    PoolGone(String),
}

fn spec(cidrs: &[&str], prefix: u8, keep: (u32, u32, u32)) -> PoolSpec {
    PoolSpec {
        cidrs: cidrs.iter().map(|cidr| (*cidr).into()).collect(),
        block_size: BlockSize {
            ipv4: prefix,
            ipv6: 124,
        },
        pre_allocate: keep.0,
        min_allocate: keep.1,
        max_above_watermark: keep.2,
        ..PoolSpec::default()
    }
}

fn node(number: usize) -> String {
    format!("n{number}")
}

impl World {
    fn new(scale: Scale) -> Self {
        let mut api = Api::default();
        for number in 0..scale.nodes {
            let version = api.tick();
            api.nodes.insert(
                node(number),
                NodeAddresses {
                    node: node(number),
                    version,
                    ..NodeAddresses::default()
                },
            );
        }
        let mut world = Self {
            scale,
            api,
            agents: vec![],
            ledger: Ledger::default(),
            news: VecDeque::new(),
            writes: vec![],
        };
        let [a, b] = scale.networks;
        world.create_pool("a", spec(&[a], 30, (1, 0, 1)));
        world.create_pool("b", spec(&[b], 32, (0, 1, 0)));
        for number in 0..scale.nodes {
            let (pools, seen) = (NodePools::new(), NodeAddresses::default());
            let mut agent = Agent {
                name: node(number),
                session: 0,
                pools,
                seen,
                pods: BTreeMap::new(),
                sent: VecDeque::new(),
            };
            agent.start(&mut world.api);
            world.agents.push(agent);
        }
        world.start_controller();
        world
    }

    fn create_pool(&mut self, name: &str, spec: PoolSpec) {
        if self.api.pools.contains_key(name) {
            return;
        }
        let version = self.api.tick();
        let pool = IpPool {
            name: name.into(),
            version,
            generation: 1,
            created: format!("{version:05}"),
            spec,
            ..IpPool::default()
        };
        self.api.pools.insert(name.into(), pool);
        self.tell_pool(name);
    }

    fn tell_pool(&mut self, name: &str) {
        match self.api.pools.get(name) {
            Some(pool) => self.news.push_back(News::Pool(Box::new(pool.clone()))),
            None => self.news.push_back(News::PoolGone(name.into())),
        }
    }

    fn tell_node(&mut self, number: usize) {
        self.news.push_back(News::Node(self.api.nodes[&node(number)].clone()));
    }

    /// A new leader: nothing of the earlier one is under way any more, which is what the Lease is for.
    fn start_controller(&mut self) {
        self.writes.clear();
        self.news.clear();
        self.ledger = Ledger::default();
        for number in 0..self.scale.nodes {
            self.ledger.node(&Node {
                name: node(number),
                ..Node::default()
            });
        }
        self.api.pools.values().for_each(|pool| self.ledger.pool(pool.clone()));
        self.api
            .nodes
            .values()
            .for_each(|object| self.ledger.observe(object.clone()));
    }

    fn hear_one(&mut self) {
        match self.news.pop_front() {
            Some(News::Node(object)) => self.ledger.observe(object),
            Some(News::Pool(pool)) => self.ledger.pool(*pool),
            Some(News::PoolGone(name)) => self.ledger.pool_gone(&name),
            None => {}
        }
    }

    /// Decides, and sends what follows; pools' writes arrive at once, nodes' wait for their turn.
    fn decide(&mut self) {
        for name in self.ledger.take_dirty_pools() {
            self.ledger.judge(&name);
            let Some((at, status, finalizer)) = self.ledger.pool_status(&name) else {
                continue;
            };
            let stale = self.api.pools.get(&name).is_none_or(|pool| pool.version != at.version);
            if stale || status == at.status && finalizer.is_none() {
                continue;
            }
            self.api.edit_pool(&name, |pool| {
                pool.status = status;
                pool.held = finalizer.unwrap_or(pool.held);
            });
            if self.api.pools[&name].deleting && !self.api.pools[&name].held {
                self.api.pools.remove(&name);
            }
            self.tell_pool(&name);
        }
        for name in self.ledger.take_dirty_nodes() {
            if self.writes.iter().any(|write| write.grant.at.node == name) {
                continue;
            }
            if let Some(grant) = self.ledger.decide(&name) {
                self.writes.push(Write { grant });
            }
        }
    }

    /// A write of the controller arrives, or not, and so does the answer.
    fn deliver(&mut self, pick: usize, arrives: bool, answered: bool) {
        if self.writes.is_empty() {
            return;
        }
        let Write { grant } = self.writes.remove(pick % self.writes.len());
        let name = grant.at.node.clone();
        self.ledger.reconsider(&name);
        let written = arrives.then(|| self.api.write(&grant.at, |object| object.spec = grant.spec.clone()));
        self.tell_node(name[1..].parse().unwrap());
        match (written, answered) {
            (Some(Some(object)), true) => self.ledger.observe(object),
            (Some(None), true) => self.ledger.observe(self.api.nodes[&name].clone()),
            // Nobody knows: the same is sent again.
            _ => self
                .writes
                .extend(self.ledger.decide(&name).map(|grant| Write { grant })),
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let mut seen = BTreeSet::new();
        let mut blocks: BTreeMap<IpAddr, (IpNet, &String)> = BTreeMap::new();
        for agent in &self.agents {
            let own = &self.api.nodes[&agent.name];
            for (owner, ips) in &agent.pods {
                for ip in ips {
                    prop_assert!(seen.insert(*ip), "{} is with two pods", ip);
                    prop_assert!(
                        own.blocks().any(|cidr| cidr.contains(ip)),
                        "{} of {}/{} was taken away",
                        ip,
                        agent.name,
                        owner
                    );
                }
            }
            for cidr in own.blocks() {
                // None that are known overlap, so that one which does is the last to begin before this one ends.
                let before = blocks.range(..=cidr.broadcast()).next_back().map(|(_, other)| other);
                let other = before.filter(|(other, _)| other.broadcast() >= cidr.network());
                prop_assert!(other.is_none(), "{} is with {} and {:?}", cidr, agent.name, other);
                blocks.insert(cidr.network(), (cidr, &agent.name));
            }
        }
        Ok(())
    }

    /// Everything arrives, until nothing more happens.
    fn quiesce(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..200 {
            let before = self.api.clock;
            for number in 0..self.scale.nodes {
                let object = self.api.nodes[&node(number)].clone();
                let agent = &mut self.agents[number];
                agent.hear_pools(&self.api);
                agent.hear(&object);
                agent.send();
                while !agent.sent.is_empty() {
                    agent.deliver(&mut self.api);
                }
                self.tell_node(number);
            }
            while !self.news.is_empty() {
                self.hear_one();
            }
            self.decide();
            for count in 1.. {
                if self.writes.is_empty() {
                    break;
                }
                self.deliver(0, true, true);
                if count % self.scale.checked == 0 {
                    self.check()?;
                }
            }
            self.check()?;
            // What is written once more at every round is written in vain.
            if self.api.clock == before && self.news.is_empty() {
                return Ok(());
            }
        }
        prop_assert!(false, "it never comes to rest");
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Op {
    Add(usize, u8, usize),
    Fixed(usize, u8, u8),
    Delete(usize, u8),
    Send(usize),
    Deliver(usize),
    Hear(usize),
    CrashAgent(usize),
    /// An agent does all it has to do, and all of it arrives.
    Agent(usize),
    /// So does the controller; what it writes to nodes is on its way.
    Controller,
    /// What is on its way arrives.
    Arrive,
    Tell(usize),
    HearOne,
    Decide,
    Write(usize, bool, bool),
    CrashController,
    Edit(usize, u8),
    DeletePool(usize),
    CreatePool(usize, u8),
}

fn op(nodes: usize) -> impl Strategy<Value = Op> {
    let n = 0..nodes;
    prop_oneof![
        8 => (n.clone(), 0u8..12, 0usize..2).prop_map(|(n, pod, pool)| Op::Add(n, pod, pool)),
        2 => (n.clone(), 0u8..12, 0u8..16).prop_map(|(n, pod, ip)| Op::Fixed(n, pod, ip)),
        6 => (n.clone(), 0u8..12).prop_map(|(n, pod)| Op::Delete(n, pod)),
        6 => n.clone().prop_map(Op::Send),
        6 => n.clone().prop_map(Op::Deliver),
        6 => n.clone().prop_map(Op::Hear),
        4 => n.clone().prop_map(Op::CrashAgent),
        8 => n.clone().prop_map(Op::Agent),
        8 => Just(Op::Controller),
        6 => Just(Op::Arrive),
        6 => n.prop_map(Op::Tell),
        8 => Just(Op::HearOne),
        8 => Just(Op::Decide),
        8 => (0usize..4, any::<bool>(), any::<bool>()).prop_map(|(n, arrives, answered)| Op::Write(n, arrives, answered)),
        2 => Just(Op::CrashController),
        2 => (0usize..2, 0u8..6).prop_map(|(pool, how)| Op::Edit(pool, how)),
        1 => (0usize..2).prop_map(Op::DeletePool),
        1 => (0usize..2, 0u8..6).prop_map(|(pool, how)| Op::CreatePool(pool, how)),
    ]
}

/// Edits that are fine, overlap the other pool, leave out addresses, change the block, or are nonsense.
fn edited(scale: Scale, pool: usize, how: u8) -> PoolSpec {
    let own = scale.networks[pool];
    let prefix = [30, 32][pool];
    match how {
        0 => spec(&[own], prefix, (1, 0, 1)),
        1 => spec(&[own, ["10.3.0.0/29", "10.4.0.0/29"][pool]], prefix, (2, 1, 0)),
        2 => spec(&[scale.parts[pool]], prefix, (0, 0, 0)),
        3 => spec(&[own, ["10.2.0.0/30", "10.1.0.0/30"][pool]], prefix, (1, 1, 1)),
        4 => spec(&[own], prefix - 1, (0, 2, 0)),
        _ => spec(&["10.1.0.1/28"], prefix, (0, 0, 0)),
    }
}

fn run(scale: Scale, ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut world = World::new(scale);
    world.quiesce()?;
    for (step, op) in ops.into_iter().enumerate() {
        match op {
            Op::Add(n, pod, pool) => world.agents[n].add(format!("p{pod}"), POOLS[pool], None),
            Op::Fixed(n, pod, ip) => world.agents[n].add(format!("p{pod}"), "", Some(IpAddr::from([10, 1, 0, ip]))),
            Op::Delete(n, pod) => world.agents[n].delete(&format!("p{pod}")),
            Op::Send(n) => world.agents[n].send(),
            Op::Deliver(n) => world.agents[n].deliver(&mut world.api),
            Op::Hear(n) => {
                let object = world.api.nodes[&node(n)].clone();
                world.agents[n].hear_pools(&world.api);
                world.agents[n].hear(&object);
            }
            Op::CrashAgent(n) => world.agents[n].start(&mut world.api),
            Op::Agent(n) => {
                let object = world.api.nodes[&node(n)].clone();
                world.agents[n].hear_pools(&world.api);
                world.agents[n].hear(&object);
                world.agents[n].send();
                (0..world.agents[n].sent.len()).for_each(|_| world.agents[n].deliver(&mut world.api));
            }
            Op::Controller => {
                (0..scale.nodes).for_each(|n| world.tell_node(n));
                while !world.news.is_empty() {
                    world.hear_one();
                }
                world.decide();
            }
            Op::Arrive => (0..world.writes.len()).for_each(|_| world.deliver(0, true, true)),
            Op::Tell(n) => world.tell_node(n),
            Op::HearOne => world.hear_one(),
            Op::Decide => world.decide(),
            Op::Write(n, arrives, answered) => world.deliver(n, arrives, answered),
            Op::CrashController => world.start_controller(),
            Op::Edit(pool, how) => {
                world.api.edit_pool(POOLS[pool], |pool_object| {
                    if !pool_object.deleting {
                        pool_object.spec = edited(scale, pool, how);
                    }
                });
                world.tell_pool(POOLS[pool]);
            }
            Op::DeletePool(pool) => {
                world.api.edit_pool(POOLS[pool], |pool| pool.deleting = true);
                if world.api.pools.get(POOLS[pool]).is_some_and(|pool| !pool.held) {
                    world.api.pools.remove(POOLS[pool]);
                }
                world.tell_pool(POOLS[pool]);
            }
            Op::CreatePool(pool, how) => world.create_pool(POOLS[pool], edited(scale, pool, how)),
        }
        if step % scale.checked == 0 {
            world.check()?;
        }
    }
    world.quiesce()?;
    met(&world)?;
    // Without pods and pools nothing of them is with anybody.
    for agent in &mut world.agents {
        (0..12).for_each(|pod| agent.delete(&format!("p{pod}")));
    }
    for name in POOLS {
        world.api.edit_pool(name, |pool| pool.deleting = true);
        if world.api.pools.get(name).is_some_and(|pool| !pool.held) {
            world.api.pools.remove(name);
        }
        world.tell_pool(name);
    }
    world.quiesce()?;
    prop_assert!(world.api.pools.is_empty(), "a pool is left: {:?}", world.api.pools);
    let left: Vec<_> = world.api.nodes.values().flat_map(NodeAddresses::blocks).collect();
    prop_assert!(left.is_empty(), "lost: {:?}", left);
    Ok(())
}

/// Every node has what it asked for, or is told why not.
fn met(world: &World) -> Result<(), TestCaseError> {
    let taken: BTreeSet<IpNet> = world.api.nodes.values().flat_map(NodeAddresses::blocks).collect();
    for object in world.api.nodes.values() {
        for request in &object.status.requested {
            let of = object
                .spec
                .allocated
                .iter()
                .filter(|of| of.pool == request.pool)
                .flat_map(|of| &of.cidrs);
            let have: u64 = of.map(|cidr| 1u64 << (32 - cidr.prefix_len())).sum();
            let Some(refusal) = object.spec.refused.iter().find(|refusal| refusal.pool == request.pool) else {
                prop_assert!(have >= request.ipv4, "{} has {} of {:?}", object.node, have, request);
                continue;
            };
            let Some(pool) = world.ledger.in_force(&request.pool) else {
                continue;
            };
            if refusal.message.contains("is full") {
                for cidr in &pool.cidrs {
                    for block in cidr.addr_blocks(pool.block_prefix(true)) {
                        prop_assert!(
                            taken.contains(&block),
                            "{} is free, yet {} hears: {}",
                            block,
                            object.node,
                            refusal.message
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

/// The blocks of a network.
trait Blocks {
    fn addr_blocks(&self, prefix: u8) -> Vec<IpNet>;
}

impl Blocks for IpNet {
    fn addr_blocks(&self, prefix: u8) -> Vec<IpNet> {
        self.subnets(prefix).map(Iterator::collect).unwrap_or_default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_gives_an_address_twice_or_loses_one(ops in prop::collection::vec(op(SMALL.nodes), 0..160)) {
        run(SMALL, ops)?;
    }
}

proptest! {
    // What fails here fails in the small world, too, and is made smaller there.
    #![proptest_config(ProptestConfig {
        cases: 1, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn nor_does_any_of_a_thousand_nodes(ops in prop::collection::vec(op(LARGE.nodes), 2_000)) {
        run(LARGE, ops)?;
    }
}

/// Agent `n0` has a block that nobody uses and is giving it back, but its write is still on its way.
fn giving_back() -> World {
    let mut world = World::new(SMALL);
    world.quiesce().unwrap();
    for pod in 0..4 {
        world.agents[0].add(format!("p{pod}"), "a", None);
    }
    world.quiesce().unwrap();
    assert_eq!(
        world.api.nodes["n0"]
            .blocks()
            .filter(|cidr| cidr.prefix_len() == 30)
            .count(),
        2
    );
    for pod in 0..4 {
        world.agents[0].delete(&format!("p{pod}"));
    }
    world.agents[0].send();
    assert_eq!(world.agents[0].sent.back().unwrap().1.releasing.len(), 1);
    world
}

/// Uses up every address that the agent may give.
fn use_up(world: &mut World) {
    (0..12).for_each(|pod| world.agents[0].add(format!("q{pod}"), "a", None));
    assert!(world.agents[0].pods.len() >= 4);
}

/// The controller acts on what the API has, before the agent says anything more.
fn controller_first(world: &mut World) {
    world.tell_node(0);
    while !world.news.is_empty() {
        world.hear_one();
    }
    world.decide();
    (0..world.writes.len()).for_each(|_| world.deliver(0, true, true));
    world.check().unwrap();
}

#[test]
fn what_an_earlier_run_of_an_agent_still_has_under_way_does_not_land() {
    let mut world = giving_back();
    world.agents[0].start(&mut world.api);
    use_up(&mut world);
    world.agents[0].deliver(&mut world.api);
    controller_first(&mut world);
    world.quiesce().unwrap();
}

#[test]
fn what_an_earlier_run_gave_back_is_not_given() {
    let mut world = giving_back();
    world.agents[0].deliver(&mut world.api);
    world.agents[0].start(&mut world.api);
    use_up(&mut world);
    controller_first(&mut world);
    world.quiesce().unwrap();
}
