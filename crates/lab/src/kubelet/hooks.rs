//! Lifecycle hooks: what runs right after a container has started and before it is stopped.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use tokio::net::TcpStream;

use super::http;
use super::node::Node;

/// A hook may take as long as its container; its caller gives up before this.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// Runs a hook to its end.
pub(super) async fn run(
    node: &Node,
    hook: &LifecycleHandler,
    id: &str,
    container: &Container,
    pod_ip: Option<IpAddr>,
) -> Result<(), String> {
    let host = pod_ip.map(|ip| ip.to_string()).unwrap_or_default();
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let outcome = node.runtime.exec(id, &command, FOREVER).await?;
        return match outcome.code {
            0 => Ok(()),
            code => Err(format!(
                "command {command:?} exited with {code}: {}",
                outcome.output.trim()
            )),
        };
    }
    if let Some(action) = &hook.http_get {
        return match http::get(action, container, &host).await? {
            (200..400, _) => Ok(()),
            (code, _) => Err(format!("HTTP probe failed with statuscode: {code}")),
        };
    }
    if let Some(action) = &hook.tcp_socket {
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&host);
        let place = http::authority(host, http::port(container, &action.port)?);
        return TcpStream::connect(&place)
            .await
            .map(drop)
            .map_err(|error| format!("dial tcp {place}: {}", http::reason(&error)));
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("invalid handler: no action".to_owned())
}
