//! What the API serves: the kinds that come and go with their definitions, for those who clean up after every kind.

use serde_json::Value;

use crate::client::{Client, Error, Res};

/// One served resource.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) res: Res,
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
}

/// What is served, as far as could be found out.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) served: Vec<Served>,
    /// Groups that did not answer, and why.
    pub(crate) failed: Vec<(String, Error)>,
}

/// Every resource that can be listed and deleted, each in the preferred version of its group. A group that does not
/// answer does not hide the others.
pub(crate) async fn found(client: &Client) -> Result<Found, Error> {
    let groups = get(client, "/apis").await?;
    let groups = groups["groups"].as_array().into_iter().flatten().filter_map(|group| {
        let version = group["preferredVersion"]["version"].as_str()?;
        // A second face of what the core group has.
        let name = group["name"].as_str().filter(|name| *name != "events.k8s.io")?;
        Some((name, version))
    });
    let mut found = Found::default();
    for (group, version) in [("", "v1")].into_iter().chain(groups) {
        match resources(client, group, version).await {
            Ok(resources) => found.served.extend(resources),
            Err(error) => found.failed.push((group.to_owned(), error)),
        }
    }
    Ok(found)
}

async fn resources(client: &Client, group: &str, version: &str) -> Result<Vec<Served>, Error> {
    let path = match group {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    };
    let list = match get(client, &path).await {
        // It went while we were looking.
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        list => list?,
    };
    let resources = list["resources"].as_array().into_iter().flatten();
    let served = resources.filter_map(|resource| {
        let plural = resource["name"].as_str().filter(|name| !name.contains('/'))?;
        let can = |verb: &str| {
            resource["verbs"]
                .as_array()
                .is_some_and(|verbs| verbs.iter().any(|v| v == verb))
        };
        (can("list") && can("watch") && can("delete")).then(|| Served {
            res: Res::dynamic(group, version, plural),
            group: group.to_owned(),
            kind: resource["kind"].as_str().unwrap_or_default().to_owned(),
            namespaced: resource["namespaced"] == true,
        })
    });
    Ok(served.collect())
}

async fn get(client: &Client, path: &str) -> Result<Value, Error> {
    let bytes = client.raw(path).await?;
    serde_json::from_slice(&bytes).map_err(Error::Decode)
}
