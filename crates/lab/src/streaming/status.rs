//! How a command ended, as its client wants to hear it.

use bytes::Bytes;
use serde_json::json;

/// What the error stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusFormat {
    /// Text, and only of a failure (before v4).
    Text,
    /// A `Status` object in JSON (from v4 on).
    Json,
}

impl StatusFormat {
    pub(super) fn of(protocol: &str) -> Self {
        let json = protocol.starts_with("v4.") || protocol.starts_with("v5.");
        if json { Self::Json } else { Self::Text }
    }

    /// How it ended, or nothing to say.
    pub(super) fn encode(self, ended: &Result<i32, String>) -> Option<Bytes> {
        let (text, status) = match ended {
            Ok(0) => (None, json!({"metadata": {}, "status": "Success"})),
            Ok(code) => {
                let message = format!("command terminated with non-zero exit code: exit status {code}");
                let status = json!({
                    "metadata": {},
                    "status": "Failure",
                    "message": message,
                    "reason": "NonZeroExitCode",
                    "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
                });
                (Some(message), status)
            }
            Err(cause) => {
                let message = format!("Internal error occurred: {cause}");
                let status = json!({
                    "metadata": {},
                    "status": "Failure",
                    "message": message,
                    "reason": "InternalError",
                    "details": {"causes": [{"message": cause}]},
                    "code": 500,
                });
                (Some(message), status)
            }
        };
        match self {
            Self::Json => Some(status.to_string().into()),
            Self::Text => text.map(Bytes::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::StatusFormat;

    #[test]
    fn an_exit_code_travels_as_its_cause() {
        let bytes = StatusFormat::of("v4.channel.k8s.io").encode(&Ok(7)).unwrap();
        let status: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "7");
        assert_eq!(StatusFormat::of("channel.k8s.io").encode(&Ok(0)), None);
    }
}
