//! The files of volumes that show objects of the API: ConfigMaps, Secrets, the downward API, service account tokens.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection, Volume,
};
use serde_json::json;
use tokio::time::Instant;

use super::atomic::{File, check_path};
use super::{Node, RenewAt};
use crate::client::{self, Res};

/// The files of one volume.
#[derive(Default)]
pub(super) struct Payload {
    pub(super) files: BTreeMap<String, File>,
    pub(super) renew: RenewAt,
}

/// The mode of files where the volume says nothing.
const DEFAULT_MODE: i32 = 0o644;

/// Fetches what a volume shows.
pub(super) async fn gather(node: &Node, pod: &Pod, volume: &Volume) -> Result<Payload, String> {
    let mut gatherer = Gatherer {
        node,
        pod,
        namespace: pod.metadata.namespace.as_deref().unwrap_or_default(),
        mode: DEFAULT_MODE,
        payload: Payload::default(),
    };
    if let Some(source) = &volume.config_map {
        gatherer.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        gatherer
            .config_map(&source.name, source.items.as_deref(), source.optional)
            .await?;
    } else if let Some(source) = &volume.secret {
        gatherer.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        gatherer.secret(name, source.items.as_deref(), source.optional).await?;
    } else if let Some(source) = &volume.downward_api {
        gatherer.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        gatherer.downward(source.items.as_deref())?;
    } else if let Some(projected) = &volume.projected {
        gatherer.mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
        for source in projected.sources.iter().flatten() {
            if let Some(source) = &source.config_map {
                gatherer
                    .config_map(&source.name, source.items.as_deref(), source.optional)
                    .await?;
            }
            if let Some(source) = &source.secret {
                gatherer
                    .secret(&source.name, source.items.as_deref(), source.optional)
                    .await?;
            }
            if let Some(source) = &source.downward_api {
                gatherer.downward(source.items.as_deref())?;
            }
            if let Some(source) = &source.service_account_token {
                gatherer.token(source).await?;
            }
            if source.cluster_trust_bundle.is_some() {
                return Err("projected source clusterTrustBundle is not supported by a lab".to_owned());
            }
        }
    } else {
        return Err(unsupported(volume));
    }
    Ok(gatherer.payload)
}

/// Says what kind of volume it is and which would work.
fn unsupported(volume: &Volume) -> String {
    let kind = serde_json::to_value(volume).ok().and_then(|volume| {
        let mut keys = volume.as_object()?.keys().filter(|key| *key != "name");
        keys.next().cloned()
    });
    if let Some(claim) = &volume.persistent_volume_claim {
        return format!(
            "persistentvolumeclaim \"{}\": no volume plugin matched; a lab has no persistent volumes, use hostPath or emptyDir",
            claim.claim_name
        );
    }
    format!(
        "no volume plugin matched {}; a lab offers emptyDir, configMap, secret, downwardAPI, projected and hostPath",
        kind.as_deref().unwrap_or("an unknown volume type")
    )
}

struct Gatherer<'a> {
    node: &'a Node,
    pod: &'a Pod,
    namespace: &'a str,
    mode: i32,
    payload: Payload,
}

impl Gatherer<'_> {
    async fn get<T: serde::de::DeserializeOwned>(
        &self,
        kind: &str,
        plural: &'static str,
        name: &str,
    ) -> Result<Option<T>, String> {
        match self
            .node
            .client
            .get(&Res::new("", "v1", plural), self.namespace, name)
            .await
        {
            Ok(object) => client::decode(object).map(Some).map_err(|error| error.to_string()),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(format!("failed to fetch {kind} \"{name}\": {error}")),
        }
    }

    async fn config_map(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
    ) -> Result<(), String> {
        let Some(found) = self.get::<ConfigMap>("configmap", "configmaps", name).await? else {
            return absent("configmap", name, optional);
        };
        let text = found
            .data
            .into_iter()
            .flatten()
            .map(|(key, value)| (key, value.into_bytes()));
        let binary = found
            .binary_data
            .into_iter()
            .flatten()
            .map(|(key, value)| (key, value.0));
        self.select("configmap", name, text.chain(binary).collect(), items, optional)
    }

    async fn secret(&mut self, name: &str, items: Option<&[KeyToPath]>, optional: Option<bool>) -> Result<(), String> {
        let Some(found) = self.get::<Secret>("secret", "secrets", name).await? else {
            return absent("secret", name, optional);
        };
        let data = found
            .data
            .into_iter()
            .flatten()
            .map(|(key, value)| (key, value.0))
            .collect();
        self.select("secret", name, data, items, optional)
    }

    fn select(
        &mut self,
        kind: &str,
        name: &str,
        mut data: BTreeMap<String, Vec<u8>>,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
    ) -> Result<(), String> {
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, content) in data {
                self.put(&key, content, None)?;
            }
            return Ok(());
        };
        for item in items {
            match data.remove(&item.key) {
                Some(content) => self.put(&item.path, content, item.mode)?,
                None if optional == Some(true) => {}
                None => {
                    return Err(format!(
                        "references non-existent {kind} key: {} (in \"{name}\")",
                        item.key
                    ));
                }
            }
        }
        Ok(())
    }

    fn downward(&mut self, items: Option<&[DownwardAPIVolumeFile]>) -> Result<(), String> {
        for item in items.into_iter().flatten() {
            let downward = self.node.downward(self.pod, &[]);
            let text = if let Some(field) = &item.field_ref {
                downward.field(&field.field_path)?
            } else if let Some(resource) = &item.resource_field_ref {
                let first = self.pod.spec.as_ref().and_then(|spec| spec.containers.first());
                downward.resource(first.ok_or("the pod has no container")?, resource)?
            } else {
                return Err(format!("downwardAPI item {} has no source", item.path));
            };
            self.put(&item.path, text.into_bytes(), item.mode)?;
        }
        Ok(())
    }

    async fn token(&mut self, source: &ServiceAccountTokenProjection) -> Result<(), String> {
        let lifetime = source.expiration_seconds.unwrap_or(3600).max(600);
        let metadata = &self.pod.metadata;
        let account = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.as_deref())
            .unwrap_or("default");
        let audiences: Vec<_> = source.audience.iter().filter(|audience| !audience.is_empty()).collect();
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "metadata": {"name": account, "namespace": self.namespace},
            "spec": {"expirationSeconds": lifetime, "audiences": audiences,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": metadata.name, "uid": metadata.uid}}});
        let accounts = Res::new("", "v1", "serviceaccounts");
        let answer = self
            .node
            .client
            .create_subresource(&accounts, self.namespace, account, "token", &request)
            .await;
        let answer = answer.map_err(|error| format!("failed to fetch token: {error}"))?;
        let token = answer["status"]["token"]
            .as_str()
            .ok_or("failed to fetch token: the answer has none")?;
        self.put(&source.path, token.as_bytes().to_vec(), None)?;
        // As a kubelet does: a fifth before the end there is a new one.
        let next = Instant::now() + Duration::from_secs(u64::try_from(lifetime).unwrap_or(3600) * 4 / 5);
        self.payload.renew = Some(self.payload.renew.map_or(next, |before| before.min(next)));
        Ok(())
    }

    fn put(&mut self, path: &str, content: Vec<u8>, mode: Option<i32>) -> Result<(), String> {
        check_path(path)?;
        let mode = u32::try_from(mode.unwrap_or(self.mode)).unwrap_or(0o644) & 0o777;
        self.payload.files.insert(path.to_owned(), (content, mode));
        Ok(())
    }
}

fn absent(kind: &str, name: &str, optional: Option<bool>) -> Result<(), String> {
    match optional {
        Some(true) => Ok(()),
        _ => Err(format!("{kind} \"{name}\" not found")),
    }
}
