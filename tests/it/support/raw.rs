//! A bare TCP client, for requests that no well-behaved client sends.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::within;

/// More than the buffers of both ends of a loopback connection hold: once so many bytes of a body are written, the
/// server is reading it.
pub(crate) const BEYOND_BUFFERS: usize = 16 << 20;

/// One connection, driven byte by byte.
pub(crate) struct Raw {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
            unread: Vec::new(),
        }
    }

    /// Sends one request on a connection of its own and takes the answer. `head` is the request line and any headers,
    /// one per line, without `Host`.
    pub(crate) async fn exchange(address: SocketAddr, head: &str, body: &[u8]) -> RawAnswer {
        let mut raw = Self::connect(address).await;
        raw.head(head).await;
        raw.send(body).await;
        raw.answer().await
    }

    /// Sends a request's head: `head`, then `Host` and the empty line.
    pub(crate) async fn head(&mut self, head: &str) {
        let head = head.trim().replace('\n', "\r\n");
        let (line, headers) = head.split_once("\r\n").unwrap_or((&head, ""));
        let mut request = format!("{line} HTTP/1.1\r\n");
        if !headers.to_ascii_lowercase().contains("host:") {
            let peer = self.stream.peer_addr().unwrap();
            request.push_str(&format!("Host: {peer}\r\n"));
        }
        for header in headers.lines() {
            request.push_str(&format!("{}\r\n", header.trim()));
        }
        request.push_str("\r\n");
        self.send(request.as_bytes()).await;
    }

    /// Writes bytes. That the peer has gone is no failure here: the answer tells.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = within("the server reads", self.stream.write_all(bytes)).await;
    }

    /// This end of the connection, by which the server's log calls it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Says that no more bytes come, and keeps listening.
    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Goes away as a killed process does whose machine still answers.
    pub(crate) fn close(self) {
        drop(self.stream);
    }

    /// Goes away with a reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
        drop(self.stream);
    }

    /// Reads one answer.
    pub(crate) async fn answer(&mut self) -> RawAnswer {
        self.try_answer()
            .await
            .unwrap_or_else(|| panic!("the server closed the connection without an answer"))
    }

    /// Reads one answer, or `None` if the server closes the connection first.
    pub(crate) async fn try_answer(&mut self) -> Option<RawAnswer> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if self.fill().await == 0 {
                return None;
            }
        };
        let head = String::from_utf8(self.unread.drain(..end).collect()).unwrap();
        let mut answer = RawAnswer {
            status: head[9..12].parse().unwrap(),
            head,
            body: Vec::new(),
        };
        let length: usize = answer
            .header("content-length")
            .map_or(0, |length| length.parse().unwrap());
        while self.unread.len() < length && self.fill().await > 0 {}
        answer.body = self.unread.drain(..length.min(self.unread.len())).collect();
        Some(answer)
    }

    /// The bytes that came behind the last answer.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// Awaits that the server closes the connection.
    pub(crate) async fn closed(&mut self) {
        while self.fill().await > 0 {}
    }

    /// Reads what has come; 0 at the end of the connection, however it ended.
    pub(crate) async fn fill(&mut self) -> usize {
        let mut chunk = [0; 64 << 10];
        let read = within("the server answers", self.stream.read(&mut chunk))
            .await
            .unwrap_or(0);
        self.unread.extend_from_slice(&chunk[..read]);
        read
    }
}

/// An answer as it came over the wire.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl RawAnswer {
    /// The value of a header; names are compared without case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The first error's code, or nothing if the body holds none.
    pub(crate) fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["errors"][0]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}
