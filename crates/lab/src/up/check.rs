//! Proves by traffic that a lab's network works: real processes in the demo's pods ask real servers.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use super::bootstrap::DEMO_NAMESPACE;
use super::internet::{router, server};
use super::{Error, Lab, exec, ready};
use crate::client::{Client, ListOptions, Res};

/// One thing that was tried.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Check {
    /// What should work.
    pub what: String,
    /// What was asked of whom, and answered; or what went wrong.
    pub detail: String,
    /// Whether it worked.
    pub ok: bool,
    /// From asking to the answer, as measured in the pod.
    #[serde(serialize_with = "microseconds")]
    pub took: Duration,
}

fn microseconds<S: serde::Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
}

/// Runs every check that the lab has nodes for.
pub async fn check(lab: &Lab) -> Result<Vec<Check>, Error> {
    let spec = ready(lab)?;
    let client = Client::unix(lab.api_socket());
    let pods = client
        .list(&Res::new("", "v1", "pods"), DEMO_NAMESPACE, &ListOptions::default())
        .await;
    let pods = pods.map_err(Error::api("cannot read the demo's pods"))?.items;
    let find = |what: &str, wanted: &dyn Fn(&Value) -> bool| {
        pods.iter().find(|pod| wanted(pod)).cloned().ok_or_else(|| Error::Exec {
            pod: format!("{DEMO_NAMESPACE}/client"),
            reason: format!("the demo's {what} is missing; deploy it with: weft lab up"),
        })
    };
    let from = find("client", &|pod| pod["metadata"]["name"] == "client")?;
    let node = from["spec"]["nodeName"].clone();
    let web = |same: bool| {
        let node = node.clone();
        move |pod: &Value| pod["metadata"]["labels"]["app"] == "web" && (pod["spec"]["nodeName"] == node) == same
    };
    let near = find("web server on the client's node", &web(true))?;
    let client_ip = from["status"]["podIP"].as_str().unwrap_or_default();
    let checks = Checks { lab, client_ip };
    let by_address = service_ip(&client, DEMO_NAMESPACE, "web").await?;
    let api = service_ip(&client, "default", "kubernetes").await?;

    let mut done = vec![
        checks
            .http("pod to pod, one node", &url(&near), &Expect::Pod(&near))
            .await,
        checks
            .http(
                "container to container, localhost",
                "http://127.0.0.1:8081/",
                &Expect::Localhost,
            )
            .await,
        checks
            .http(
                "pod to Service by address",
                &format!("http://{}/", in_url(&by_address)),
                &Expect::Any,
            )
            .await,
        checks.http("pod to Service by name", "http://web/", &Expect::Any).await,
        checks
            .run(
                "pod to Service, UDP",
                &["udp", &format!("{}:9000", in_url(&by_address))],
                "pod=web-",
            )
            .await,
        checks.run(&format!("the API at {api}"), &["api"], "gitVersion").await,
        checks
            .run(
                &format!("DNS at {}", spec.cluster_dns()),
                &["name", "web.demo.svc.cluster.local"],
                &by_address,
            )
            .await,
    ];
    if let (Some(server), Some(router)) = (server(spec.families).first(), router(spec.families).first()) {
        let url = format!("http://{}/", in_url(&server.addr().to_string()));
        let seen = Expect::Router(router.addr().to_string());
        done.push(checks.http("the internet, by the router's address", &url, &seen).await);
    }
    if spec.nodes.len() > 1 {
        let distant = find("web server on another node", &web(false))?;
        let far = find("far server", &|pod| pod["metadata"]["name"] == "far")?;
        done.insert(
            1,
            checks
                .http("pod to pod, across nodes", &url(&distant), &Expect::Pod(&distant))
                .await,
        );
        done.push(
            checks
                .http("Service, backend on another node", "http://far/", &Expect::Pod(&far))
                .await,
        );
    }
    Ok(done)
}

fn url(pod: &Value) -> String {
    let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
    format!("http://{}:8080/", in_url(ip))
}

/// An address as a URL has it, an IPv6 one in brackets.
fn in_url(ip: &str) -> String {
    match ip.contains(':') {
        true => format!("[{ip}]"),
        false => ip.to_owned(),
    }
}

async fn service_ip(client: &Client, namespace: &str, name: &str) -> Result<String, Error> {
    let service = client.get(&Res::new("", "v1", "services"), namespace, name).await;
    let service = service.map_err(Error::api(format!("cannot read Service {namespace}/{name}")))?;
    Ok(service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned())
}

/// Who should have answered, and whom it should have seen.
enum Expect<'a> {
    /// This pod; the client's own address was preserved.
    Pod(&'a Value),
    /// Any pod; the client's own address was preserved.
    Any,
    /// The pod itself, over its loopback.
    Localhost,
    /// A server beyond the router, to which everybody has this address.
    Router(String),
}

struct Checks<'a> {
    lab: &'a Lab,
    client_ip: &'a str,
}

impl Checks<'_> {
    async fn http(&self, what: &str, url: &str, expect: &Expect<'_>) -> Check {
        let mut check = self.run(what, &["http", url], "").await;
        if !check.ok {
            return check;
        }
        let answer: Value = serde_json::from_str(&check.detail).unwrap_or_default();
        let field = |name: &str| answer[name].as_str().unwrap_or_default();
        let seen = field("client")
            .parse()
            .map(|client: SocketAddr| client.ip().to_string());
        let seen = seen.as_deref().unwrap_or_default();
        let (pod, source) = match expect {
            Expect::Pod(pod) => (pod["metadata"]["name"].as_str(), self.client_ip),
            Expect::Any => (None, self.client_ip),
            Expect::Localhost => (Some("client"), "127.0.0.1"),
            Expect::Router(address) => (None, address.as_str()),
        };
        check.ok = pod.is_none_or(|pod| pod == field("pod")) && seen == source && !field("pod").is_empty();
        let place = match field("node") {
            "" => String::new(),
            node => format!(" on {node}"),
        };
        check.detail = format!("{url} answered by {}{place}, which saw {seen}", field("pod"));
        if !check.ok {
            check.detail.push_str(&format!(
                "; expected {} to see {source}",
                pod.unwrap_or("a pod of the Service")
            ));
        }
        check
    }

    async fn run(&self, what: &str, ask: &[&str], contains: &str) -> Check {
        let command = [&["weft", "lab", "ask", "--time"], ask].concat();
        let result = exec::exec(self.lab, (DEMO_NAMESPACE, "client"), "client", &command).await;
        let took = result
            .as_ref()
            .ok()
            .and_then(|output| output.stderr.trim().parse().ok());
        let (ok, detail) = match result {
            Ok(output) if output.success && output.stdout.contains(contains) => (true, output.stdout),
            Ok(output) if output.success => (false, format!("unexpected answer: {}", output.stdout.trim())),
            Ok(output) => (false, output.stderr),
            Err(error) => (false, error.to_string()),
        };
        Check {
            what: what.to_owned(),
            ok,
            detail: detail.trim().to_owned(),
            took: Duration::from_micros(took.unwrap_or_default()),
        }
    }
}
