//! What h2 reads from: the connection, with stand-ins in it.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Names;
use super::frames::{Found, PREFACE, look};

/// Read at once while a header block is not whole, which is rare.
const PIECE: usize = 4096;

/// Bytes go on as they came, in h2's own buffer, but for a frame's head and a header block that are not whole yet: those
/// are held until they are, and h2 could do nothing with them either.
pub struct Mended<T> {
    peer: T,
    names: Names,
    /// So many bytes to come go on unseen; after what is broken, all.
    unseen: usize,
    held: Vec<u8>,
    /// To be read before anything else, from `given` on.
    ready: Vec<u8>,
    given: usize,
}

impl<T> Mended<T> {
    pub fn new(peer: T, names: Names) -> Mended<T> {
        Mended { peer, names, unseen: PREFACE, held: Vec::new(), ready: Vec::new(), given: 0 }
    }

    /// How many of these bytes go on as they are. The others are held, or something else is ready instead of them.
    fn passed(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let unseen = self.unseen.min(bytes.len() - at);
            (at, self.unseen) = (at + unseen, self.unseen - unseen);
            if at == bytes.len() {
                return at;
            }
            match look(&bytes[at..], &self.names) {
                Found::Fine(length) => self.unseen = length,
                Found::Broken => self.unseen = usize::MAX,
                Found::Partial => {
                    self.held.extend_from_slice(&bytes[at..]);
                    return at;
                }
                Found::Mended(length, new) => {
                    self.ready = new;
                    self.held.extend_from_slice(&bytes[at + length..]);
                    self.settle();
                    return at;
                }
            }
        }
    }

    /// What can go on of what is held does.
    fn settle(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        let mut at = 0;
        while at < held.len() {
            let unseen = self.unseen.min(held.len() - at);
            self.ready.extend_from_slice(&held[at..at + unseen]);
            (at, self.unseen) = (at + unseen, self.unseen - unseen);
            if at == held.len() {
                return;
            }
            match look(&held[at..], &self.names) {
                Found::Fine(length) => self.unseen = length,
                Found::Broken => self.unseen = usize::MAX,
                Found::Mended(length, new) => {
                    self.ready.extend_from_slice(&new);
                    at += length;
                }
                Found::Partial => {
                    held.drain(..at);
                    self.held = held;
                    return;
                }
            }
        }
    }

    /// Whether there was something.
    fn give(&mut self, buffer: &mut ReadBuf) -> bool {
        let rest = &self.ready[self.given..];
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.given += count;
        if self.given == self.ready.len() {
            (self.ready, self.given) = (Vec::new(), 0);
        }
        count > 0
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Mended<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context, buffer: &mut ReadBuf) -> Poll<Result<()>> {
        let this = self.get_mut();
        // Who reads gets nothing only at the end.
        while !this.give(buffer) && buffer.remaining() > 0 {
            if this.held.is_empty() {
                let before = buffer.filled().len();
                ready!(Pin::new(&mut this.peer).poll_read(cx, buffer))?;
                let came = &buffer.filled()[before..];
                if came.is_empty() {
                    break;
                }
                let passed = this.passed(came);
                buffer.set_filled(before + passed);
                if passed > 0 {
                    break;
                }
            } else {
                let mut space = [0; PIECE];
                let mut piece = ReadBuf::new(&mut space);
                ready!(Pin::new(&mut this.peer).poll_read(cx, &mut piece))?;
                this.held.extend_from_slice(piece.filled());
                if piece.filled().is_empty() {
                    this.unseen = usize::MAX; // it ends here
                }
                this.settle();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Mended<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().peer).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().peer).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().peer).poll_shutdown(cx)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context, bytes: &[IoSlice]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().peer).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.peer.is_write_vectored()
    }
}
