//! The nodes of a lab while they run: made, ended as by a power cut, and given other addresses.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use super::daemon::{Daemon, Kept, Namespaces, Place};
use super::mounts::{NodeFiles, write_hosts};
use super::spec::{KUBECONFIG_IN_NODE, LAB_DIR_IN_NODE, NodeSpec};
use super::{Error, Lab, Spec, cgroup, netns, segment};

/// What makes nodes.
pub(super) struct Nodes<'a> {
    pub(super) lab: &'a Lab,
    /// The segments' network namespace.
    pub(super) segments: &'a File,
    /// The kubeconfig for the nodes' daemons.
    pub(super) kubeconfig: String,
}

/// A node that runs.
pub(super) struct Running {
    spec: NodeSpec,
    namespaces: Arc<Namespaces>,
    daemons: BTreeMap<&'static str, Kept>,
}

impl Nodes<'_> {
    /// Makes a node, or one that was ended, with what is left of it on its disk; starts its daemons.
    pub(super) fn start(&self, lab: &Spec, node: &NodeSpec) -> Result<Running, Error> {
        let name = &node.name;
        cgroup::create(&cgroup::of_node(self.lab, name)?)?;
        fs::create_dir_all(self.lab.node_dir(name)).map_err(Error::io("create", self.lab.node_dir(name)))?;
        let boot_id = self.lab.boot_id(name);
        fs::write(&boot_id, new_boot_id()).map_err(Error::io("write", &boot_id))?;
        let net = netns::create(&self.lab.node_netns(name))?;
        segment::plug(self.segments, &net, lab, node)?;
        let cni = lab.weft.with_file_name("weft-cni");
        let files = NodeFiles {
            lab: self.lab,
            node,
            cni: &cni,
            kubeconfig: &self.kubeconfig,
        };
        let mut running = Running {
            spec: node.clone(),
            namespaces: Arc::new(files.create(net)?),
            daemons: BTreeMap::new(),
        };
        for (component, args) in daemons(lab, node) {
            self.keep(lab, &mut running, component, args)?;
        }
        Ok(running)
    }

    /// Ends a node at once and whole: processes, namespaces and `/run`. Its disk stays.
    pub(super) fn stop(&self, running: Running) -> Result<(), Error> {
        let name = &running.spec.name;
        running.daemons.values().for_each(Kept::release);
        cgroup::kill(&cgroup::of_node(self.lab, name)?)?;
        for daemon in running.daemons.into_values() {
            daemon.end()?;
        }
        cgroup::destroy(&cgroup::of_node(self.lab, name)?)?;
        segment::unplug(self.segments, name)?;
        drop(running.namespaces);
        netns::remove(&self.lab.node_netns(name))?;
        let run = self.lab.node_dir(name).join("run");
        match fs::remove_dir_all(&run) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", run)(error)),
            _ => Ok(()),
        }
    }

    /// Gives a running node the addresses that it has now; who listens on them or reports them is started again.
    pub(super) fn readdress(&self, lab: &Spec, node: &NodeSpec, running: &mut Running) -> Result<(), Error> {
        segment::readdress(&running.namespaces.net, lab, &running.spec, node)?;
        netns::on_thread(|| {
            let enter = Error::io("enter the namespaces of", &node.name);
            running.namespaces.join().map_err(enter)?;
            write_hosts(node)
        })?;
        running.spec = node.clone();
        for (component, args) in daemons(lab, node) {
            if component == "agent" {
                continue;
            }
            if let Some(daemon) = running.daemons.remove(component) {
                daemon.end()?;
            }
            self.keep(lab, running, component, args)?;
        }
        Ok(())
    }

    fn keep(&self, lab: &Spec, on: &mut Running, component: &'static str, args: Vec<String>) -> Result<(), Error> {
        let name = &on.spec.name;
        let daemon = Daemon {
            program: lab.weft.clone(),
            args,
            cgroup: cgroup::of_daemon(self.lab, name, component)?,
            log: self.lab.log(component, Some(name)),
            place: Place::Node(on.namespaces.clone()),
        };
        on.daemons.insert(component, daemon.keep()?);
        Ok(())
    }
}

/// The daemons of a node with their command lines.
fn daemons(lab: &Spec, node: &NodeSpec) -> [(&'static str, Vec<String>); 3] {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let name = &node.name;
    let own = format!("--node-name {name} --kubeconfig {KUBECONFIG_IN_NODE}");
    let agent = [words(&format!("agent {own}")), lab.agent_args.clone()].concat();
    let listen = node
        .ips()
        .into_iter()
        .map(|ip| format!(" --listen {}", SocketAddr::new(ip, 53)));
    let dns = format!("dns {own}{}", listen.collect::<String>());
    let zone = lab.zone(node).map(|zone| format!(" --zone {zone}")).unwrap_or_default();
    let kubelet = format!("lab kubelet --lab-dir {LAB_DIR_IN_NODE} --node {name}{zone}");
    [("kubelet", words(&kubelet)), ("agent", agent), ("dns", words(&dns))]
}

/// A random UUID, as the kernel makes one at each start.
fn new_boot_id() -> String {
    let random = rand::random::<u128>() & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{random:032x}");
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)].map(|(from, to)| &hex[from..to]);
    parts.join("-") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_a_random_uuid() {
        let (one, two) = (new_boot_id(), new_boot_id());
        assert_ne!(one, two);
        assert_eq!(one.len(), 37);
        assert_eq!(one.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&one.as_bytes()[19]), "{one}");
    }
}
