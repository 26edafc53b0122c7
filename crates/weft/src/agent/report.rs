//! How this node's network is doing, layer by layer: built from what the agent knows, written to the API server.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::{debug, warn};
use weft_cluster::Client;
use weft_model::report::{AgentInfo, Layer, NodeReport};

use super::node::Node;
use super::{addresses, conflist, isolation, server};

/// How often a report is written when nothing changes.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often is looked whether something has changed.
const LOOK: Duration = Duration::from_millis(500);
const DNS_HEALTH_PORT: u16 = 8181;
const ALMOST_FULL: f64 = 0.8;

/// Reports for ever.
pub(super) async fn run(node: Arc<Node>, client: Client, conf_dir: PathBuf) {
    let mut reporter = Reporter {
        node,
        client,
        conf_dir,
        last: None,
        probed: None,
        warned: false,
    };
    loop {
        reporter.look().await;
        tokio::time::sleep(LOOK).await;
    }
}

struct Reporter {
    node: Arc<Node>,
    client: Client,
    conf_dir: PathBuf,
    last: Option<(Instant, NodeReport)>,
    probed: Option<(Instant, Layer)>,
    warned: bool,
}

impl Reporter {
    async fn look(&mut self) {
        // A node that the API server does not know has no place to report to.
        if !self.node.ready.borrow().known {
            return;
        }
        let dns = self.dns().await;
        let layers = vec![
            api(&self.node, &self.client),
            kernel(&self.node),
            addresses::layer(&self.node),
            isolated(&self.node),
            services(&self.node),
            routes(&self.node),
            dns,
            cni(&self.node, &self.conf_dir),
        ];
        let agent = AgentInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
        };
        let heartbeat = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let report = NodeReport::new(heartbeat, agent, layers);
        let due = match &self.last {
            Some((at, last)) => at.elapsed() >= HEARTBEAT || !last.says_the_same(&report),
            None => true,
        };
        if !due {
            return;
        }
        let written = tokio::time::timeout(
            HEARTBEAT,
            weft_cluster::node_network::write(&self.client, &self.node.name, &report),
        );
        match written.await {
            Ok(Ok(())) => {
                self.last = Some((Instant::now(), report));
                self.warned = false;
            }
            Ok(Err(error)) if !self.warned => {
                warn!("{error}; `weft status` does not know this node until then");
                self.warned = true;
            }
            Ok(Err(error)) => debug!("{error}"),
            Err(_) => debug!("the API server does not answer"),
        }
    }

    /// The DNS process is another one: it is asked.
    async fn dns(&mut self) -> Layer {
        let fresh = |probed: &(Instant, Layer)| {
            // What is well is asked less often than what is not.
            let age = if probed.1.remedy.is_none() { HEARTBEAT } else { LOOK };
            probed.0.elapsed() < age
        };
        if let Some(probed) = self.probed.as_ref().filter(|probed| fresh(probed)) {
            return probed.1.clone();
        }
        let node_ip = self.node.ready.borrow().node_ips.first().copied();
        let layer = match node_ip {
            None => Layer::failed(
                "dns",
                "the node has no InternalIP to ask at",
                "set the node's address (kubelet --node-ip)",
            ),
            Some(ip) => match probe(ip).await {
                Ok(()) => Layer::ok("dns", format!("answers on {ip}")),
                Err(why) => Layer::failed(
                    "dns",
                    format!("http://{}/ready: {why}", SocketAddr::new(ip, DNS_HEALTH_PORT)),
                    "look at the log of `weft dns` on this node; pods cannot resolve names meanwhile",
                ),
            },
        };
        self.probed = Some((Instant::now(), layer.clone()));
        layer
    }
}

async fn probe(ip: IpAddr) -> Result<(), String> {
    let ask = async {
        let mut stream = TcpStream::connect(SocketAddr::new(ip, DNS_HEALTH_PORT)).await?;
        stream
            .write_all(b"GET /ready HTTP/1.1\r\nHost: dns\r\nConnection: close\r\n\r\n")
            .await?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&head[9..]).into_owned())
    };
    match tokio::time::timeout(Duration::from_secs(1), ask).await {
        Ok(Ok(status)) if status == "200" => Ok(()),
        Ok(Ok(status)) => Err(format!("answers {status}: not ready")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer within a second".into()),
    }
}

fn api(node: &Node, client: &Client) -> Layer {
    let health = client.health();
    let server = client.server();
    if !node.ready.borrow().synced {
        return Layer::degraded(
            "api",
            format!("not everything has been listed at {server}"),
            "wait, or see the agent's log",
        );
    }
    if let Some((kind, why)) = health.broken.iter().next() {
        let message = format!("{kind}: {why}; the network stays as it was");
        return Layer::degraded(
            "api",
            message,
            format!("see whether {server} runs and lets this node in"),
        );
    }
    if let Some(first) = health.malformed.values().next() {
        let count = health.malformed.len();
        return Layer::degraded(
            "api",
            format!("skipping {count} malformed: {first}"),
            "correct the object",
        );
    }
    Layer::ok("api", format!("connected to {server}, in sync"))
}

fn kernel(node: &Node) -> Layer {
    let features = node.datapath().features();
    let text: Vec<String> = features
        .iter()
        .map(|feature| format!("{}: {}", feature.name, feature.choice))
        .collect();
    Layer::ok("kernel", text.join("; "))
}

/// Well in any case: what a pod may not send has ended, and the others are as they should be.
fn isolated(node: &Node) -> Layer {
    let message = match isolation::summary(&node.progress().offenders) {
        Some(who) => format!("dropped what pods may not send: {who}"),
        None => "every pod speaks for itself alone".into(),
    };
    Layer::ok("isolation", message)
}

fn services(node: &Node) -> Layer {
    let progress = node.progress().clone();
    let usage = node.datapath().usage();
    if let Some((frontend, why)) = progress.service_errors.iter().next() {
        let count = progress.service_errors.len();
        let message = format!(
            "{count} of {} frontends could not be written; {frontend}: {why}",
            progress.frontends
        );
        return Layer::failed("services", message, "see the agent's log; it keeps trying");
    }
    let message = format!(
        "{} services, {} frontends, {} backends in the kernel, {}",
        progress.services,
        progress.frontends,
        progress.backends,
        node.dataplane.describe()
    );
    if let Some(first) = progress.health_errors.first() {
        return Layer::degraded(
            "services",
            format!("{message}; {first}"),
            "free the port, or give the Service another healthCheckNodePort",
        );
    }
    if let Some(first) = progress.first_problem {
        return Layer::degraded(
            "services",
            format!("{message}; {} not in force: {first}", progress.service_problems),
            "correct the objects; the agent's log names all of them",
        );
    }
    match usage
        .iter()
        .find(|usage| usage.used as f64 >= ALMOST_FULL * usage.capacity as f64)
    {
        Some(full) => {
            let message = format!("{message}; map {} holds {} of {}", full.map, full.used, full.capacity);
            Layer::degraded(
                "services",
                message,
                "this node has almost as many services as this version of Weft holds",
            )
        }
        None => Layer::ok("services", message),
    }
}

fn routes(node: &Node) -> Layer {
    let progress = node.progress().clone();
    if let Some(why) = progress.masquerade_error {
        let message = format!("pods cannot reach what is outside of the cluster: {why}");
        return Layer::failed(
            "routes",
            message,
            "the kernel needs nf_tables with NAT, and the agent CAP_NET_ADMIN",
        );
    }
    let reach = &progress.reach;
    if let Some((_, why)) = progress.route_errors.iter().next() {
        let (missing, all) = (progress.route_errors.len(), progress.routes);
        let message = format!("{missing} of {all} routes are missing: {why}");
        let remedy = "check the other node's InternalIP and this node's uplink; with --routing direct, nodes have to share a \
             network segment";
        return Layer::failed("routes", message, remedy);
    }
    let peers = progress.peers;
    let tunnelled = match &reach.why {
        Some(why) => {
            let encapsulation = node.settings.tunnel.encapsulation;
            format!(", {} by {encapsulation} ({why})", reach.tunnelled)
        }
        None => String::new(),
    };
    let message = format!(
        "{} routes; of {peers} other nodes {} are reached directly{tunnelled}",
        progress.routes, reach.direct
    );
    if let Some(overlap) = progress.overlaps.first() {
        let remedy = "give one of the nodes another pod range: delete its Node object, and let it register again";
        return Layer::degraded("routes", format!("{overlap}; {message}"), remedy);
    }
    match reach.lost.first() {
        Some(lost) => Layer::degraded(
            "routes",
            format!("{lost}; {message}"),
            "correct the node's addresses (kubelet --node-ip)",
        ),
        None => Layer::ok("routes", message),
    }
}

fn cni(node: &Node, conf_dir: &Path) -> Layer {
    let socket = server::socket_path(&node.state_dir);
    if !socket.exists() {
        let message = format!("{} has been removed", socket.display());
        return Layer::failed("cni", message, "restart the agent of this node");
    }
    match conflist::in_use(conf_dir) {
        Some(name) if name == conflist::NAME => Layer::ok(
            "cni",
            format!("listening on {}, {}", socket.display(), conf_dir.join(name).display()),
        ),
        Some(other) => Layer::degraded(
            "cni",
            format!(
                "the runtime uses {} instead of {}",
                conf_dir.join(&other).display(),
                conflist::NAME
            ),
            format!("remove {other}, if Weft is to connect this node's pods"),
        ),
        None => Layer::degraded(
            "cni",
            format!(
                "there is no {} yet: the kubelet reports the network as not ready",
                conf_dir.join(conflist::NAME).display()
            ),
            "wait until the node has a pod CIDR; if it has one, see the agent's log",
        ),
    }
}
