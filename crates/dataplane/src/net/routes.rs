//! Routes to the pods of other nodes, and what becomes of this node's unused pod addresses.

use weft_model::compile::{NextHop, Routes};
use weft_model::desired::{self, Step};

use super::rtnl::Route;
use super::{NetError, Rtnl};

/// A route that could not be put in place or removed.
#[derive(Debug)]
pub struct Failed {
    /// Its destination.
    pub to: ipnet::IpNet,
    /// Why not.
    pub error: NetError,
}

/// Takes the kernel's routes to what is wanted: the difference over the union of both, so that what is only in the
/// kernel goes. A route that fails does not stop the others. Returns what failed and how many steps were taken.
///
/// Only routes of ours with a gateway, or to nowhere, are looked at: the others are the pods'.
pub async fn reconcile(rtnl: &Rtnl, wanted: &Routes) -> Result<(Vec<Failed>, usize), NetError> {
    let routes = rtnl.routes().await?;
    let actual: Routes = routes
        .into_iter()
        .filter(|route| route.ours)
        .filter_map(|route| Some((route.to, next_hop(&route)?)))
        .collect();
    let steps = desired::steps(wanted, &actual);
    let count = steps.len();
    Ok((apply(rtnl, steps).await, count))
}

/// Takes these steps.
pub async fn apply(rtnl: &Rtnl, steps: Vec<Step<ipnet::IpNet, NextHop>>) -> Vec<Failed> {
    let mut failed = vec![];
    for step in steps {
        let (to, result) = match step {
            Step::Put(to, hop) => {
                let route = match hop {
                    NextHop::Via(via) => Route {
                        via: Some(via),
                        ..Route::ours(to)
                    },
                    NextHop::Unreachable => Route {
                        unreachable: true,
                        ..Route::ours(to)
                    },
                };
                (to, rtnl.put_route(&route).await)
            }
            Step::Remove(to) => (to, rtnl.remove_route(to).await.map(drop)),
        };
        failed.extend(result.err().map(|error| Failed { to, error }));
    }
    failed
}

fn next_hop(route: &Route) -> Option<NextHop> {
    if route.unreachable {
        return Some(NextHop::Unreachable);
    }
    route.via.map(NextHop::Via)
}
