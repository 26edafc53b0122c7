//! What STATUS says: whether ADD could be served now, and whether the pods that are there are hurt, too.

use std::time::Duration;

use weft_model::cni::{CniError, code};

use super::node::{Node, Progress};

/// How long STATUS waits for an agent that has just started to hear from the API server.
const PATIENCE: Duration = Duration::from_secs(2);

impl Node {
    /// Code 50 where no pod can be added, 51 where besides that the network of those that are there has gaps.
    pub(super) async fn status(&self) -> Result<(), CniError> {
        let mut ready = self.ready.subscribe();
        let settled = ready.wait_for(|ready| ready.synced && ready.has_addresses);
        // What it lacks after that, it says below.
        let _ = tokio::time::timeout(PATIENCE.min(self.patience), settled).await;
        let hurt = self.hurt().await;
        let Some(details) = self.unable().or_else(|| hurt.no_uplink.clone()) else {
            return Ok(());
        };
        let msg = "pods cannot be added on this node";
        Err(match hurt.gaps {
            None => CniError::new(code::NOT_AVAILABLE, msg, details),
            Some(gaps) => CniError::new(
                code::LIMITED,
                format!("{msg}, and those that are here may not reach everything"),
                format!("{details}; {gaps}"),
            ),
        })
    }

    /// Why ADD cannot be served.
    fn unable(&self) -> Option<String> {
        let ready = self.ready.borrow().clone();
        if !ready.synced {
            return Some("the API server has not been heard from yet".into());
        }
        if !ready.has_addresses {
            return Some(format!(
                "node {} has no pod CIDR, and there is no IPPool for it",
                self.name
            ));
        }
        let full = self
            .ipam()
            .usage()
            .into_iter()
            .find(|usage| usage.used >= usage.capacity)?;
        Some(format!("pod CIDR {} is full ({} addresses)", full.cidr, full.capacity))
    }

    async fn hurt(&self) -> Hurt {
        let no_uplink = match self.has_uplink().await {
            Ok(true) => None,
            Ok(false) => Some("this node has neither one of its addresses nor a default route".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        let gaps = gaps(&self.progress()).or_else(|| no_uplink.clone());
        Hurt { no_uplink, gaps }
    }
}

/// What is wrong besides that no pod can be added, or why none can.
struct Hurt {
    no_uplink: Option<String>,
    gaps: Option<String>,
}

/// What pods of this node cannot reach, the first of each kind.
fn gaps(progress: &Progress) -> Option<String> {
    let route = progress.route_errors.iter().next();
    let route = route.map(|(to, why)| format!("pods in {to} are not reached: {why}"));
    let service = progress.service_errors.iter().next();
    let service = service.map(|(name, why)| format!("service {name}: {why}"));
    let found: Vec<String> = route
        .into_iter()
        .chain(service)
        .chain(progress.masquerade_error.clone())
        .collect();
    (!found.is_empty()).then(|| found.join("; "))
}
