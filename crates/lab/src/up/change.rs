//! Nodes that join, leave, are started again or get other addresses while the lab is up.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::control::{Request, tell};
use super::lifecycle::{is_ready, lock};
use super::spec::MOST_NODES;
use super::{Error, Lab, NodeSpec, Spec, bootstrap, ready};
use crate::client::{Client, Res};

const NODES: Res = Res::new("", "v1", "nodes");
const LEASES: Res = Res::new("coordination.k8s.io", "v1", "leases");

/// Adds a node and waits until it is ready.
pub async fn add_node(lab: &Lab, patience: Duration) -> Result<NodeSpec, Error> {
    let change = Change::begin(lab, patience)?;
    let mut spec = change.spec.clone();
    let node = spec.another().ok_or(Error::Nodes {
        asked: MOST_NODES + 1,
        most: MOST_NODES,
    })?;
    spec.nodes.push(node.clone());
    change.record(&spec).await?;
    tell(lab, &Request::Start(node.name.clone()))?;
    change.until(&node, "is not Ready", is_ready).await?;
    Ok(node)
}

/// Takes a node out as if it was unplugged and carried away, and out of the cluster.
pub async fn remove_node(lab: &Lab, name: &str, patience: Duration) -> Result<(), Error> {
    let change = Change::begin(lab, patience)?;
    let mut spec = change.spec.clone();
    let node = spec.node(lab, name)?.clone();
    spec.nodes.retain(|other| other.name != name);
    if spec.nodes.is_empty() {
        return Err(Error::LastNode(name.to_owned()));
    }
    tell(lab, &Request::Stop(node.name))?;
    change.forget(name).await?;
    change.record(&spec).await?;
    let dir = lab.node_dir(name);
    std::fs::remove_dir_all(&dir).map_err(Error::io("remove", dir))
}

/// Ends a node whole, as a power cut does, starts it again with what was on its disk, and waits until it is ready.
pub async fn reboot_node(lab: &Lab, name: &str, patience: Duration) -> Result<(), Error> {
    let change = Change::begin(lab, patience)?;
    let node = change.spec.node(lab, name)?;
    tell(lab, &Request::Stop(name.to_owned()))?;
    tell(lab, &Request::Start(name.to_owned()))?;
    let path = lab.boot_id(name);
    let boot_id = std::fs::read_to_string(&path).map_err(Error::io("read", path))?;
    let again = |node: &Value| node["status"]["nodeInfo"]["bootID"] == boot_id.trim() && is_ready(node);
    change.until(node, "is not Ready again", again).await
}

/// Gives a node other addresses while it runs, and waits until the cluster knows them.
pub async fn readdress_node(lab: &Lab, name: &str, patience: Duration) -> Result<NodeSpec, Error> {
    let change = Change::begin(lab, patience)?;
    let mut spec = change.spec.clone();
    let old = spec.node(lab, name)?;
    let new = spec.moved(old.number, old.segment, old.moves.wrapping_add(1));
    let place = spec.nodes.iter_mut().find(|node| node.name == name);
    place.into_iter().for_each(|node| node.clone_from(&new));
    change.record(&spec).await?;
    tell(lab, &Request::Readdress(name.to_owned()))?;
    let told = |node: &Value| {
        let addresses = node["status"]["addresses"].as_array();
        let has = |ip: &str| addresses.is_some_and(|all| all.iter().any(|address| address["address"] == ip));
        new.ips().iter().all(|ip| has(&ip.to_string()))
    };
    change.until(&new, "does not report its addresses", told).await?;
    Ok(new)
}

/// One command at work on a lab that is up.
struct Change<'a> {
    lab: &'a Lab,
    spec: Spec,
    client: Client,
    deadline: Instant,
    patience: Duration,
    _lock: nix::fcntl::Flock<std::fs::File>,
}

impl<'a> Change<'a> {
    fn begin(lab: &'a Lab, patience: Duration) -> Result<Self, Error> {
        // Asked first, since it says how to start a lab that is not up.
        ready(lab)?;
        let lock = lock(lab)?;
        Ok(Self {
            lab,
            spec: ready(lab)?,
            client: Client::unix(lab.api_socket()),
            deadline: Instant::now() + patience,
            patience,
            _lock: lock,
        })
    }

    /// Writes the lab's record, and where its names are answered.
    async fn record(&self, spec: &Spec) -> Result<(), Error> {
        self.lab.save(spec)?;
        bootstrap::update_names(&self.client, spec).await
    }

    /// Takes a node out of the cluster; what was bound to it is the controllers' business.
    async fn forget(&self, name: &str) -> Result<(), Error> {
        for (res, namespace) in [(NODES, ""), (LEASES, "kube-node-lease")] {
            match self.client.delete(&res, namespace, name, None, None).await {
                Err(error) if !error.is_not_found() => {
                    return Err(Error::api(format!("cannot remove node {name} from the cluster"))(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits until this is so of a node.
    async fn until(&self, node: &NodeSpec, otherwise: &str, holds: impl Fn(&Value) -> bool) -> Result<(), Error> {
        while !matches!(self.client.get(&NODES, "", &node.name).await, Ok(known) if holds(&known)) {
            if Instant::now() >= self.deadline {
                let what = format!("{} {otherwise}", node.name);
                return Err(Error::not_ready(
                    &what,
                    self.patience,
                    self.lab.log("kubelet", Some(&node.name)),
                ));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}
