//! `weft lab api`: the API server with its controllers, as one process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use weft_lab::api::serve::{bind, bind_in};
use weft_lab::api::{ApiServer, Config, pki};
use weft_lab::client::Client;
use weft_lab::controllers;
use weft_lab::up::{Lab, spec};

/// Serves until killed: on the segment for nodes and pods, on 127.0.0.1 for users, on a unix socket for the lab.
pub(super) fn run(lab: &Lab) -> anyhow::Result<()> {
    let dir = lab.dir();
    let spec = lab.load()?;
    let advertise = SocketAddr::new(spec.control_plane(), spec::API_PORT);
    let segment = bind_in(&Path::new("/run/netns").join(lab.segment_netns()), advertise)?;
    let local = bind((Ipv4Addr::LOCALHOST, spec.api_port).into())?;
    let tls = pki::tls(&dir)?;
    let config = Config {
        database: dir.join("api.redb"),
        lab_dir: dir.clone(),
        advertise,
        families: spec.families,
        token_key: pki::token_key(&dir)?,
    };

    crate::daemon_runtime()?.block_on(async {
        let server = ApiServer::open(config)?;
        let controllers = controllers::Config {
            node_ranges: spec.node_ranges,
            families: spec.families,
            ca_pem: pki::authority(&dir)?,
            ..controllers::Config::default()
        };
        tokio::spawn(controllers::run(Client::local(server.handler()), controllers));
        tokio::spawn(server.clone().upkeep());
        tokio::spawn(server.clone().serve_tls(segment, tls.clone()));
        tokio::spawn(server.clone().serve_tls(local, tls));
        server.serve_unix(&lab.api_socket()).await?;
        Ok(())
    })
}
