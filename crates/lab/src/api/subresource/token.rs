//! `serviceaccounts/token`: signed tokens for pods and people.

use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::auth::{Claims, ISSUER};
use super::super::call::Call;
use super::super::status::{FieldError, Status};
use super::super::{ApiServer, meta, respond};
use super::metadata;
use crate::client::Body;

const DEFAULT_SECONDS: i64 = 3600;
const FEWEST_SECONDS: i64 = 600;
const MOST_SECONDS: i64 = 1 << 32;

impl ApiServer {
    /// Issues the token that a TokenRequest asks for.
    pub(super) fn token(&self, call: &Call, mut request: Value) -> Result<Response<Body>, Status> {
        let name = call.target.name()?;
        let resource = &call.target.resource;
        let account = self
            .store
            .get(&call.target.key(name))
            .ok_or_else(|| Status::not_found(resource, name))?;
        if !request["spec"].is_object() {
            return Err(Status::bad_request("the body is not a TokenRequest with a spec"));
        }
        let spec = &request["spec"];
        let seconds = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
        if !(FEWEST_SECONDS..=MOST_SECONDS).contains(&seconds) {
            let detail = "may not specify a duration less than 10 minutes or larger than 2^32 seconds";
            let error = FieldError::invalid("spec.expirationSeconds", &seconds.into(), detail);
            return Err(Status::invalid(resource, name, &[error]));
        }
        let asked = spec["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        let mut audiences: Vec<String> = asked.map(str::to_owned).collect();
        if audiences.is_empty() {
            audiences.push(ISSUER.to_owned());
        }
        let namespace = call.target.namespace.clone().unwrap_or_default();
        let uid = &account.value["metadata"]["uid"];
        let mut about = json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}});
        let bound = &spec["boundObjectRef"];
        if let Some(kind) = bound["kind"].as_str() {
            about[kind.to_lowercase()] = json!({"name": bound["name"], "uid": bound["uid"]});
        }
        let now = Timestamp::now();
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            aud: audiences.clone(),
            iat: now.as_second(),
            nbf: now.as_second(),
            exp: now.as_second() + seconds,
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes: about,
        };
        let token = self
            .tokens
            .issue(&claims)
            .ok_or_else(|| Status::internal("the token cannot be signed"))?;
        let expiry = Timestamp::from_second(claims.exp).map_err(|error| Status::internal(error.to_string()))?;
        request["kind"] = "TokenRequest".into();
        request["apiVersion"] = "authentication.k8s.io/v1".into();
        request["metadata"] = metadata(&account.value);
        request["spec"]["audiences"] = audiences.into();
        request["spec"]["expirationSeconds"] = seconds.into();
        request["status"] = json!({"token": token, "expirationTimestamp": meta::time(expiry)});
        Ok(respond::value(201, call.accept, &request))
    }
}
