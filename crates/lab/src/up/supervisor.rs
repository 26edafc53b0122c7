//! The process that holds a lab together: makes the segments and the nodes, starts every component, and starts
//! again what dies. It ends with the lab's cgroup.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::thread::ScopedJoinHandle;

use super::control::{self, Request};
use super::daemon::{Daemon, Place};
use super::nodes::{Nodes, Running};
use super::spec::API_PORT;
use super::{Error, Lab, Spec, balancer, cgroup, internet, netns, router, segment};
use crate::api::pki;

/// Brings up the lab that `up` has recorded, and does what it is told from then on.
pub fn supervise(lab: &Lab) -> Result<(), Error> {
    // Cut loose from the terminal; it fails only for a leader of a process group, which is loose already.
    let _ = nix::unistd::setsid();
    cgroup::join(&cgroup::of_control(lab, "supervisor")?)?;
    let spec = lab.load()?;
    let segments = netns::create(&lab.segment_netns())?;
    segment::create(&segments, &spec)?;
    control_plane(lab, &spec)?;
    // Between several segments only an overlay joins pods, and the router knows none of them.
    if spec.segments == 1 {
        let of_router = segments.try_clone();
        router::start(lab, of_router.map_err(Error::io("share", lab.segment_netns()))?)?;
    }
    let of_balancer = segments.try_clone();
    balancer::start(lab, of_balancer.map_err(Error::io("share", lab.segment_netns()))?)?;
    internet::start(lab, &spec, &segments)?;
    let server = SocketAddr::new(spec.control_plane(), API_PORT);
    let kubeconfig = pki::kubeconfig(&lab.dir(), &format!("https://{server}"), lab.name());
    let nodes = Nodes {
        lab,
        segments: &segments,
        kubeconfig: kubeconfig.map_err(|error| Error::Pki(error.to_string()))?,
    };
    let mut running = start_all(&nodes, &spec)?;
    control::serve(&control::listen(lab)?, |request| obey(&nodes, &mut running, request));
    Ok(())
}

/// The API server, and beside it the controller that shares out address pools.
fn control_plane(lab: &Lab, spec: &Spec) -> Result<(), Error> {
    let kubeconfig = lab.kubeconfig().display().to_string();
    let daemons: [(&str, &[&str]); 2] = [
        ("api", &["lab", "api", "--name", lab.name()]),
        ("controller", &["controller", "--kubeconfig", &kubeconfig]),
    ];
    for (name, args) in daemons {
        let daemon = Daemon {
            program: spec.weft.clone(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            cgroup: cgroup::of_control(lab, name)?,
            log: lab.log(name, None),
            place: Place::Machine,
        };
        daemon.keep()?;
    }
    Ok(())
}

/// All nodes at once.
fn start_all(nodes: &Nodes<'_>, spec: &Spec) -> Result<BTreeMap<String, Running>, Error> {
    let join = |thread: ScopedJoinHandle<'_, Result<Running, Error>>| match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    std::thread::scope(|scope| {
        let start = |node| (node, scope.spawn(move || nodes.start(spec, node)));
        let started: Vec<_> = spec.nodes.iter().map(start).collect();
        let started = started.into_iter();
        started
            .map(|(node, thread)| Ok((node.name.clone(), join(thread)?)))
            .collect()
    })
}

fn obey(nodes: &Nodes<'_>, running: &mut BTreeMap<String, Running>, request: Request) -> Result<(), Error> {
    let spec = nodes.lab.load()?;
    match request {
        Request::Start(name) => {
            if let Entry::Vacant(place) = running.entry(name) {
                let node = spec.node(nodes.lab, place.key())?;
                place.insert(nodes.start(&spec, node)?);
            }
            Ok(())
        }
        Request::Stop(name) => running.remove(&name).map_or(Ok(()), |node| nodes.stop(node)),
        Request::Readdress(name) => match running.get_mut(&name) {
            Some(node) => nodes.readdress(&spec, spec.node(nodes.lab, &name)?, node),
            None => Ok(()),
        },
    }
}
