//! One connection, held: a line out and an answer back, again and again. What tests watch while something else is
//! being killed: unlike a load of new connections, it cannot be made good by trying again.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Between two lines.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two attempts to connect, while there is no server yet.
const AGAIN: Duration = Duration::from_millis(200);
/// A connection on which nothing comes back for so long is broken.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often is said how far it has come.
const SAY: Duration = Duration::from_secs(1);

/// The connection broke.
#[derive(Debug, thiserror::Error)]
#[error("the connection to {address} broke after {exchanges} exchanges: {why}")]
pub struct Broken {
    /// Where it led.
    pub address: String,
    /// How many lines had been answered.
    pub exchanges: u64,
    /// What was seen.
    pub why: String,
}

/// Connects, as soon as there is a server, and talks until the connection breaks. `say` is told now and then how many
/// lines have been answered.
pub async fn hold(address: &str, mut say: impl FnMut(u64)) -> Result<Infallible, Broken> {
    let stream = loop {
        match TcpStream::connect(address).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    };
    let mut stream = BufReader::new(stream);
    let (mut exchanges, mut said) = (0, Instant::now());
    loop {
        match tokio::time::timeout(PATIENCE, exchange(&mut stream)).await {
            Ok(Ok(())) => exchanges += 1,
            broken => {
                let why = match broken {
                    Ok(Err(error)) => error.to_string(),
                    _ => format!("no answer for {} s", PATIENCE.as_secs()),
                };
                let address = address.to_owned();
                return Err(Broken {
                    address,
                    exchanges,
                    why,
                });
            }
        }
        if said.elapsed() >= SAY {
            say(exchanges);
            said = Instant::now();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn exchange(stream: &mut BufReader<TcpStream>) -> std::io::Result<()> {
    stream.write_all(b"still there?\n").await?;
    let mut line = String::new();
    match stream.read_line(&mut line).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn it_says_when_the_other_side_goes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            for _ in 0..2 {
                stream.read_line(&mut String::new()).await.unwrap();
                stream.write_all(b"yes\n").await.unwrap();
            }
        });
        let broken = hold(&address, |_| {}).await.unwrap_err();
        assert_eq!(broken.exchanges, 2);
        server.await.unwrap();
    }
}
