//! Reviews of who one is and what one may do. The lab has no RBAC: whoever is let in may do everything.

use http::{Method, Request, Response};
use serde_json::json;

use super::call::User;
use super::route::read;
use super::status::Status;
use super::{ApiServer, body, meta, respond};
use crate::client::Body;

/// The kind of review under this path, if it is one.
pub(super) fn kind(group: &str, segments: &[&str]) -> Option<&'static str> {
    let plural = match segments {
        ["namespaces", _, plural] | [plural] => *plural,
        _ => return None,
    };
    match (group, plural) {
        ("authentication.k8s.io", "selfsubjectreviews") => Some("SelfSubjectReview"),
        ("authentication.k8s.io", "tokenreviews") => Some("TokenReview"),
        ("authorization.k8s.io", "selfsubjectaccessreviews") => Some("SelfSubjectAccessReview"),
        ("authorization.k8s.io", "subjectaccessreviews") => Some("SubjectAccessReview"),
        ("authorization.k8s.io", "localsubjectaccessreviews") => Some("LocalSubjectAccessReview"),
        ("authorization.k8s.io", "selfsubjectrulesreviews") => Some("SelfSubjectRulesReview"),
        _ => None,
    }
}

impl ApiServer {
    /// Answers a review.
    pub(super) async fn review(&self, kind: &'static str, request: Request<Body>) -> Result<Response<Body>, Status> {
        if request.method() != Method::POST {
            return Err(Status::method_not_allowed());
        }
        let user = request.extensions().get::<User>().cloned().unwrap_or_else(User::admin);
        let (bytes, media_type) = read(request).await?;
        let mut review = if bytes.is_empty() {
            json!({})
        } else {
            body::parse(&bytes, &media_type)?
        };
        meta::of(&mut review);
        let status = match kind {
            "TokenReview" => self.tokens.review(review["spec"]["token"].as_str().unwrap_or_default()),
            "SelfSubjectReview" => json!({"userInfo": {"username": user.name, "groups": user.groups}}),
            "SelfSubjectRulesReview" => json!({
                "incomplete": false,
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            }),
            _ => json!({"allowed": true, "reason": "the lab has no RBAC"}),
        };
        review["kind"] = kind.into();
        review["status"] = status;
        Ok(respond::json_bytes(201, review.to_string()))
    }
}
