//! The networks that Services have their addresses from: the cluster's ServiceCIDRs.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::Api;
use kube::api::ListParams;

use crate::client::Client;
use crate::custom::WRITE_LIMIT;
use crate::error::Error;

/// Every ServiceCIDR's name and networks; none where the API server (before 1.33) does not know the kind.
pub async fn list(client: &Client) -> Result<Vec<(String, Vec<IpNet>)>, Error> {
    let api = Api::<ServiceCIDR>::all(client.kube.clone());
    let found = tokio::time::timeout(WRITE_LIMIT, api.list(&ListParams::default())).await;
    let found = match found.map_err(|_| client.silent("list ServiceCIDRs", WRITE_LIMIT))? {
        Ok(found) => found.items,
        Err(kube::Error::Api(status)) if status.code == 404 => vec![],
        Err(source) => return Err(client.failed("list ServiceCIDRs", source)),
    };
    let networks = |object: ServiceCIDR| {
        let cidrs = object.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
        let networks = cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect();
        (object.metadata.name.unwrap_or_default(), networks)
    };
    Ok(found.into_iter().map(networks).collect())
}
