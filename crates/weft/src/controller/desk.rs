//! Carries changes into the books, and what the books decide to the API server: one write at a time for each object,
//! many objects at once. What fails is tried again, and holds up nobody else.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::time::DelayQueue;
use tracing::{info, warn};
use weft_cluster::{Client, Kind, ip_pool, node_addresses};
use weft_model::Change;
use weft_model::ipam::{Foreign, Grant, IpPool, Ledger, NodeAddresses};

use super::providers::Providers;

/// How many changes are taken in before anything is written, and how many nodes are decided on at a time.
const BATCH: usize = 256;
/// How many writes may be under way at once.
const AT_ONCE: usize = 32;
/// How often the numbers of a pool's status are written, at most.
const NUMBERS: Duration = Duration::from_secs(5);
/// How long the object of a node that is not known stays: the watch of nodes may be behind.
const ORPHAN: Duration = Duration::from_secs(5);
/// The pause after a failure doubles from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What is written, or has to wait.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// The spec of a NodeAddresses.
    Node(String),
    /// The status or finalizer of an IPPool.
    Pool(String),
    /// The numbers of an IPPool's status.
    Numbers(String),
    /// The object of a node that is not there.
    Orphan(String),
}

/// What came of a write, a read or both.
enum Done {
    Node(Grant, Result<Option<NodeAddresses>, weft_cluster::Error>),
    Pool(String, Result<Option<IpPool>, weft_cluster::Error>),
    Orphan(String, Result<bool, weft_cluster::Error>),
}

/// Works until told to stop; what is under way then is finished.
pub(super) async fn run(client: Client, service_cidrs: Vec<IpNet>, mut stop: watch::Receiver<bool>) {
    let mut changes = weft_cluster::watch(
        &client,
        &[
            Kind::Nodes,
            Kind::Services,
            Kind::ServiceCidrs,
            Kind::Pools,
            Kind::NodeAddresses,
        ],
    );
    let mut desk = Desk::new(client, &service_cidrs);
    let mut batch = Vec::with_capacity(BATCH);
    while !*stop.borrow() {
        tokio::select! {
            count = changes.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return;
                }
                batch.drain(..).for_each(|change| desk.take_in(change));
            }
            Some(done) = desk.under_way.join_next() => match done {
                Ok(done) => desk.done(done),
                Err(error) => warn!("a write was cut short: {error}"),
            },
            Some(due) = desk.later.next() => desk.due(due.into_inner()),
            event = desk.providers.next() => desk.providers.take_in(&mut desk.ledger, event),
            _ = stop.changed() => {}
        }
        while desk.work() {
            tokio::task::yield_now().await;
        }
    }
    while desk.under_way.join_next().await.is_some() {}
}

struct Desk {
    client: Client,
    ledger: Ledger,
    /// Every kind has been listed.
    synced: bool,
    nodes: BTreeSet<String>,
    pools: Vec<String>,
    /// What is being written, or rests after a failure.
    busy: HashSet<Key>,
    under_way: JoinSet<Done>,
    later: DelayQueue<Key>,
    failures: HashMap<Key, u32>,
    /// When a pool's status was written last.
    written: HashMap<String, Instant>,
    providers: Providers,
}

impl Desk {
    fn new(client: Client, service_cidrs: &[IpNet]) -> Self {
        let mut ledger = Ledger::default();
        let given = service_cidrs
            .iter()
            .map(|cidr| (cidr.trunc(), foreign("the network of Services (--service-cidr)")));
        ledger.set_foreign("--service-cidr".into(), given.collect());
        Self {
            client,
            ledger,
            synced: false,
            nodes: BTreeSet::new(),
            pools: vec![],
            busy: HashSet::new(),
            under_way: JoinSet::new(),
            later: DelayQueue::new(),
            failures: HashMap::new(),
            written: HashMap::new(),
            providers: Providers::default(),
        }
    }

    fn take_in(&mut self, change: Change) {
        match change {
            Change::Node(node) => self.ledger.node(&node),
            Change::NodeGone(name) => {
                self.ledger.node_gone(&name);
                self.later.insert(Key::Orphan(name), ORPHAN);
            }
            Change::NodeAddresses(object) => {
                if !self.ledger.has_node(&object.node) {
                    self.later.insert(Key::Orphan(object.node.clone()), ORPHAN);
                }
                self.ledger.observe(object);
            }
            Change::NodeAddressesGone(name) => self.ledger.forget(&name),
            Change::Pool(pool) => self.ledger.pool(*pool),
            Change::PoolGone(name) => self.ledger.pool_gone(&name),
            Change::Service(service) => {
                let of = format!("Service {}", service.key);
                let address = foreign(&format!("the address of Service {}", service.key));
                let addresses = service.cluster_ips.iter().map(|ip| (IpNet::from(*ip), address.clone()));
                self.ledger.set_foreign(of, addresses.collect());
            }
            Change::ServiceGone(key) => self.ledger.set_foreign(format!("Service {key}"), vec![]),
            Change::ServiceCidr(object) => {
                let of = format!("ServiceCIDR {}", object.name);
                let network = foreign(&format!("the network of {of}"));
                let networks = object.cidrs.iter().map(|cidr| (cidr.trunc(), network.clone()));
                self.ledger.set_foreign(of, networks.collect());
            }
            Change::ServiceCidrGone(name) => self.ledger.set_foreign(format!("ServiceCIDR {name}"), vec![]),
            Change::Synced => self.synced = true,
            _ => {}
        }
    }

    /// Begins what there is to do, as far as there is room. True where it has only looked at some of it.
    fn work(&mut self) -> bool {
        if !self.synced {
            return false;
        }
        for name in self.ledger.take_dirty_pools() {
            self.ledger.judge(&name);
            self.pools.push(name);
        }
        for name in std::mem::take(&mut self.pools) {
            self.write_pool(name);
        }
        self.providers.look_at_pools(&mut self.ledger);
        self.nodes.append(&mut self.ledger.take_dirty_nodes());
        for _ in 0..BATCH {
            if self.under_way.len() >= AT_ONCE {
                return false;
            }
            let Some(name) = self.nodes.pop_first() else {
                return false;
            };
            self.write_node(name);
        }
        true
    }

    fn write_node(&mut self, name: String) {
        let key = Key::Node(name.clone());
        // It is decided again when that has come to an end.
        if self.busy.contains(&key) {
            return;
        }
        let grant = self.ledger.decide(&name);
        self.providers.look_at_node(&self.ledger, &name);
        let Some(grant) = grant else { return };
        self.busy.insert(key);
        let client = self.client.clone();
        self.under_way.spawn(async move {
            let written = match node_addresses::write_spec(&client, &grant.at, &grant.spec).await {
                Ok(None) => node_addresses::get(&client, &name).await,
                other => other,
            };
            Done::Node(grant, written)
        });
    }

    fn write_pool(&mut self, name: String) {
        let key = Key::Pool(name.clone());
        if self.busy.contains(&key) {
            return;
        }
        let Some((at, status, finalizer)) = self.ledger.pool_status(&name) else {
            return;
        };
        let client = self.client.clone();
        if let Some(held) = finalizer {
            self.busy.insert(key);
            self.under_way
                .spawn(async move { Done::Pool(name, ip_pool::set_held(&client, &at, held).await) });
            return;
        }
        if status.says_the_same(&at.status) {
            return;
        }
        let since = self.written.get(&name).map_or(NUMBERS, Instant::elapsed);
        if status.differs_in_numbers_only(&at.status) && since < NUMBERS {
            let numbers = Key::Numbers(name);
            if self.busy.insert(numbers.clone()) {
                self.later.insert(numbers, NUMBERS - since);
            }
            return;
        }
        self.busy.insert(key);
        if let Some(ready) = status
            .conditions
            .iter()
            .find(|of| of.type_ == "Ready" && !at.status.conditions.iter().any(|was| was.message == of.message))
        {
            info!(pool = name, ready = ready.status, "{}", ready.message);
        }
        self.written.insert(name.clone(), Instant::now());
        self.under_way
            .spawn(async move { Done::Pool(name, ip_pool::write_status(&client, &at, &status).await) });
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Node(grant, result) => self.node_done(grant, result),
            Done::Pool(name, result) => {
                let key = Key::Pool(name);
                match result {
                    Ok(Some(pool)) => {
                        self.rest(key, None);
                        self.ledger.pool(pool);
                    }
                    // The watch tells what it has become.
                    Ok(None) => drop(self.later.insert(key, FIRST_PAUSE)),
                    Err(error) => self.rest(key, Some(error)),
                }
            }
            Done::Orphan(name, result) => match result {
                Ok(true) => info!(node = name, "the node has gone; its addresses are free"),
                Ok(false) => {}
                Err(error) => {
                    warn!("{error}; trying again");
                    self.later.insert(Key::Orphan(name), ORPHAN);
                }
            },
        }
    }

    fn node_done(&mut self, grant: Grant, result: Result<Option<NodeAddresses>, weft_cluster::Error>) {
        let name = grant.at.node.clone();
        match result {
            Ok(found) => {
                if found.as_ref().is_some_and(|object| object.spec == grant.spec) {
                    log(&grant);
                }
                match found {
                    Some(object) => self.ledger.observe(object),
                    None => self.ledger.forget(&name),
                }
                self.rest(Key::Node(name.clone()), None);
                self.ledger.reconsider(&name);
            }
            Err(error) => self.rest(Key::Node(name), Some(error)),
        }
    }

    /// After a failure an object is left alone for a while.
    fn rest(&mut self, key: Key, error: Option<weft_cluster::Error>) {
        let Some(error) = error else {
            self.failures.remove(&key);
            self.busy.remove(&key);
            return;
        };
        let count = self.failures.entry(key.clone()).or_default();
        *count += 1;
        let pause = FIRST_PAUSE.saturating_mul(1 << (*count - 1).min(10)).min(LONGEST_PAUSE);
        // Many that failed together do not come back together.
        let pause = pause.mul_f64(rand::random_range(0.5..1.0));
        if *count == 1 {
            warn!("{error}; trying again");
        }
        self.later.insert(key, pause);
    }

    /// Something has waited long enough.
    fn due(&mut self, key: Key) {
        self.busy.remove(&key);
        match key {
            Key::Node(name) => self.ledger.reconsider(&name),
            Key::Pool(name) | Key::Numbers(name) => self.pools.push(name),
            Key::Orphan(name) => {
                let object = self
                    .ledger
                    .object(&name)
                    .filter(|_| !self.ledger.has_node(&name))
                    .cloned();
                let Some(at) = object else { return };
                let client = self.client.clone();
                self.under_way.spawn(async move {
                    let collected = node_addresses::collect(&client, &at).await;
                    Done::Orphan(name, collected)
                });
            }
        }
    }
}

fn foreign(of: &str) -> Foreign {
    Foreign {
        of: of.to_owned(),
        is_node: false,
    }
}

/// What a node got, gave back and was refused.
fn log(grant: &Grant) {
    let blocks = |spec: &weft_model::ipam::NodeAddressesSpec| -> BTreeSet<(String, IpNet)> {
        spec.allocated
            .iter()
            .flat_map(|of| of.cidrs.iter().map(|cidr| (of.pool.clone(), *cidr)))
            .collect()
    };
    let (before, after) = (blocks(&grant.at.spec), blocks(&grant.spec));
    let text = |blocks: Vec<&(String, IpNet)>| -> String {
        blocks
            .iter()
            .map(|(pool, cidr)| format!("{cidr} of {pool}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (given, taken) = (
        text(after.difference(&before).collect()),
        text(before.difference(&after).collect()),
    );
    let node = &grant.at.node;
    if !given.is_empty() {
        info!(node, "gets {given}");
    }
    if !taken.is_empty() {
        info!(node, "gave back {taken}");
    }
    for refusal in grant
        .spec
        .refused
        .iter()
        .filter(|refusal| !grant.at.spec.refused.contains(refusal))
    {
        warn!(node, "{}", refusal.message);
    }
}
