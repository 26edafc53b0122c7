//! What load balancers ask a node: has it endpoints of a Service (`spec.healthCheckNodePort`), and is the node itself to
//! be sent to (`/healthz` and `/livez` on port 10256, where kube-proxy answers)?
//!
//! Answers are those of kube-proxy, word for word, because load balancers are configured for it. A port that somebody
//! else holds is reported and tried again.

mod answer;
mod serve;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tracing::{info, warn};
use weft_model::compile::{self, HealthCheck};
use weft_model::desired::{Step, Wanted};
use weft_model::{ObjectKey, State};

use super::node::lock;

/// Where kube-proxy answers for the node.
const NODE_PORT: u16 = 10_256;
/// Who has not looked at its work for so long is stuck (kube-proxy's is twice its sync period).
const STUCK: Duration = Duration::from_secs(60);

/// The ports at which this node answers.
pub(super) struct Health {
    wanted: Wanted<ObjectKey, u16, HealthCheck>,
    listeners: BTreeMap<u16, JoinHandle<()>>,
    /// Ports that cannot be had, and why.
    failed: BTreeMap<u16, String>,
    known: Arc<Known>,
}

/// What is answered.
struct Known {
    node: Mutex<NodeHealth>,
    checks: Mutex<BTreeMap<u16, HealthCheck>>,
}

/// How the node itself is doing.
#[derive(Clone, Copy, Debug)]
struct NodeHealth {
    /// All that the API server knows is in force.
    synced: bool,
    /// The node is being deleted or scaled away (KEP-3836).
    leaving: bool,
    /// When the agent last looked at its work.
    alive: Instant,
    /// The same for people.
    alive_at: Timestamp,
}

impl NodeHealth {
    /// The agent works.
    fn lives(&self) -> bool {
        self.alive.elapsed() < STUCK
    }

    /// What is sent here is forwarded.
    fn forwards(&self) -> bool {
        self.synced && self.lives()
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.listeners.values().for_each(JoinHandle::abort);
    }
}

impl Health {
    /// Begins to answer for the node.
    pub(super) fn start() -> Self {
        let node = NodeHealth {
            synced: false,
            leaving: false,
            alive: Instant::now(),
            alive_at: Timestamp::now(),
        };
        let mut health = Self {
            wanted: Wanted::default(),
            listeners: BTreeMap::new(),
            failed: BTreeMap::new(),
            known: Arc::new(Known {
                node: Mutex::new(node),
                checks: Mutex::default(),
            }),
        };
        health.open(NODE_PORT);
        health
    }

    /// Everything is in force for the first time.
    pub(super) fn synced(&mut self, state: &State) {
        let keys: Vec<ObjectKey> = state.services().map(|service| service.key.clone()).collect();
        keys.iter().for_each(|key| self.service(state, key));
        self.node(state);
        lock(&self.known.node).synced = true;
    }

    /// This Service, or where its endpoints are, may be another than before.
    pub(super) fn service(&mut self, state: &State, key: &ObjectKey) {
        let check = compile::health_check(state, key);
        for step in self
            .wanted
            .set(key, check.into_iter().map(|check| (check.port, check)).collect())
        {
            match step {
                Step::Put(port, check) => {
                    lock(&self.known.checks).insert(port, check);
                    self.open(port);
                }
                Step::Remove(port) => {
                    lock(&self.known.checks).remove(&port);
                    self.failed.remove(&port);
                    if let Some(listener) = self.listeners.remove(&port) {
                        listener.abort();
                    }
                }
            }
        }
    }

    /// The node may be about to leave, or to stay after all.
    pub(super) fn node(&self, state: &State) {
        lock(&self.known.node).leaving = state.local().is_some_and(|node| node.leaving);
    }

    /// The agent looks at its work.
    pub(super) fn alive(&self) {
        let mut node = lock(&self.known.node);
        (node.alive, node.alive_at) = (Instant::now(), Timestamp::now());
    }

    /// Tries again to get the ports that could not be had.
    pub(super) fn retry(&mut self) {
        let failed: Vec<u16> = self.failed.keys().copied().collect();
        failed.into_iter().for_each(|port| self.open(port));
    }

    /// What is not answered, and why.
    pub(super) fn problems(&self) -> Vec<String> {
        let held = self
            .failed
            .iter()
            .map(|(port, why)| format!("{}: {why}", self.what(*port)));
        let contested = self.wanted.contested().map(|(port, services)| {
            let services: Vec<String> = services.map(ObjectKey::to_string).collect();
            format!(
                "health check port {port} is that of the Services {}: the first has it",
                services.join(", ")
            )
        });
        held.chain(contested).collect()
    }

    fn what(&self, port: u16) -> String {
        match self.wanted.get(&port) {
            Some(check) => format!("health check port {port} of Service {}", check.service),
            None => format!("port {port}, where load balancers ask about this node"),
        }
    }

    fn open(&mut self, port: u16) {
        if self.listeners.contains_key(&port) {
            return;
        }
        let what = self.what(port);
        match listen(port) {
            Ok(listener) => {
                let known = self.known.clone();
                let answer = move |path: &str| known.answer(port, path);
                self.listeners
                    .insert(port, tokio::spawn(serve::serve(listener, answer)));
                if self.failed.remove(&port).is_some() {
                    info!("{what} is answered now");
                }
            }
            Err(error) => {
                let why = match error.kind() {
                    io::ErrorKind::AddrInUse => format!(
                        "another process of this node holds it, so that load balancers hear that one; see `ss -ltnp \
                         'sport = :{port}'` and stop it"
                    ),
                    _ => format!("cannot listen: {error}"),
                };
                if self.failed.insert(port, why.clone()).as_ref() != Some(&why) {
                    warn!("{what}: {why}");
                }
            }
        }
    }
}

impl Known {
    fn answer(&self, port: u16, path: &str) -> answer::Answer {
        let node = *lock(&self.node);
        if port == NODE_PORT {
            return answer::of_node(&node, path);
        }
        match lock(&self.checks).get(&port) {
            Some(check) => answer::of_service(&node, check),
            None => answer::nothing(),
        }
    }
}

/// Every address of the node; IPv4 alone where the kernel has no IPv6.
fn listen(port: u16) -> io::Result<tokio::net::TcpListener> {
    let any = [
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    ];
    let listener = TcpListener::bind(any[0]).or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse => Err(error),
        _ => TcpListener::bind(any[1]),
    })?;
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
