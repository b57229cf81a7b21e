//! The stream under HTTP: a socket, with TLS or without, that gives up on a client that stopped reading.
//!
//! Knows nothing of HTTP and of who decides what the connection becomes.

use std::{
    io::{self, IoSlice, Write},
    net::SocketAddr,
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};
use tokio_rustls::server::TlsStream;

use super::http2;
use crate::registry::Intercepted;

/// What is known of a connection before its first request. A handler finds it in the request's connection data, over
/// HTTP/2 in its extensions.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The client. IPv4 is IPv4 here, also when it came to a dual-stack listener.
    pub peer: SocketAddr,
    /// The address the client connected to, likewise.
    pub local: SocketAddr,
    pub tls: bool,
    /// The host the client asked for in its TLS handshake, lower-case.
    pub server_name: Option<String>,
    /// The registry that a CONNECT led to.
    pub connect: Option<Intercepted>,
}

/// A connection that HTTP can be spoken on.
pub(super) struct Conn {
    pub(super) connection: Connection,
    stream: Stream,
}

enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
    /// Behind a CONNECT that was answered here.
    Inner(Box<Rewound>),
    InnerTls(Box<TlsStream<Rewound>>),
}

impl Conn {
    pub(super) fn plain(socket: Socket, connection: Connection) -> Self {
        Self {
            connection,
            stream: Stream::Plain(socket),
        }
    }

    pub(super) fn tls(stream: TlsStream<Socket>, connection: Connection) -> Self {
        Self {
            connection: secured(&stream, connection),
            stream: Stream::Tls(Box::new(stream)),
        }
    }

    pub(super) fn inner(stream: Rewound, connection: Connection) -> Self {
        Self {
            connection,
            stream: Stream::Inner(Box::new(stream)),
        }
    }

    pub(super) fn inner_tls(stream: TlsStream<Rewound>, connection: Connection) -> Self {
        Self {
            connection: secured(&stream, connection),
            stream: Stream::InnerTls(Box::new(stream)),
        }
    }

    /// Whether it runs within another one, by CONNECT.
    pub(super) fn is_inner(&self) -> bool {
        matches!(self.stream, Stream::Inner(_) | Stream::InnerTls(_))
    }

    /// Whether the client has chosen HTTP/2 in its TLS handshake.
    pub(super) fn speaks_http2(&self) -> bool {
        let chosen = match &self.stream {
            Stream::Tls(stream) => stream.get_ref().1.alpn_protocol(),
            Stream::InnerTls(stream) => stream.get_ref().1.alpn_protocol(),
            Stream::Plain(_) | Stream::Inner(_) => None,
        };
        chosen == Some(http2::PROTOCOL)
    }

    fn io(&mut self) -> Pin<&mut dyn Io> {
        match &mut self.stream {
            Stream::Plain(socket) => Pin::new(socket),
            Stream::Tls(stream) => Pin::new(&mut **stream),
            Stream::Inner(stream) => Pin::new(&mut **stream),
            Stream::InnerTls(stream) => Pin::new(&mut **stream),
        }
    }
}

fn secured<T>(stream: &TlsStream<T>, connection: Connection) -> Connection {
    Connection {
        tls: true,
        server_name: stream.get_ref().1.server_name().map(str::to_owned),
        ..connection
    }
}

/// A stream of bytes, both ways.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

impl AsyncRead for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().io().poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().io().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().io().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().io().poll_shutdown(cx)
    }
}

/// A connection of which some bytes were read too early.
pub(super) struct Rewound {
    unread: BytesMut,
    conn: Conn,
}

impl Rewound {
    pub(super) fn new(unread: BytesMut, conn: Conn) -> Self {
        Self { unread, conn }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.conn.connection
    }

    /// The first byte that is still to be read, left unread; `None` if the client closed instead.
    pub(super) async fn first_byte(&mut self) -> io::Result<Option<u8>> {
        if self.unread.is_empty() {
            self.conn.read_buf(&mut self.unread).await?;
        }
        Ok(self.unread.first().copied())
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.conn).poll_read(cx, buf);
        }
        let taken = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread.split_to(taken));
        if self.unread.is_empty() {
            self.unread = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.conn).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_shutdown(cx)
    }
}

/// A TCP connection whose writes fail with `TimedOut` once the client has taken no byte for `patience`. actix-http has no
/// limit of its own, and a stalled client would hold its buffers, and the file it reads, for ever.
pub(super) struct Socket {
    tcp: TcpStream,
    patience: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(super) fn new(tcp: TcpStream, patience: Duration) -> Self {
        Self {
            tcp,
            patience,
            stalled: None,
        }
    }

    /// The first byte the client sends, left unread; `None` if it closed instead.
    pub(super) async fn first_byte(&self) -> io::Result<Option<u8>> {
        let mut first = [0];
        let read = self.tcp.peek(&mut first).await?;
        Ok((read > 0).then_some(first[0]))
    }

    /// `attempt` to write, and when that must wait, for no longer than the client's patience.
    fn guard(
        &mut self,
        cx: &mut Context<'_>,
        attempt: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
        again: impl FnOnce(&std::net::TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = attempt(Pin::new(&mut self.tcp), cx) {
            self.stalled = None;
            return Poll::Ready(written);
        }
        let patience = self.patience;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        if stalled.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.stalled = None;
        // The kernel reports a socket writable only when a third of its buffer is free, which can be a megabyte. A client
        // that is slow, not stalled, has made some room: fill it.
        let direct = self.tcp.as_fd().try_clone_to_owned()?;
        Poll::Ready(again(&direct.into()).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the client has read nothing for {patience:?}"),
            ),
            _ => error,
        }))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.guard(
            cx,
            |tcp, cx| tcp.poll_write(cx, buf),
            |mut tcp| tcp.write(buf),
        )
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.guard(
            cx,
            |tcp, cx| tcp.poll_write_vectored(cx, bufs),
            |mut tcp| tcp.write_vectored(bufs),
        )
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
