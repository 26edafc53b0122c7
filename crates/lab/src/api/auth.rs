//! Bearer tokens: service account tokens, signed with the lab's own key.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::call::User;

/// Who issues the tokens, and whom they are for unless something else is asked.
pub(super) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What a token says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    pub(super) sub: String,
    pub(super) aud: Vec<String>,
    pub(super) iat: i64,
    pub(super) nbf: i64,
    pub(super) exp: i64,
    pub(super) jti: String,
    #[serde(rename = "kubernetes.io", default)]
    pub(super) kubernetes: Value,
}

/// Knows the key that tokens are made and checked with.
pub(super) struct Authenticator {
    sign: EncodingKey,
    verify: DecodingKey,
}

impl Authenticator {
    pub(super) fn new(key: &[u8]) -> Self {
        Self {
            sign: EncodingKey::from_secret(key),
            verify: DecodingKey::from_secret(key),
        }
    }

    /// A signed token.
    pub(super) fn issue(&self, claims: &Claims) -> Option<String> {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &self.sign).ok()
    }

    /// What a valid token says.
    pub(super) fn claims(&self, token: &str) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_aud = false;
        validation.set_issuer(&[ISSUER]);
        Some(
            jsonwebtoken::decode::<Claims>(token, &self.verify, &validation)
                .ok()?
                .claims,
        )
    }

    /// Whose token it is.
    pub(super) fn user(&self, token: &str) -> Option<User> {
        let name = self.claims(token)?.sub;
        let namespace = name.strip_prefix("system:serviceaccount:")?.split(':').next()?;
        let groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ];
        Some(User { name, groups })
    }

    /// The `status` of a TokenReview.
    pub(super) fn review(&self, token: &str) -> Value {
        match self.user(token) {
            Some(user) => {
                json!({"authenticated": true, "user": {"username": user.name, "groups": user.groups}})
            }
            None => json!({"authenticated": false, "error": "the token is not one of this cluster, or has expired"}),
        }
    }
}
