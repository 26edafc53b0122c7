//! Puts zone, sockets and changes together: the whole DNS process but its command line.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use weft_model::{Change, ObjectKey};

use crate::forward::Forwarder;
use crate::respond::Responder;
use crate::server::Service;
use crate::zone::Zone;
use crate::{Error, bind, health, server, upstream};

/// What the DNS process is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster domain, usually `cluster.local`.
    pub domain: String,
    /// Addresses to answer on, UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// Address for `/health` and `/ready`; none if absent.
    pub health: Option<SocketAddr>,
    /// Resolvers for names outside the cluster, in order.
    pub upstreams: Vec<SocketAddr>,
    /// The Service whose address clients ask, usually `kube-system/kube-dns`.
    pub server: ObjectKey,
    /// Address ranges of the cluster, besides the pod ranges that Nodes name.
    pub ranges: Vec<IpNet>,
}

/// Answers names until dropped. Ends only if it cannot start; when `changes` ends, it answers from what it knows.
pub async fn run(config: Config, mut changes: mpsc::Receiver<Change>) -> Result<(), Error> {
    if config.listen.is_empty() {
        return Err(Error::NoListener);
    }
    let zone = Zone::new(&config.domain, config.server, config.ranges)?;
    let responder = Arc::new(Responder::new(zone));
    let upstreams = upstream::without_self(&config.upstreams, &config.listen);
    let forwarder = Arc::new(Forwarder::new(Arc::clone(&responder), upstreams));
    let service = Service {
        responder: Arc::clone(&responder),
        forwarder,
    };

    // Dropped with this future, and everything spawned with it.
    let mut tasks = listen(config.listen, config.health, &service);
    let mut watching = true;
    loop {
        tokio::select! {
            change = changes.recv(), if watching => match change {
                Some(change) => apply(&responder, &change),
                None => {
                    watching = false;
                    tracing::warn!("the watch has ended; answering from what is known");
                }
            },
            Some(ended) = tasks.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
        }
    }
}

fn apply(responder: &Responder, change: &Change) {
    responder.apply(change);
    if *change == Change::Synced {
        tracing::info!("the cluster's names are complete");
    }
}

/// Listens everywhere, each on its own: an address that is not there yet keeps nobody else waiting.
fn listen(listen: Vec<SocketAddr>, health: Option<SocketAddr>, service: &Service) -> JoinSet<Result<(), Error>> {
    let mut tasks = JoinSet::new();
    if let Some(address) = health {
        let responder = Arc::clone(&service.responder);
        tasks.spawn(async move {
            health::serve(bind::tcp(address, "HTTP").await?, responder).await;
            Ok(())
        });
    }
    for address in listen {
        let (over_udp, over_tcp) = (service.clone(), service.clone());
        tasks.spawn(async move {
            let socket = bind::udp(address).await?;
            tracing::info!(%address, "answering names over UDP");
            server::udp(socket, over_udp).await;
            Ok(())
        });
        tasks.spawn(async move {
            server::tcp(bind::tcp(address, "TCP").await?, over_tcp).await;
            Ok(())
        });
    }
    tasks
}
