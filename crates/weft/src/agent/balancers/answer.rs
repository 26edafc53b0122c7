//! The words of kube-proxy's health servers (`pkg/proxy/healthcheck`): status, headers and JSON.

use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::json;
use weft_model::compile::HealthCheck;

use super::NodeHealth;

/// An answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// `X-Load-Balancing-Endpoint-Weight`: how much of a Service's traffic this node can take, in endpoints.
    pub(super) weight: Option<usize>,
    pub(super) body: String,
}

fn status(well: bool) -> StatusCode {
    if well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// Whether to send a Service's traffic to this node. That the node is leaving is not asked here: its endpoints say when
/// they go.
pub(super) fn of_service(node: &NodeHealth, check: &HealthCheck) -> Answer {
    let HealthCheck {
        service,
        local_endpoints,
        ..
    } = check;
    let body = json!({
        "service": {"namespace": service.namespace, "name": service.name},
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": node.forwards(),
    });
    Answer {
        status: status(*local_endpoints > 0 && node.forwards()),
        weight: Some(*local_endpoints),
        body: body.to_string(),
    }
}

/// `/healthz`: whether to send new connections to this node. `/livez`: whether the agent works, so that nobody restarts
/// one because its node leaves (KEP-3836).
pub(super) fn of_node(node: &NodeHealth, path: &str) -> Answer {
    let well = match path {
        "/healthz" => node.forwards() && !node.leaving,
        "/livez" => node.lives(),
        _ => return nothing(),
    };
    let now = Timestamp::now();
    // What is well was looked at just now.
    let updated = if well { now } else { node.alive_at };
    let body = json!({
        "lastUpdated": text(updated),
        "currentTime": text(now),
        "nodeEligible": !node.leaving,
    });
    Answer {
        status: status(well),
        weight: None,
        body: body.to_string(),
    }
}

/// There is nothing of that name.
pub(super) fn nothing() -> Answer {
    Answer {
        status: StatusCode::NOT_FOUND,
        weight: None,
        body: json!({"error": "there are /healthz and /livez"}).to_string(),
    }
}

/// As Go writes a time.
fn text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S%.9f +0000 UTC").to_string()
}
