//! A container's terminal: the runtime makes it inside the container and hands its near end over a socket.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::termios::Winsize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;

use super::containers::WindowSize;
use super::pipe::PIECE;

/// Where the runtime delivers a terminal.
pub(super) struct ConsoleSocket(UnixListener);

impl ConsoleSocket {
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        UnixListener::bind(path).map(Self)
    }

    /// Waits for the terminal.
    pub(super) async fn receive(&self) -> io::Result<Terminal> {
        let (stream, _) = self.0.accept().await?;
        let fd = stream
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut name = [0; 256];
                rustix::net::recvmsg(
                    &stream,
                    &mut [IoSliceMut::new(&mut name)],
                    &mut control,
                    RecvFlags::CMSG_CLOEXEC,
                )?;
                let fds = control.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                    _ => None,
                });
                fds.ok_or_else(|| io::Error::other("the runtime sent a message without a terminal"))
            })
            .await?;
        Terminal::new(fd)
    }
}

/// The near end of a terminal.
pub(super) struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        #[expect(
            deprecated,
            reason = "its replacement is unsafe; an owned fd that is never replaced meets its terms"
        )]
        AsyncFd::new(fd).map(Self)
    }

    /// What the far end has written; none when its last process has gone.
    pub(super) async fn read(&self) -> io::Result<Option<Bytes>> {
        let mut buffer = BytesMut::zeroed(PIECE);
        let read = |fd: &OwnedFd| rustix::io::read(fd, &mut buffer[..]).map_err(io::Error::from);
        match self.0.async_io(Interest::READABLE, read).await {
            Ok(0) => Ok(None),
            Ok(length) => Ok(Some(buffer.split_to(length).freeze())),
            // How Linux words the end of a terminal.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Types.
    pub(super) async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let write = |fd: &OwnedFd| rustix::io::write(fd, bytes).map_err(io::Error::from);
            let length = self.0.async_io(Interest::WRITABLE, write).await?;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    /// Tells the far end how large the user's window is.
    pub(super) fn resize(&self, size: WindowSize) -> io::Result<()> {
        let size = Winsize {
            ws_row: size.height,
            ws_col: size.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(self.0.get_ref(), size).map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::Terminal;
    use crate::streaming::containers::WindowSize;

    #[tokio::test]
    async fn types_reads_resizes_and_ends() {
        let pair = nix::pty::openpty(None, None).unwrap();
        let terminal = Terminal::new(pair.master).unwrap();
        terminal.resize(WindowSize { width: 132, height: 43 }).unwrap();
        let size = rustix::termios::tcgetwinsize(&pair.slave).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (132, 43));
        terminal.write(b"hi\n").await.unwrap();
        assert_eq!(terminal.read().await.unwrap().unwrap(), "hi\r\n");
        drop(pair.slave);
        assert_eq!(terminal.read().await.unwrap(), None);
    }
}
