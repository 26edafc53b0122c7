//! The real kubectl as the client, over both of its wires, with the least API server that it takes.

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::containers::{AttachOutput, RunState};
use super::testing::Fixture;

/// Passes what kubectl asks of a pod's streams to the node, byte for byte, and answers the little else it asks.
struct Cluster {
    fixture: Fixture,
    url: String,
    _api: AbortOnDropHandle<()>,
}

/// What kubectl printed, and its exit code.
#[derive(Debug, PartialEq, Eq)]
struct Printed {
    out: String,
    err: String,
    code: Option<i32>,
}

impl Cluster {
    async fn new(fixture: Fixture) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let socket = fixture.socket();
        let _api = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(api(client, socket.clone()));
            }
        }));
        Self { fixture, url, _api }
    }

    fn kubectl(&self, websockets: bool, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .env("KUBECONFIG", "/dev/null")
            .env("HOME", self.fixture.log().parent().unwrap())
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets.to_string())
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets.to_string())
            .args(["--server", &self.url])
            .args(args)
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    async fn run(&self, websockets: bool, args: &[&str], stdin: &[u8]) -> Printed {
        let mut child = self
            .kubectl(websockets, args)
            .spawn()
            .expect("kubectl 1.31 or newer is needed for this test");
        let mut pipe = child.stdin.take().unwrap();
        let feed = async {
            let _closed = pipe.write_all(stdin).await;
            drop(pipe);
        };
        let all = async { tokio::join!(feed, child.wait_with_output()).1.unwrap() };
        let output = tokio::time::timeout(Duration::from_secs(60), all)
            .await
            .expect("kubectl hangs");
        Printed {
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
            code: output.status.code(),
        }
    }
}

async fn api(mut client: TcpStream, socket: std::path::PathBuf) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = client.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap();
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let kubelet = match path.rsplit('/').next().unwrap() {
        "log" => "/containerLogs/default/web/main",
        "exec" => "/exec/default/web/main",
        "attach" => "/attach/default/web/main",
        "portforward" => "/portForward/default/web",
        _ => "",
    };
    if !kubelet.is_empty() {
        let mut node = UnixStream::connect(socket).await.unwrap();
        let close = if kubelet.starts_with("/containerLogs") {
            "Connection: close\r\n"
        } else {
            ""
        };
        let request = format!("{method} {kubelet}?{query} HTTP/1.1\r\n{close}{headers}");
        node.write_all(request.as_bytes()).await.unwrap();
        let _left = tokio::io::copy_bidirectional(&mut client, &mut node).await;
        return;
    }
    let answer = match path {
        "/api" => json!({"kind": "APIVersions", "versions": ["v1"]}),
        "/apis" => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}),
        "/api/v1" => json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
            {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": ["get", "list"]}]}),
        _ => json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"containers": [{"name": "main", "stdin": true}]}, "status": {"phase": "Running"}}),
    };
    let body = answer.to_string();
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    let _left = client.write_all(answer.as_bytes()).await;
}

#[tokio::test]
async fn exec_carries_both_outputs_the_input_and_the_exit_code() {
    let cluster = Cluster::new(Fixture::new().await).await;
    for websockets in [true, false] {
        let script = "echo out; echo err >&2; exit 7";
        let printed = cluster
            .run(websockets, &["exec", "web", "--", "sh", "-c", script], b"")
            .await;
        assert_eq!((printed.out.as_str(), printed.code), ("out\n", Some(7)), "{printed:?}");
        assert_eq!(printed.err, "err\ncommand terminated with exit code 7\n");
        let input: String = (0..200_000).map(|number| format!("{number}\n")).collect();
        let printed = cluster
            .run(websockets, &["exec", "-i", "web", "--", "cat"], input.as_bytes())
            .await;
        assert!(
            printed.out == input,
            "{} of {} bytes came back",
            printed.out.len(),
            input.len()
        );
        assert_eq!(printed.code, Some(0), "{}", printed.err);
        let printed = cluster.run(websockets, &["exec", "web", "--", "nosuch"], b"").await;
        assert!(
            printed.err.contains("executable file `nosuch` not found in $PATH"),
            "{printed:?}"
        );
        assert_ne!(printed.code, Some(0));
    }
}

#[tokio::test]
async fn exec_ends_although_the_command_left_something_running() {
    let cluster = Cluster::new(Fixture::new().await).await;
    let started = std::time::Instant::now();
    let printed = cluster
        .run(true, &["exec", "web", "--", "sh", "-c", "sleep 30 & echo $!"], b"")
        .await;
    assert!(started.elapsed() < Duration::from_secs(20), "{printed:?}");
    let pid = nix::unistd::Pid::from_raw(printed.out.trim().parse().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn exec_in_a_container_that_does_not_run_fails_as_users_know_it() {
    let cluster = Cluster::new(Fixture::new().await).await;
    cluster.fixture.set_state(RunState::Terminated);
    for websockets in [true, false] {
        let printed = cluster.run(websockets, &["exec", "web", "--", "true"], b"").await;
        assert!(printed.err.contains("container not found (\"main\")"), "{printed:?}");
        assert_eq!(printed.code, Some(1));
    }
}

#[tokio::test]
async fn cp_copies_both_ways() {
    let cluster = Cluster::new(Fixture::new().await).await;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let content: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(path("a"), &content).unwrap();
    for websockets in [true, false] {
        let there = cluster
            .run(websockets, &["cp", &path("a"), &format!("web:{}", path("b"))], b"")
            .await;
        assert_eq!(there.code, Some(0), "{there:?}");
        let back = cluster
            .run(websockets, &["cp", &format!("web:{}", path("b")), &path("c")], b"")
            .await;
        assert_eq!(back.code, Some(0), "{back:?}");
        assert!(std::fs::read(path("c")).unwrap() == content);
        std::fs::remove_file(path("b")).unwrap();
        std::fs::remove_file(path("c")).unwrap();
    }
}

#[tokio::test]
async fn attach_carries_output_and_input_until_the_container_ends() {
    for websockets in [true, false] {
        let (stdin, mut typed) = mpsc::channel(8);
        let cluster = Cluster::new(Fixture::with_stdin(stdin).await).await;
        let mut child = cluster.kubectl(websockets, &["attach", "-i", "web"]).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(b"hello\n").await.unwrap();
        assert_eq!(typed.recv().await.unwrap(), "hello\n");
        drop(pipe);
        // SPDY and v5 can tell of the end of the input, which an empty piece is.
        assert_eq!(typed.recv().await.unwrap(), "");
        assert!(cluster.fixture.say(AttachOutput::Stdout(Bytes::from("out\n"))));
        assert!(cluster.fixture.say(AttachOutput::Stderr(Bytes::from("err\n"))));
        cluster.fixture.set_state(RunState::Terminated);
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "out\n");
        assert!(String::from_utf8(output.stderr).unwrap().contains("err\n"));
    }
}

#[tokio::test]
async fn logs_come_as_asked() {
    let cluster = Cluster::new(Fixture::new().await).await;
    let line = |second: u32, text: &str| format!("2026-01-02T03:04:{second:02}.5Z stdout F {text}\n");
    let log: String = (0..9).map(|number| line(number, &number.to_string())).collect();
    std::fs::write(cluster.fixture.log(), log).unwrap();
    let printed = cluster
        .run(true, &["logs", "web", "--tail=3", "--timestamps"], b"")
        .await;
    assert_eq!(
        printed.out,
        "2026-01-02T03:04:06.5Z 6\n2026-01-02T03:04:07.5Z 7\n2026-01-02T03:04:08.5Z 8\n"
    );
    let printed = cluster
        .run(true, &["logs", "web", "--since-time=2026-01-02T03:04:08Z"], b"")
        .await;
    assert_eq!(printed.out, "8\n");
}

#[tokio::test]
async fn port_forward_carries_many_connections_and_tells_of_a_closed_port() {
    let cluster = Cluster::new(Fixture::new().await).await;
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = echo.local_addr().unwrap().port();
    let _echo = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _left = tokio::io::copy(&mut read, &mut write).await;
                let _left = write.shutdown().await;
            });
        }
    }));
    for websockets in [true, false] {
        let ports = [format!(":{port}"), ":1".to_owned()];
        let args = ["port-forward", "web", &ports[0], &ports[1]];
        let mut child = cluster.kubectl(websockets, &args).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut local = Vec::new();
        while local.len() < 2 {
            let line = lines.next_line().await.unwrap().expect("kubectl ended");
            if let Some(address) = line.strip_prefix("Forwarding from 127.0.0.1:") {
                local.push(address.split(' ').next().unwrap().parse::<u16>().unwrap());
            }
        }
        let mut closed = TcpStream::connect(("127.0.0.1", local[1])).await.unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
        assert_eq!(closed.read(&mut [0; 8]).await.unwrap_or_default(), 0);
        let mut said = String::new();
        while !said.contains("failed to connect to localhost:1 inside the pod") {
            said = errors
                .next_line()
                .await
                .unwrap()
                .expect("kubectl did not tell of the closed port");
        }
        drop(child);
        // A failed connection ends kubectl's session (since 1.30), so the working ones get one of their own.
        let mut child = cluster.kubectl(websockets, &args[..3]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().expect("kubectl ended");
        let address = line.strip_prefix("Forwarding from 127.0.0.1:").unwrap();
        let local: u16 = address.split(' ').next().unwrap().parse().unwrap();
        let connections = (0..20u32).map(|number| async move {
            let mut stream = TcpStream::connect(("127.0.0.1", local)).await.unwrap();
            let sent: Vec<u8> = (0..50_000).flat_map(|at: u32| (at ^ number).to_le_bytes()).collect();
            let (mut read, mut write) = stream.split();
            let mut back = Vec::new();
            let send = async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let ((), read) = tokio::join!(send, read.read_to_end(&mut back));
            read.unwrap();
            assert!(
                back == sent,
                "connection {number}: {} of {} bytes",
                back.len(),
                sent.len()
            );
        });
        tokio::time::timeout(Duration::from_secs(60), futures::future::join_all(connections))
            .await
            .unwrap();
    }
}
