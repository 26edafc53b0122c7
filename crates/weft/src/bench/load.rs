//! The two ends: a server and a client, each a thread in its own namespace, both on one processor.
//!
//! A connection begins with a message whose first byte says what for: to have it and all that follow sent back, or to
//! take what comes until there is no more, and then to say so.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::Pid;

/// Request and response, as small as a question about an address is.
const MESSAGE: usize = 64;

/// The first byte of a connection whose messages are sent back, and of one that is only read.
const ECHO: u8 = 1;
const TAKE: u8 = 2;
/// How much is written at once where as much as possible is to get through.
const CHUNK: usize = 128 << 10;
/// How many streams share the way where it is not one.
const STREAMS: u32 = 8;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A request and its response on an open connection.
    RoundTrip,
    /// Connect, request, response, close.
    Connection,
    /// A MiB over one connection.
    Stream,
    /// A MiB, as eight connections bring it through at the same time.
    Streams,
}

impl Work {
    pub(super) const ALL: [Self; 4] = [Self::RoundTrip, Self::Connection, Self::Stream, Self::Streams];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RoundTrip => "round trip",
            Self::Connection => "connect-request-close",
            Self::Stream => "throughput, one stream",
            Self::Streams => "throughput, eight streams",
        }
    }

    /// Whether it is as much as possible, not one thing after the other.
    pub(super) fn is_bulk(self) -> bool {
        matches!(self, Self::Stream | Self::Streams)
    }

    /// How often it is done in one sample, single exchanges after a third as many to warm up: some milliseconds' worth, so that what
    /// else the machine does hits few.
    fn times(self) -> u32 {
        match self {
            Self::RoundTrip => 1000,
            Self::Connection => 100,
            Self::Stream | Self::Streams => 32,
        }
    }
}

/// A client ready to measure, and its server.
pub(super) struct Pair {
    orders: Option<mpsc::Sender<Work>>,
    results: mpsc::Receiver<Result<Duration>>,
    listener: TcpListener,
    threads: Vec<JoinHandle<()>>,
}

impl Pair {
    /// Starts both ends. The client connects to `target`, which leads to `listen`.
    pub(super) fn start(
        server: impl FnOnce() -> Result<()> + Send + 'static,
        client: impl FnOnce() -> Result<()> + Send + 'static,
        listen: SocketAddr,
        target: SocketAddr,
    ) -> Result<Self> {
        let (ready, started) = mpsc::channel();
        let server = spawn("bench-server", move || {
            let opened = settle(server).and_then(|()| {
                let listener = TcpListener::bind(listen)?;
                ready.send(Ok(listener.try_clone()?)).context("the benchmark ended")?;
                Ok(listener)
            });
            match opened {
                Ok(listener) => serve(&listener),
                Err(error) => {
                    let _gone = ready.send(Err(error.context(format!("the server cannot listen on {listen}"))));
                }
            }
        })?;
        let listener = started.recv().context("the server's thread ended")??;
        let (orders, inbox) = mpsc::channel();
        let (outbox, results) = mpsc::channel();
        let client = spawn("bench-client", move || {
            if let Err(error) = settle(client) {
                let _gone = outbox.send(Err(error));
                return;
            }
            while let Ok(work) = inbox.recv() {
                let sample = sample(work, target).with_context(|| format!("{} to {target} failed", work.name()));
                if outbox.send(sample).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self {
            orders: Some(orders),
            results,
            listener,
            threads: vec![client, server],
        })
    }

    /// Microseconds for doing the work once.
    pub(super) fn measure(&self, work: Work) -> Result<f64> {
        let gone = || anyhow!("the client's thread ended");
        self.orders
            .as_ref()
            .and_then(|orders| orders.send(work).ok())
            .ok_or_else(gone)?;
        let spent = self.results.recv().map_err(|_| gone())??;
        Ok(spent.as_secs_f64() * 1e6 / f64::from(work.times()))
    }
}

/// Both threads end, so that nothing holds their namespaces and cgroup.
impl Drop for Pair {
    fn drop(&mut self) {
        self.orders.take();
        // Ends the server's wait for a connection.
        if let Err(error) = shutdown(self.listener.as_raw_fd(), Shutdown::Both) {
            eprintln!("weft: cannot end a server of the benchmark: {error}");
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("weft: a thread of the benchmark panicked");
            }
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.into());
    thread
        .spawn(body)
        .with_context(|| format!("cannot start the thread {name}"))
}

/// Goes where the thread belongs, onto the processor that all share, ahead of what else wants it.
fn settle(enter: impl FnOnce() -> Result<()>) -> Result<()> {
    enter()?;
    let own = Pid::from_raw(0);
    let allowed = sched_getaffinity(own).context("cannot learn which processors are allowed")?;
    let last = (0..CpuSet::count())
        .rev()
        .find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.context("no processor is allowed")?)
        .context("cannot name the processor")?;
    sched_setaffinity(own, &one).context("cannot stay on one processor")?;
    rustix::process::setpriority_process(None, -20).context("cannot raise the priority; are you root?")
}

fn serve(listener: &TcpListener) {
    std::thread::scope(|scope| {
        let mut message = [0; MESSAGE];
        while let Ok((mut stream, _)) = listener.accept() {
            if stream.set_nodelay(true).is_err() {
                return;
            }
            let mut begun = stream.read_exact(&mut message).is_ok();
            if begun && message[0] == TAKE {
                // Of several at a time, each has its thread; one that breaks off is the client's to tell.
                scope.spawn(move || take(stream));
                continue;
            }
            while begun {
                begun = stream.write_all(&message).is_ok() && stream.read_exact(&mut message).is_ok();
            }
        }
    });
}

fn take(mut stream: TcpStream) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    while stream.read(&mut chunk)? > 0 {}
    stream.write_all(&[TAKE; MESSAGE])
}

fn sample(work: Work, target: SocketAddr) -> std::io::Result<Duration> {
    let mut message = [ECHO; MESSAGE];
    let mut exchange = |stream: &mut TcpStream| {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)
    };
    match work {
        Work::RoundTrip => {
            let mut stream = connect(target)?;
            for _ in 0..work.times() / 3 {
                exchange(&mut stream)?;
            }
            let begun = Instant::now();
            for _ in 0..work.times() {
                exchange(&mut stream)?;
            }
            Ok(begun.elapsed())
        }
        Work::Connection => {
            for _ in 0..work.times() / 3 {
                exchange(&mut connect(target)?)?;
            }
            let begun = Instant::now();
            for _ in 0..work.times() {
                exchange(&mut connect(target)?)?;
            }
            Ok(begun.elapsed())
        }
        Work::Stream => push(1, work.times(), target),
        Work::Streams => push(STREAMS, work.times(), target),
    }
}

/// Sends so many MiB over all streams together, and waits until the server has them.
fn push(streams: u32, mebibytes: u32, target: SocketAddr) -> std::io::Result<Duration> {
    let open = |_| {
        let mut stream = connect(target)?;
        stream.write_all(&[TAKE; MESSAGE])?;
        Ok(stream)
    };
    let open: std::io::Result<Vec<TcpStream>> = (0..streams).map(open).collect();
    let chunks = (mebibytes << 20) / streams / CHUNK as u32;
    let send = |mut stream: TcpStream| {
        let mut chunk = vec![0; CHUNK];
        for _ in 0..chunks {
            stream.write_all(&chunk)?;
        }
        stream.shutdown(std::net::Shutdown::Write)?;
        stream.read_exact(&mut chunk[..MESSAGE])
    };
    let open = open?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = open.into_iter().map(|stream| scope.spawn(|| send(stream))).collect();
        let panicked = |_| Err(std::io::Error::other("a thread of the benchmark panicked"));
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(panicked))
    })?;
    Ok(begun.elapsed())
}

fn connect(target: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(target)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
