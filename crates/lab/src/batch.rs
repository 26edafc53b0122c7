//! Many questions asked at once from one place: what tests of a whole table of behaviours need, where a process for each
//! question would take longer than all the answers.

use std::io::ErrorKind;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};

use crate::ask::{self, Error};

/// One question.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Question {
    /// How it is asked.
    pub by: By,
    /// Whom: host:port, or a URL over HTTP.
    pub address: String,
    /// Port to ask from, over UDP; any where absent.
    #[serde(default)]
    pub from_port: u16,
    /// Bytes of the question, over UDP; more than the way takes in one packet is sent in fragments.
    #[serde(default)]
    pub size: usize,
    /// How long to wait, in milliseconds.
    pub patience_ms: u64,
}

/// How something is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// A line on a connection of its own.
    Tcp,
    /// A datagram.
    Udp,
    /// A request on a connection of its own.
    Http,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// This was said.
    Answer(String),
    /// At once: nobody listens there.
    Refused(String),
    /// Nothing came.
    Silence(String),
    /// Something else went wrong.
    Failed(String),
}

/// Asks all of them at the same time; the outcomes in the order of the questions.
pub async fn batch(questions: &[Question]) -> Vec<Outcome> {
    join_all(questions.iter().map(one)).await
}

async fn one(question: &Question) -> Outcome {
    let Question {
        by,
        address,
        from_port,
        size,
        patience_ms,
    } = question;
    let patience = Duration::from_millis(*patience_ms);
    let answer = match by {
        By::Tcp => ask::tcp(address, patience).await,
        By::Udp => ask::udp(address, *from_port, *size, patience).await,
        By::Http => ask::http(address, patience).await,
    };
    match answer {
        Ok(answer) => Outcome::Answer(answer.trim_end().to_owned()),
        Err(error) => match &error {
            Error::Silence { .. } => Outcome::Silence(error.to_string()),
            Error::Io { source, .. } if source.kind() == ErrorKind::ConnectionRefused => {
                Outcome::Refused(error.to_string())
            }
            _ => Outcome::Failed(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_has_its_outcome() {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let question = |by, address: String| Question {
            by,
            address,
            from_port: 0,
            size: 0,
            patience_ms: 300,
        };
        let questions = [
            question(By::Udp, silent.local_addr().unwrap().to_string()),
            question(By::Tcp, closed.to_string()),
            question(By::Http, "no address".into()),
        ];
        let outcomes = batch(&questions).await;
        assert!(matches!(outcomes[0], Outcome::Silence(_)), "{outcomes:?}");
        assert!(matches!(outcomes[1], Outcome::Refused(_)), "{outcomes:?}");
        assert!(matches!(outcomes[2], Outcome::Failed(_)), "{outcomes:?}");
    }
}
