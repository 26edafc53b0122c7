//! The process that holds a lab together: makes the segment and the nodes, starts every component, and starts
//! again what dies. It ends with the lab's cgroup.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use super::daemon::{Daemon, Namespaces};
use super::mounts::NodeFiles;
use super::spec::{KUBECONFIG_IN_NODE, LAB_DIR_IN_NODE, NodeSpec, gateway};
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
        segment::create(&segment)?;
        let api = ["lab", "api", "--name", self.lab.name()].map(str::to_owned).to_vec();
        self.daemon("api", None, None, api)?;
        let of_router = segment.try_clone();
        router::start(
            self.lab,
            of_router.map_err(Error::io("share", self.lab.segment_netns()))?,
        )?;
        let [(gateway, _), _] = gateway();
        let kubeconfig = pki::kubeconfig(&self.lab.dir(), &format!("https://{gateway}:6443"), self.lab.name())
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
        segment::plug(segment, &net, node)?;
        let cni = self.spec.weft.with_file_name("weft-cni");
        let files = NodeFiles {
            lab: self.lab,
            node,
            cni: &cni,
            kubeconfig,
        };
        let namespaces = Arc::new(files.create(net)?);

        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let kubelet = format!("lab kubelet --lab-dir {LAB_DIR_IN_NODE} --node {name}");
        let agent = format!("agent --node-name {name} --kubeconfig {KUBECONFIG_IN_NODE}");
        let (v4, v6) = (node.ipv4, node.ipv6);
        let dns =
            format!("dns --node-name {name} --kubeconfig {KUBECONFIG_IN_NODE} --listen {v4}:53 --listen [{v6}]:53");
        self.daemon("kubelet", Some(name), Some(&namespaces), words(&kubelet))?;
        self.daemon("agent", Some(name), Some(&namespaces), words(&agent))?;
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
