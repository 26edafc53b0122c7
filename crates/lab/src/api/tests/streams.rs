//! What is handed to kubelets.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::{Fixture, PODS, pod};

/// A kubelet that tells what it was asked, switches protocols, and then echoes in capitals.
async fn kubelet(listener: UnixListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let answer =
        format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Asked: {path}\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.unwrap();
    let mut byte = [0];
    while stream.read_exact(&mut byte).await.is_ok() {
        stream.write_all(&[byte[0].to_ascii_uppercase()]).await.unwrap();
    }
}

#[tokio::test]
async fn an_exec_is_spliced() {
    let api = Fixture::new();
    let dir = api.server.config.lab_dir.clone();
    std::fs::create_dir_all(dir.join("nodes/n1")).unwrap();
    let kubelet = tokio::spawn(kubelet(UnixListener::bind(dir.join("nodes/n1/kubelet.sock")).unwrap()));
    let socket = dir.join("api.sock");
    let server = api.server.clone();
    let path = socket.clone();
    let serving = tokio::spawn(async move { server.serve_unix(&path).await });
    let mut bound = pod("p");
    bound["spec"]["nodeName"] = "n1".into();
    api.post(PODS, bound).await;

    let mut stream = loop {
        match UnixStream::connect(&socket).await {
            Ok(stream) => break stream,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let request = format!(
        "GET {PODS}/p/exec?command=ls&stdin=true HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("/exec/default/p/c?command=ls&stdin=true"), "{head}");
    stream.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"HELLO");
    drop(stream);
    kubelet.await.unwrap();
    serving.abort();
}

#[tokio::test]
async fn what_cannot_be_streamed_says_why() {
    let api = Fixture::new();
    api.post(PODS, pod("free")).await;
    let (code, status) = api.get(&format!("{PODS}/free/log")).await;
    assert_eq!(
        (code.as_u16(), status["message"].as_str()),
        (400, Some("pod free does not have a host assigned"))
    );
    let mut two = pod("two");
    two["spec"]["nodeName"] = "n1".into();
    two["spec"]["containers"] = json!([{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]);
    api.post(PODS, two).await;
    let (_, status) = api.get(&format!("{PODS}/two/log")).await;
    let text = "a container name must be specified for pod two, choose one of: [a b]";
    assert_eq!(status["message"], text);
    let (_, status) = api.get(&format!("{PODS}/two/log?container=z")).await;
    assert_eq!(status["message"], "container z is not valid for pod two");
    let (code, status) = api.get(&format!("{PODS}/two/log?container=a")).await;
    assert_eq!(code, 503);
    assert!(
        status["message"].as_str().unwrap().contains("weft lab logs kubelet n1"),
        "{status}"
    );
}
