//! `weft lab up` and `down`.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use super::spec::{MOST_NODES, MOST_SEGMENTS, Mtu};
use super::{Error, Lab, Spec, bootstrap, cgroup, exec, netns};
use crate::client::{Client, Event, ListOptions, Res};
use crate::families::Families;

/// What kind of lab is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes; three where nothing is said.
    pub nodes: Option<usize>,
    /// The families of nodes, pods and Services.
    pub families: Families,
    /// How many segments the nodes are spread over.
    pub segments: usize,
    /// How many zones the nodes are spread over; 0 for none.
    pub zones: u8,
    /// The largest packet on the segments and on the way to the internet; what the kernel takes where nothing is said.
    pub mtu: Mtu,
    /// Whether nodes get ranges for their pods.
    pub node_ranges: bool,
    /// What every agent is told besides what it needs.
    pub agent_args: Vec<String>,
    /// Whether to deploy the demo.
    pub demo: bool,
    /// CustomResourceDefinitions of the network, and objects of those kinds, to be there before its agents.
    pub definitions: Vec<Value>,
    /// The `weft` binary for the lab's processes; `weft-cni` is expected beside it.
    pub weft: PathBuf,
    /// How long to wait until everything is ready.
    pub patience: Duration,
}

/// A lab that is up.
#[derive(Clone, Debug)]
pub struct Up {
    /// Its record.
    pub spec: Spec,
    /// It was up before.
    pub already: bool,
    /// How long it took until everything was ready.
    pub took: Duration,
}

/// What `down` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// There was something, and it is gone.
    Gone,
    /// There was nothing.
    Nothing,
}

/// Brings a lab up, or finds it up; what an earlier one left behind is removed first.
pub async fn up(lab: &Lab, options: &Options) -> Result<Up, Error> {
    let started = Instant::now();
    let count = options.nodes.unwrap_or(3);
    if !(1..=MOST_NODES).contains(&count) {
        return Err(Error::Nodes {
            asked: count,
            most: MOST_NODES,
        });
    }
    let most = MOST_SEGMENTS.min(count);
    if !(1..=most).contains(&options.segments) {
        return Err(Error::Segments {
            asked: options.segments,
            nodes: count,
            most,
        });
    }
    let _lock = lock(lab)?;
    let (spec, supervisor) = match running(lab)? {
        Some(spec) => (spec, None),
        None => {
            destroy(lab)?;
            let spec = create(lab, count, options)?;
            let supervisor = spawn_supervisor(lab, &spec)?;
            (spec, Some(supervisor))
        }
    };
    let already = supervisor.is_none();
    let wait = Wait {
        lab,
        supervisor,
        deadline: started + options.patience,
        patience: options.patience,
    };
    wait.until_ready(&spec, options).await?;
    Ok(Up {
        spec,
        already,
        took: started.elapsed(),
    })
}

/// Takes a lab down whole, whatever state it is in.
pub fn down(lab: &Lab) -> Result<Down, Error> {
    let lock = lock(lab)?;
    let found = destroy(lab)?;
    let _ = fs::remove_file(lab.lock());
    drop(lock);
    Ok(found)
}

/// The labs of this machine, up or half up.
pub fn list() -> Vec<Lab> {
    let entries = fs::read_dir(Lab::root()).into_iter().flatten().flatten();
    let dirs = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut labs: Vec<_> = dirs.filter_map(|name| Lab::new(&name).ok()).collect();
    labs.sort_by(|a, b| a.name().cmp(b.name()));
    labs
}

/// The record of a lab whose supervisor lives.
pub fn ready(lab: &Lab) -> Result<Spec, Error> {
    running(lab)?.ok_or_else(|| Error::NotUp {
        name: lab.name().to_owned(),
    })
}

/// Kills a component, on one node or on all; the supervisor starts it again. How many were killed.
pub fn restart(lab: &Lab, component: &str, node: Option<&str>) -> Result<usize, Error> {
    let spec = ready(lab)?;
    let mut groups = vec![cgroup::of_control(lab, component)?];
    for name in spec
        .nodes
        .iter()
        .map(|spec| &*spec.name)
        .filter(|name| node.is_none_or(|node| node == *name))
    {
        groups.push(cgroup::of_daemon(lab, name, component)?);
    }
    let processes: Vec<_> = groups.iter().flat_map(|group| cgroup::processes(group)).collect();
    for pid in &processes {
        let killed = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
        killed.map_err(Error::io("kill", component))?;
    }
    Ok(processes.len())
}

fn running(lab: &Lab) -> Result<Option<Spec>, Error> {
    let supervisor = cgroup::processes(&cgroup::of_control(lab, "supervisor")?);
    match supervisor.into_iter().any(cgroup::lives_on) {
        true => lab.load().map(Some),
        false => Ok(None),
    }
}

/// The right to change a lab, as long as it is held.
pub(super) fn lock(lab: &Lab) -> Result<Flock<File>, Error> {
    fs::create_dir_all(Lab::root()).map_err(Error::io("create", Lab::root()))?;
    let path = lab.lock();
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::Error::EWOULDBLOCK => Error::Busy(lab.name().to_owned()),
        error => Error::io("lock", path)(error),
    })
}

fn create(lab: &Lab, count: usize, options: &Options) -> Result<Spec, Error> {
    let dir = lab.dir();
    fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    mount(
        Some("weft-lab"),
        &dir,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0755"),
    )
    .map_err(Error::io("mount a tmpfs on", &dir))?;
    mount(None::<&str>, &dir, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(Error::io("make private", &dir))?;
    for part in ["log", "nodes"] {
        fs::create_dir(dir.join(part)).map_err(Error::io("create", dir.join(part)))?;
    }
    let mut spec = Spec {
        weft: options.weft.clone(),
        api_port: free_port()?,
        families: options.families,
        segments: u8::try_from(options.segments).unwrap_or(1),
        zones: options.zones,
        mtu: options.mtu,
        node_ranges: options.node_ranges,
        agent_args: options.agent_args.clone(),
        nodes: vec![],
    };
    let numbers = (1..=count).filter_map(|number| u8::try_from(number).ok());
    spec.nodes = numbers.map(|number| spec.nth(number)).collect();
    lab.save(&spec)?;
    cgroup::create(&cgroup::of_control(lab, "supervisor")?)?;
    crate::api::pki::ensure(&dir, lab.name(), spec.api_port).map_err(|error| Error::Pki(error.to_string()))?;
    Ok(spec)
}

fn free_port() -> Result<u16, Error> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    bound
        .map(|address| address.port())
        .map_err(Error::io("find a free port on", "127.0.0.1"))
}

fn spawn_supervisor(lab: &Lab, spec: &Spec) -> Result<Child, Error> {
    let path = lab.log("supervisor", None);
    let log = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    let errors = log.try_clone().map_err(Error::io("open", &path))?;
    Command::new(&spec.weft)
        .args(["lab", "supervisor", "--name", lab.name()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(Error::io("start", &spec.weft))
}

fn destroy(lab: &Lab) -> Result<Down, Error> {
    let subtree = cgroup::of_lab(lab)?;
    let dir = lab.dir();
    let own = [lab.segment_netns(), lab.internet_netns()];
    let nodes = netns::list(&lab.node_netns("node-"));
    let found = subtree.exists() || dir.exists();
    cgroup::destroy(&subtree)?;
    for name in own.iter().chain(&nodes) {
        netns::remove(name)?;
    }
    // A lab that was interrupted while it was made may have been mounted twice.
    while umount2(&dir, MntFlags::MNT_DETACH).is_ok() {}
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", dir)(error)),
        _ => {}
    }
    Ok(if found { Down::Gone } else { Down::Nothing })
}

struct Wait<'a> {
    lab: &'a Lab,
    supervisor: Option<Child>,
    deadline: Instant,
    patience: Duration,
}

impl Wait<'_> {
    async fn until_ready(mut self, spec: &Spec, options: &Options) -> Result<(), Error> {
        let client = Client::unix(self.lab.api_socket());
        while let Err(error) = client.raw("/readyz").await {
            tracing::debug!(%error, "API server not ready yet");
            if let Some(supervisor) = &mut self.supervisor
                && let Ok(Some(_)) = supervisor.try_wait()
            {
                return Err(self.not_ready("the lab's supervisor ended", self.lab.log("supervisor", None)));
            }
            self.pause("the API server does not answer", self.lab.log("api", None))
                .await?;
        }
        bootstrap::cluster(&client, spec, &options.definitions).await?;
        let nodes = Res::new("", "v1", "nodes");
        self.all_ready(&client, nodes, "", spec.nodes.len(), "a node is not Ready")
            .await?;
        // Only now, so that the scheduler spreads the demo over all of them.
        if options.demo {
            bootstrap::demo(&client, spec).await?;
            let pods = Res::new("", "v1", "pods");
            let expected = if spec.nodes.len() > 1 { 5 } else { 4 };
            self.all_ready(
                &client,
                pods,
                bootstrap::DEMO_NAMESPACE,
                expected,
                "a pod of the demo is not Ready",
            )
            .await?;
            self.names_answered().await?;
        }
        Ok(())
    }

    /// Waits until so many objects have the condition Ready.
    async fn all_ready(
        &self,
        client: &Client,
        res: Res,
        namespace: &str,
        count: usize,
        what: &str,
    ) -> Result<(), Error> {
        let mut events = client.informer(res, namespace, ListOptions::default());
        let mut ready = std::collections::HashSet::new();
        let follow = async {
            while ready.len() < count {
                let Some(event) = events.recv().await else { return };
                match event {
                    Event::Applied(object) if is_ready(&object) => {
                        ready.insert(crate::client::meta(&object, "name").to_owned());
                    }
                    Event::Applied(object) | Event::Deleted(object) => {
                        ready.remove(crate::client::meta(&object, "name"));
                    }
                    Event::Synced => {}
                }
            }
        };
        let log = self.lab.log("kubelet", Some("node-1"));
        let in_time = tokio::time::timeout_at(self.deadline.into(), follow).await;
        in_time.map_err(|_| self.not_ready(&format!("{what} ({} of {count} are)", ready.len()), log))
    }

    async fn names_answered(&self) -> Result<(), Error> {
        let pod = (bootstrap::DEMO_NAMESPACE, "client");
        let command = ["weft", "lab", "ask", "name", "web"];
        loop {
            match exec::exec(self.lab, pod, "client", &command).await {
                Ok(output) if output.success => return Ok(()),
                Ok(output) => tracing::debug!(output.stderr, "name not answered yet"),
                Err(error) => tracing::debug!(%error, "name not answered yet"),
            }
            self.pause("the demo's names are not answered", self.lab.log("dns", Some("node-1")))
                .await?;
        }
    }

    async fn pause(&self, what: &str, log: PathBuf) -> Result<(), Error> {
        if Instant::now() >= self.deadline {
            return Err(self.not_ready(what, log));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(())
    }

    fn not_ready(&self, what: &str, log: PathBuf) -> Error {
        Error::not_ready(what, self.patience, log)
    }
}

/// Whether an object's condition Ready is true.
pub(super) fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|list| list.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}
