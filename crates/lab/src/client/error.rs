//! What can go wrong between a client and the API server.

use serde_json::Value;

use super::BoxError;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused: the `Status` object it sent.
    #[error("{message}")]
    Status {
        /// HTTP status code.
        code: u16,
        /// `reason` of the Status, such as `NotFound`; empty where the answer was no Status.
        reason: String,
        /// The server's own words.
        message: String,
    },
    /// The server could not be reached: its process is starting, was killed, or is gone.
    #[error("cannot reach the lab's API server at {path}: {source}; is the lab up? (weft lab up)")]
    Connect {
        /// The unix socket.
        path: String,
        /// What the connection said.
        source: std::io::Error,
    },
    /// The connection broke under a request.
    #[error("the API server closed the connection: {0}")]
    Http(#[from] hyper::Error),
    /// The answer's body broke off.
    #[error("the API server's answer broke off: {0}")]
    Body(#[source] BoxError),
    /// The request could not be built, which means that a name in it is malformed.
    #[error("not a valid request: {0}")]
    Request(#[source] http::Error),
    /// The answer is not the JSON that was expected.
    #[error("unexpected answer from the API server: {0}")]
    Decode(#[source] serde_json::Error),
}

impl Error {
    /// Reads a Status object out of an error answer.
    pub(super) fn status(code: u16, body: &[u8]) -> Self {
        let status: Value = serde_json::from_slice(body).unwrap_or_default();
        let message = match status["message"].as_str() {
            Some(message) => message.to_owned(),
            None => format!("HTTP status {code}: {}", String::from_utf8_lossy(body).trim()),
        };
        Error::Status {
            code,
            reason: status["reason"].as_str().unwrap_or_default().to_owned(),
            message,
        }
    }

    /// The HTTP status code, where the server answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            Error::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The object does not exist (404).
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Somebody else wrote first, or the object exists already (409).
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// The resource version is too old to continue from (410).
    pub fn is_gone(&self) -> bool {
        self.code() == Some(410)
    }
}
