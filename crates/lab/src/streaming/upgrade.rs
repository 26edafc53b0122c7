//! From an HTTP request to a wire: WebSocket or SPDY/3.1, and which dialect of it both sides know.

use http::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::server::{Body, text};

const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// The two wires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    WebSocket,
    Spdy,
}

/// The dialects that one kind of stream has on each wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    pub(super) websocket: &'static [&'static str],
    pub(super) spdy: &'static [&'static str],
}

/// What both sides agreed on.
#[derive(Debug)]
pub(super) struct Agreement {
    pub(super) wire: Wire,
    /// Empty for a WebSocket client that named none.
    pub(super) protocol: &'static str,
    /// The answer that switches protocols.
    pub(super) response: Response<Body>,
}

/// Chooses the first of the client's dialects that this side knows.
pub(super) fn agree(headers: &HeaderMap, offer: Offer) -> Result<Agreement, Box<Response<Body>>> {
    let upgrades = listed(headers, &UPGRADE);
    let has = |name: &str| upgrades.iter().any(|upgrade| upgrade.eq_ignore_ascii_case(name));
    let connection = listed(headers, &CONNECTION);
    if !connection.iter().any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return refuse(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: missing upgrade headers in request",
        );
    }
    if has("websocket") {
        return websocket(headers, offer.websocket);
    }
    if has(SPDY) {
        return spdy(headers, offer.spdy);
    }
    let message = format!("unable to upgrade: only websocket and {SPDY} are spoken here, not {upgrades:?}");
    refuse(StatusCode::BAD_REQUEST, &message)
}

fn websocket(headers: &HeaderMap, known: &'static [&'static str]) -> Result<Agreement, Box<Response<Body>>> {
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return refuse(StatusCode::BAD_REQUEST, "unable to upgrade: missing Sec-WebSocket-Key");
    };
    let wanted = listed(headers, &SEC_WEBSOCKET_PROTOCOL);
    let protocol = match common(&wanted, known) {
        Some(protocol) => protocol,
        None if wanted.is_empty() => "",
        None => return refuse(StatusCode::BAD_REQUEST, &mismatch(&wanted, known)),
    };
    let mut response = switching("websocket");
    let accept = derive_accept_key(key.as_bytes());
    if let Ok(accept) = HeaderValue::try_from(accept) {
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if !protocol.is_empty() {
        let value = HeaderValue::from_static(protocol);
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    Ok(Agreement {
        wire: Wire::WebSocket,
        protocol,
        response,
    })
}

fn spdy(headers: &HeaderMap, known: &'static [&'static str]) -> Result<Agreement, Box<Response<Body>>> {
    let wanted = listed(headers, &STREAM_PROTOCOL);
    let Some(protocol) = common(&wanted, known) else {
        let mut response = text(StatusCode::FORBIDDEN, mismatch(&wanted, known));
        for name in known {
            let value = HeaderValue::from_static(name);
            response.headers_mut().append(ACCEPTED_PROTOCOLS, value);
        }
        return Err(Box::new(response));
    };
    let mut response = switching(SPDY);
    let value = HeaderValue::from_static(protocol);
    response.headers_mut().insert(STREAM_PROTOCOL, value);
    Ok(Agreement {
        wire: Wire::Spdy,
        protocol,
        response,
    })
}

fn common(wanted: &[String], known: &'static [&'static str]) -> Option<&'static str> {
    let mut both = wanted
        .iter()
        .filter_map(|name| known.iter().find(|known| *known == name));
    both.next().copied()
}

fn mismatch(wanted: &[String], known: &[&str]) -> String {
    format!("unable to upgrade: unable to negotiate protocol: client supports {wanted:?}, server accepts {known:?}")
}

fn refuse(status: StatusCode, message: &str) -> Result<Agreement, Box<Response<Body>>> {
    Err(Box::new(text(status, message.to_owned())))
}

fn switching(to: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(to));
    response
}

/// The values of a header, however they are spread over lines and commas.
fn listed(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let values = lines.flat_map(|line| line.split(',')).map(str::trim);
    values.filter(|value| !value.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::{Offer, Wire, agree};

    const OFFER: Offer = Offer {
        websocket: &["v4", "v5"],
        spdy: &["v4"],
    };

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn takes_the_first_dialect_of_the_client_that_is_known() {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let socket = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"), key];
        let mut asked = socket.to_vec();
        asked.push(("sec-websocket-protocol", "v9, v5,v4"));
        let agreed = agree(&headers(&asked), OFFER).unwrap();
        assert_eq!((agreed.wire, agreed.protocol), (Wire::WebSocket, "v5"));
        assert_eq!(
            agreed.response.headers()["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(agree(&headers(&socket), OFFER).unwrap().protocol, "");
        asked[3].1 = "v9";
        assert_eq!(agree(&headers(&asked), OFFER).unwrap_err().status(), 400);
    }

    #[test]
    fn tells_a_spdy_client_what_is_known() {
        let pairs = [
            ("connection", "upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v9"),
        ];
        let refused = agree(&headers(&pairs), OFFER).unwrap_err();
        assert_eq!(refused.status(), 403);
        assert_eq!(refused.headers()["x-accepted-stream-protocol-versions"], "v4");
        assert_eq!(agree(&headers(&pairs[..2]), OFFER).unwrap_err().status(), 403);
        assert_eq!(agree(&headers(&pairs[1..]), OFFER).unwrap_err().status(), 400);
    }
}
