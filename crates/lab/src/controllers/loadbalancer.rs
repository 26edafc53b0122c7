//! What a cloud does for a Service of type LoadBalancer: an address of each of its families, in `status.loadBalancer`.
//! The lab's router brings there what is sent to it (`up::balancer`).

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::context::Context;
use super::error::Error;
use super::kinds;
use super::object::{Key, annotation, deleting, list, text};
use super::queue::{Queue, Reconcile, work};
use crate::events::Recorder;
use crate::families::Families;

/// The class whose Services have their addresses from here, as do those without one.
const CLASS: &str = "weft.dev/lab";
/// On a Service: `Proxy` for a balancer that ends connections and makes its own to the node ports (KEP-1860).
const MODE: &str = "weft.dev/lab-ip-mode";
/// So many Services of each family have an address.
const MOST: u8 = 254;

/// The ranges of the addresses, the primary family's first: TEST-NET-3 (RFC 5737), and a part of RFC 3849's that is not
/// the internet server's.
pub fn load_balancer_ranges(families: Families) -> Vec<IpNet> {
    families.pick(
        IpNet::new_assert(Ipv4Addr::new(203, 0, 113, 0).into(), 24),
        IpNet::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0).into(), 120),
    )
}

pub(crate) struct LoadBalancers {
    ctx: Context,
    events: Recorder,
}

pub(crate) async fn run(ctx: Context) {
    let queue = Arc::new(Queue::default());
    ctx.enqueue(&kinds::SERVICES, &queue);
    ctx.synced(&[&kinds::SERVICES]).await;
    let events = ctx.recorder("lab-load-balancer");
    // One worker: two that choose at once could choose the same.
    work(Arc::new(LoadBalancers { ctx, events }), queue, 1).await;
}

impl Reconcile for LoadBalancers {
    fn name(&self) -> &'static str {
        "loadbalancer"
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let cache = self.ctx.cache(&kinds::SERVICES);
        let Some(service) = cache.get(key).filter(|service| !deleting(service)) else {
            return Ok(None);
        };
        if !is_ours(&service) {
            // What a Service had as a load balancer goes with the type; another class is another's business.
            if text(&service, "/spec/type") != "LoadBalancer" && !ingress(&service).is_empty() {
                self.write(&service, Value::Null).await?;
            }
            return Ok(None);
        }
        let all = cache.all();
        let others = all.iter().filter(|other| Key::of(other) != *key);
        let taken: HashSet<IpAddr> = others.flat_map(|other| addresses(other)).collect();
        let Some(wanted) = choose(&service, &taken) else {
            let ranges: Vec<String> = load_balancer_ranges(Families::Dual)
                .iter()
                .map(IpNet::to_string)
                .collect();
            let message = format!(
                "no address of {} is left that fits; delete another Service of type LoadBalancer, or ask for another loadBalancerIP",
                ranges.join(" and ")
            );
            self.events.warning(&service, "SyncLoadBalancerFailed", &message);
            return Err(Error::NotYet(message));
        };
        let mode = annotation(&service, MODE)
            .filter(|mode| *mode == "Proxy")
            .unwrap_or("VIP");
        let wanted: Vec<Value> = wanted.iter().map(|ip| json!({"ip": ip, "ipMode": mode})).collect();
        if ingress(&service) != wanted.as_slice() {
            self.write(&service, wanted.into()).await?;
        }
        Ok(None)
    }
}

impl LoadBalancers {
    async fn write(&self, service: &Value, ingress: Value) -> Result<(), Error> {
        let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        let patched = self
            .ctx
            .patch_part(&kinds::SERVICES, service, Some("status"), patch)
            .await;
        patched.map(drop).map_err(Error::from)
    }
}

fn is_ours(service: &Value) -> bool {
    let class = text(service, "/spec/loadBalancerClass");
    text(service, "/spec/type") == "LoadBalancer" && (class.is_empty() || class == CLASS)
}

fn ingress(service: &Value) -> &[Value] {
    list(service, "/status/loadBalancer/ingress")
}

fn addresses(service: &Value) -> Vec<IpAddr> {
    let all = ingress(service).iter();
    all.filter_map(|entry| entry["ip"].as_str()?.parse().ok()).collect()
}

/// An address of each of the Service's families: the one that it has, the one that it asks for, or the first that is free.
fn choose(service: &Value, taken: &HashSet<IpAddr>) -> Option<Vec<IpAddr>> {
    let families = list(service, "/spec/ipFamilies").iter();
    let asked = text(service, "/spec/loadBalancerIP").parse::<IpAddr>().ok();
    let had = addresses(service);
    let ranges = families.filter_map(|family| {
        let ranges = load_balancer_ranges(Families::Dual);
        ranges
            .into_iter()
            .find(|range| range.addr().is_ipv4() == (family == "IPv4"))
    });
    let mut chosen = Vec::new();
    for range in ranges {
        let free = |ip: &IpAddr| range.contains(ip) && !taken.contains(ip);
        let any = asked.is_none_or(|asked| asked.is_ipv4() != range.addr().is_ipv4());
        let wishes = asked.into_iter().chain(had.iter().copied().filter(|_| any));
        let first = || (1..=MOST).filter(|_| any).map(|n| nth(range, n)).find(free);
        chosen.push(wishes.into_iter().find(free).or_else(first)?);
    }
    Some(chosen)
}

fn nth(range: IpNet, n: u8) -> IpAddr {
    match range.network() {
        IpAddr::V4(network) => Ipv4Addr::from(u32::from(network) + u32::from(n)).into(),
        IpAddr::V6(network) => Ipv6Addr::from(u128::from(network) + u128::from(n)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(extra: Value) -> Value {
        let mut service = json!({"spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4", "IPv6"]}});
        json_patch::merge(&mut service, &extra);
        service
    }

    fn texts(chosen: Option<Vec<IpAddr>>) -> Vec<String> {
        chosen.into_iter().flatten().map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn an_address_of_each_family_that_nobody_has() {
        let taken = HashSet::from(["203.0.113.1".parse().unwrap()]);
        assert_eq!(
            texts(choose(&service(json!({})), &taken)),
            ["203.0.113.2", "2001:db8:0:1::1"]
        );
        let had = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}});
        assert_eq!(texts(choose(&service(had), &taken)), ["203.0.113.9", "2001:db8:0:1::1"]);
    }

    #[test]
    fn the_address_that_is_asked_for_or_none() {
        let asked = json!({"spec": {"loadBalancerIP": "203.0.113.7", "ipFamilies": ["IPv4"]}});
        assert_eq!(texts(choose(&service(asked.clone()), &HashSet::new())), ["203.0.113.7"]);
        let taken = HashSet::from(["203.0.113.7".parse().unwrap()]);
        assert_eq!(choose(&service(asked), &taken), None);
        let elsewhere = json!({"spec": {"loadBalancerIP": "192.0.2.1"}});
        assert_eq!(choose(&service(elsewhere), &HashSet::new()), None);
    }

    #[test]
    fn another_class_is_anothers_business() {
        assert!(is_ours(&service(json!({}))));
        assert!(is_ours(&service(json!({"spec": {"loadBalancerClass": CLASS}}))));
        assert!(!is_ours(&service(
            json!({"spec": {"loadBalancerClass": "example.org/lb"}})
        )));
        assert!(!is_ours(&service(json!({"spec": {"type": "NodePort"}}))));
    }
}
