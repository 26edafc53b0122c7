//! The process that holds a lab together: makes the segment and the nodes, starts every component, and starts
//! again what dies. It ends with the lab's cgroup.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::daemon::{Daemon, Namespaces};
use super::mounts::NodeFiles;
use super::spec::{API_PORT, KUBECONFIG_IN_NODE, LAB_DIR_IN_NODE, NodeSpec};
use super::{Error, Lab, Spec, cgroup, netns, router, segment};
use crate::api::pki;

/// Brings up the lab that `up` has recorded and stays.
pub fn supervise(lab: &Lab) -> Result<(), Error> {
    // Cut loose from the terminal; it fails only for a leader of a process group, which is loose already.
    let _ = nix::unistd::setsid();
    cgroup::join(&cgroup::of_control(lab, "supervisor")?)?;
    let spec = lab.load()?;
    let supervisor = Supervisor { lab, spec: &spec };
    supervisor.start()?;
    loop {
        std::thread::park();
    }
}

struct Supervisor<'a> {
    lab: &'a Lab,
    spec: &'a Spec,
}

impl Supervisor<'_> {
    fn start(&self) -> Result<(), Error> {
        let segment = netns::create(&self.lab.segment_netns())?;
        segment::create(&segment, self.spec)?;
        let api = ["lab", "api", "--name", self.lab.name()].map(str::to_owned).to_vec();
        self.daemon("api", None, None, api)?;
        // Between several segments only an overlay joins pods, and the router knows none of them.
        if self.spec.segments == 1 {
            let of_router = segment.try_clone();
            router::start(
                self.lab,
                of_router.map_err(Error::io("share", self.lab.segment_netns()))?,
            )?;
        }
        let server = SocketAddr::new(self.spec.control_plane(), API_PORT);
        let kubeconfig = pki::kubeconfig(&self.lab.dir(), &format!("https://{server}"), self.lab.name())
            .map_err(|error| Error::Pki(error.to_string()))?;
        std::thread::scope(|scope| {
            let nodes = self.spec.nodes.iter().map(|node| {
                let (segment, kubeconfig) = (&segment, &kubeconfig);
                scope.spawn(move || self.start_node(segment, node, kubeconfig))
            });
            nodes
                .collect::<Vec<_>>()
                .into_iter()
                .try_for_each(|node| match node.join() {
                    Ok(result) => result,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
        })
    }

    fn start_node(&self, segment: &File, node: &NodeSpec, kubeconfig: &str) -> Result<(), Error> {
        let name = &node.name;
        cgroup::create(&cgroup::of_node(self.lab, name)?)?;
        fs::create_dir_all(self.lab.node_dir(name)).map_err(Error::io("create", self.lab.node_dir(name)))?;
        let net = netns::create(&self.lab.node_netns(name))?;
        segment::plug(segment, &net, self.spec, node)?;
        let cni = self.spec.weft.with_file_name("weft-cni");
        let files = NodeFiles {
            lab: self.lab,
            node,
            cni: &cni,
            kubeconfig,
        };
        let namespaces = Arc::new(files.create(net)?);

        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let own = format!("--node-name {name} --kubeconfig {KUBECONFIG_IN_NODE}");
        let kubelet = format!("lab kubelet --lab-dir {LAB_DIR_IN_NODE} --node {name}");
        let agent = [words(&format!("agent {own}")), self.spec.agent_args.clone()].concat();
        let listen = node
            .ips()
            .into_iter()
            .map(|ip| format!(" --listen {}", SocketAddr::new(ip, 53)));
        let dns = format!("dns {own}{}", listen.collect::<String>());
        self.daemon("kubelet", Some(name), Some(&namespaces), words(&kubelet))?;
        self.daemon("agent", Some(name), Some(&namespaces), agent)?;
        self.daemon("dns", Some(name), Some(&namespaces), words(&dns))
    }

    fn daemon(
        &self,
        component: &str,
        node: Option<&str>,
        namespaces: Option<&Arc<Namespaces>>,
        args: Vec<String>,
    ) -> Result<(), Error> {
        let cgroup: PathBuf = match node {
            Some(node) => cgroup::of_daemon(self.lab, node, component)?,
            None => cgroup::of_control(self.lab, component)?,
        };
        let daemon = Daemon {
            program: self.spec.weft.clone(),
            args,
            cgroup,
            log: self.lab.log(component, node),
            node: namespaces.cloned(),
        };
        daemon.keep()
    }
}
