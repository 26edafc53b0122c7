//! Connects a client to the standard streams of a container's main process.

use std::convert::Infallible;

use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::containers::{AttachOutput, Attachment, WindowSize};
use super::pipe::Input;
use super::remote::Streams;
use super::window::Windows;

/// Carries bytes until the process has ended, or the client wants nothing of it any more.
pub(super) async fn run(attachment: Attachment, streams: Streams) {
    let Attachment {
        mut output,
        stdin,
        resize,
    } = attachment;
    let input = async {
        tokio::join!(feed(streams.stdin, stdin), forward_sizes(streams.resize, resize));
        std::future::pending::<Infallible>().await
    };
    let show = async {
        loop {
            let (sink, bytes) = match output.recv().await {
                Ok(AttachOutput::Stdout(bytes)) => (&streams.stdout, bytes),
                Ok(AttachOutput::Stderr(bytes)) => (&streams.stderr, bytes),
                // A client slower than the process misses something; the log has it.
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            };
            if let Some(sink) = sink
                && sink.send(bytes).await.is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = show => {}
        never = input => match never {},
    }
}

async fn feed(input: Option<Input>, stdin: Option<mpsc::Sender<Bytes>>) {
    let (Some(mut input), Some(stdin)) = (input, stdin) else {
        return;
    };
    while let Some(bytes) = input.recv().await {
        if stdin.send(bytes).await.is_err() {
            return;
        }
    }
    // An empty message is the end of the input; a process that has ended needs none.
    let _ended = stdin.send(Bytes::new()).await;
}

async fn forward_sizes(input: Option<Input>, resize: Option<mpsc::Sender<WindowSize>>) {
    let (Some(input), Some(resize)) = (input, resize) else {
        return;
    };
    let mut windows = Windows::new(input);
    while let Some(size) = windows.next().await {
        if resize.send(size).await.is_err() {
            return;
        }
    }
}
