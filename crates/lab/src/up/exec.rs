//! Runs a command in a container as `kubectl exec` does, over the API server's WebSocket.

use futures::StreamExt as _;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use super::{Error, Lab};

/// What a command said.
pub(super) struct Output {
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// Exit code 0.
    pub(super) success: bool,
}

/// Channels of `v5.channel.k8s.io`: the first byte of each message.
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;

/// Runs a command in a container and waits for its end.
pub(super) async fn exec(lab: &Lab, pod: (&str, &str), container: &str, command: &[&str]) -> Result<Output, Error> {
    let (namespace, name) = pod;
    let fail = |reason: String| Error::Exec {
        pod: format!("{namespace}/{name}"),
        reason,
    };
    let args: String = command
        .iter()
        .map(|word| format!("&command={}", crate::client::percent(word)))
        .collect();
    let uri = format!(
        "ws://lab/api/v1/namespaces/{namespace}/pods/{name}/exec?container={container}&stdout=true&stderr=true{args}"
    );
    let mut request = uri.into_client_request().map_err(|error| fail(error.to_string()))?;
    request
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", HeaderValue::from_static("v5.channel.k8s.io"));
    let socket = lab.api_socket();
    let stream = UnixStream::connect(&socket)
        .await
        .map_err(Error::io("connect to", &socket))?;
    let connected = tokio_tungstenite::client_async(request, stream).await;
    let (mut messages, _) = connected.map_err(|error| fail(error.to_string()))?;

    let mut output = Output {
        stdout: String::new(),
        stderr: String::new(),
        success: false,
    };
    while let Some(message) = messages.next().await {
        let Message::Binary(bytes) = message.map_err(|error| fail(error.to_string()))? else {
            continue;
        };
        let Some((channel, data)) = bytes.split_first() else {
            continue;
        };
        match *channel {
            STDOUT => output.stdout.push_str(&String::from_utf8_lossy(data)),
            STDERR => output.stderr.push_str(&String::from_utf8_lossy(data)),
            STATUS => {
                let status: Value = serde_json::from_slice(data).unwrap_or_default();
                output.success = status["status"] == "Success";
                return Ok(output);
            }
            _ => {}
        }
    }
    Err(fail("the connection ended before the command did".to_owned()))
}
