//! What a stream has to say and HTTP/2 has no room for yet. It counts against the budget for bodies.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, SendStream};

use crate::exchange::Budget;
use crate::proto::Frame;
use crate::status::{response_head, trailers};

/// Shorter pieces are sent together in one DATA frame.
const SMALL_BYTES: usize = 4096;
/// Asked of HTTP/2's flow control at once.
const RESERVED_BYTES: usize = 1 << 20;

pub struct Outbox {
    respond: SendResponse<Bytes>,
    /// Once the response's headers are out.
    send: Option<SendStream<Bytes>>,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    budget: Rc<Budget>,
}

impl Outbox {
    pub fn new(respond: SendResponse<Bytes>, budget: Rc<Budget>) -> Outbox {
        Outbox { respond, send: None, queue: VecDeque::new(), queued_bytes: 0, budget }
    }

    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    pub fn push(&mut self, frames: impl Iterator<Item = Frame>) {
        let mut small: Option<BytesMut> = None;
        for part in frames.flat_map(|frame| [frame.head, frame.tail]) {
            if part.is_empty() {
                continue;
            }
            self.queued_bytes += part.len();
            self.budget.take(part.len() as u64);
            if part.len() < SMALL_BYTES {
                small.get_or_insert_with(|| BytesMut::with_capacity(512)).extend_from_slice(&part);
                continue;
            }
            if let Some(gathered) = small.take() {
                self.queue.push_back(gathered.freeze());
            }
            self.queue.push_back(part);
        }
        if let Some(gathered) = small {
            self.queue.push_back(gathered.freeze());
        }
    }

    /// As much as there is room for now.
    pub fn send_some(&mut self) -> Result<(), h2::Error> {
        if self.queued_bytes == 0 {
            return Ok(());
        }
        self.open()?;
        let Some(send) = self.send.as_mut() else { return Ok(()) };
        while let Some(piece) = self.queue.front_mut() {
            send.reserve_capacity(self.queued_bytes.min(RESERVED_BYTES));
            let room = send.capacity();
            if room == 0 {
                return Ok(());
            }
            let part = if room < piece.len() { piece.split_to(room) } else { std::mem::take(piece) };
            if piece.is_empty() {
                self.queue.pop_front();
            }
            self.queued_bytes -= part.len();
            self.budget.give_back(part.len() as u64);
            send.send_data(part, false)?;
        }
        Ok(())
    }

    /// Ready when all is sent, Err when the stream is gone.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        loop {
            if self.send_some().is_err() {
                return Poll::Ready(Err(()));
            }
            if self.queued_bytes == 0 {
                return Poll::Ready(Ok(()));
            }
            let Some(send) = self.send.as_mut() else { return Poll::Ready(Err(())) };
            match send.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => return Poll::Ready(Err(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Ready when the peer has reset the stream.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.send.as_mut() {
            Some(send) => send.poll_reset(cx).map(|_| ()),
            None => self.respond.poll_reset(cx).map(|_| ()),
        }
    }

    /// The status, after which nothing more is sent.
    pub fn close(&mut self, code: u32, message: &str) {
        if self.open().is_ok()
            && let Some(send) = self.send.as_mut()
        {
            let _ = send.send_trailers(trailers(code, message));
        }
    }

    pub fn reset(&mut self, reason: Reason) {
        match self.send.as_mut() {
            Some(send) => send.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
    }

    /// What is left is not sent.
    pub fn drop_rest(&mut self) {
        self.queue.clear();
        self.budget.give_back(std::mem::take(&mut self.queued_bytes) as u64);
    }

    fn open(&mut self) -> Result<(), h2::Error> {
        if self.send.is_none() {
            self.send = Some(self.respond.send_response(response_head(), false)?);
        }
        Ok(())
    }
}
