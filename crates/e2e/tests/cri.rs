//! A client of the Container Runtime Interface (`runtime.v1`), for what a test asks of a runtime: sandboxes. The messages
//! have the fields that are used, under the numbers of the interface's definition.

use std::collections::HashMap;
use std::path::Path;

use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;

use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Metadata {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) uid: String,
    #[prost(string, tag = "3")]
    pub(crate) namespace: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DnsConfig {
    #[prost(string, repeated, tag = "1")]
    pub(crate) servers: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) searches: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PortMapping {
    /// 0 is TCP, 1 UDP, 2 SCTP.
    #[prost(int32, tag = "1")]
    pub(crate) protocol: i32,
    #[prost(int32, tag = "2")]
    pub(crate) container_port: i32,
    #[prost(int32, tag = "3")]
    pub(crate) host_port: i32,
    #[prost(string, tag = "4")]
    pub(crate) host_ip: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Linux {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SandboxConfig {
    #[prost(message, optional, tag = "1")]
    pub(crate) metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    pub(crate) hostname: String,
    #[prost(message, optional, tag = "4")]
    pub(crate) dns: Option<DnsConfig>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) ports: Vec<PortMapping>,
    #[prost(map = "string, string", tag = "7")]
    pub(crate) annotations: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub(crate) linux: Option<Linux>,
}

#[derive(Clone, PartialEq, Message)]
struct RunRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<SandboxConfig>,
}

/// What names a sandbox, in requests and in the answer to the first.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct SandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<SandboxStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxStatus {
    #[prost(message, optional, tag = "5")]
    network: Option<SandboxNetwork>,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxNetwork {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    additional_ips: Vec<Id>,
}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Conditions>,
}

#[derive(Clone, PartialEq, Message)]
struct Conditions {
    #[prost(message, repeated, tag = "1")]
    all: Vec<Condition>,
}

#[derive(Clone, PartialEq, Message)]
struct Condition {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bool, tag = "2")]
    holds: bool,
}

/// A connection to a runtime.
pub(crate) struct Cri {
    runtime: tokio::runtime::Runtime,
    grpc: Grpc<Channel>,
}

impl Cri {
    /// Connects by the runtime's socket; fails while there is none.
    pub(crate) fn connect(socket: &Path) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).map_err(|e| e.to_string())?;
        let channel = runtime.block_on(endpoint.connect()).map_err(|e| e.to_string())?;
        Ok(Self {
            runtime,
            grpc: Grpc::new(channel),
        })
    }

    fn call<Q: Message + 'static, A: Message + Default + 'static>(
        &mut self,
        method: &str,
        ask: Q,
    ) -> Result<A, Status> {
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}")).unwrap();
        let grpc = &mut self.grpc;
        self.runtime.block_on(async move {
            grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
            let answer = grpc
                .unary(Request::new(ask), path, ProstCodec::<Q, A>::default())
                .await?;
            Ok(answer.into_inner())
        })
    }

    /// Whether the runtime says that pods can have a network.
    pub(crate) fn network_ready(&mut self) -> bool {
        let said: Result<StatusResponse, Status> = self.call("Status", Nothing {});
        let conditions = said.ok().and_then(|said| said.status).unwrap_or_default().all;
        conditions
            .iter()
            .any(|condition| condition.name == "NetworkReady" && condition.holds)
    }

    /// Starts a sandbox; its id.
    pub(crate) fn run(&mut self, config: SandboxConfig) -> Result<String, Status> {
        let request = RunRequest { config: Some(config) };
        self.call("RunPodSandbox", request).map(|answer: Id| answer.id)
    }

    /// A sandbox's addresses.
    pub(crate) fn ips(&mut self, id: &str) -> Vec<String> {
        let status: SandboxStatusResponse = self.call("PodSandboxStatus", Id { id: id.to_owned() }).unwrap();
        let network = status.status.unwrap().network.unwrap();
        let more = network.additional_ips.into_iter().map(|ip| ip.id);
        [network.ip].into_iter().chain(more).collect()
    }

    /// Stops a sandbox, which takes it off the network; again is no error.
    pub(crate) fn stop(&mut self, id: &str) {
        self.call::<_, Nothing>("StopPodSandbox", Id { id: id.to_owned() })
            .unwrap();
    }

    /// Removes a sandbox.
    pub(crate) fn remove(&mut self, id: &str) {
        self.call::<_, Nothing>("RemovePodSandbox", Id { id: id.to_owned() })
            .unwrap();
    }
}
