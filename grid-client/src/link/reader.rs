//! The reading half of a link: from bytes to messages, and what each frame means.
//!
//! Most is read into one buffer, many frames at a time. The payload of a large body is read to where it is to lie, together
//! with the header of the frame behind it: one read for a frame, and no copy.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use grid_core::tensor::{AlignedBytes, Buffer};
use grid_core::wire::assembly::Assembly;
use grid_core::wire::credit::HEAD_COST;
use grid_core::wire::frame::{HEADER, Header, Kind, MAX_PAYLOAD, ResetCode};
use tokio::io::{AsyncRead, ReadBuf};

use super::Reading;
use super::error::{Closed, ExchangeError};
use super::exchange::Incoming;
use super::reply::{Reply, Served, Service};
use super::shared::Shared;

/// The buffer: any frame fits.
const BUFFER: usize = HEADER + MAX_PAYLOAD + 4096;

/// From so many bytes on, the rest of a payload is read to where it is to lie.
const DIRECT: usize = 4096;

/// A message whose body is arriving.
struct Arriving {
    head: Bytes,
    remaining: Option<Duration>,
    last: bool,
    body: Assembly,
    served: Option<Arc<Served>>,
}

/// The payload of a data frame that is being read.
struct Payload {
    exchange: u64,
    left: usize,
}

pub(super) struct Reader {
    shared: Arc<Shared>,
    io: Box<dyn Reading>,
    service: Box<dyn Service + Send>,
    version: u8,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    payload: Option<Payload>,
    arriving: BTreeMap<u64, Arriving>,
    /// The highest id of an exchange that the other end opened.
    newest: u64,
    pong: Option<u64>,
    peer_goes_away: bool,
}

fn violation(broken: impl ToString) -> Closed {
    Closed::Violation(broken.to_string())
}

impl Reader {
    pub(super) fn new(
        shared: Arc<Shared>,
        io: Box<dyn Reading>,
        service: Box<dyn Service + Send>,
        version: u8,
        behind: &[u8],
    ) -> Self {
        let mut buffer = vec![0; BUFFER];
        // At most what the handshake reads at once.
        buffer[..behind.len()].copy_from_slice(behind);
        Self {
            shared,
            io,
            service,
            version,
            buffer,
            start: 0,
            end: behind.len(),
            payload: None,
            arriving: BTreeMap::new(),
            newest: 0,
            pong: None,
            peer_goes_away: false,
        }
    }

    /// The number of the last pong that came since this was last called.
    pub(super) fn take_pong(&mut self) -> Option<u64> {
        self.pong.take()
    }

    pub(super) fn peer_goes_away(&self) -> bool {
        self.peer_goes_away
    }

    /// Drops what was put together of answers that nobody wants.
    pub(super) fn drop_abandoned(&mut self) {
        let abandoned = std::mem::take(&mut self.shared.book.lock().abandoned);
        for exchange in abandoned {
            self.arriving.remove(&exchange);
        }
    }

    /// Reads once.
    ///
    /// # Errors
    /// When the connection has ended.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        let is_empty = self.start == self.end;
        if is_empty {
            (self.start, self.end) = (0, 0);
            if let Some(payload) = self.payload.as_mut().filter(|payload| payload.left >= DIRECT)
                && let Some(arriving) = self.arriving.get_mut(&payload.exchange)
            {
                let mut room = ReadBuf::new(arriving.body.room(payload.left + HEADER));
                let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut room));
                let count = room.filled().len();
                let behind = arriving.body.filled(count, payload.left);
                self.end = behind.len();
                self.buffer[..self.end].copy_from_slice(behind);
                payload.left -= count - self.end;
                return Poll::Ready(Self::ended(read, count));
            }
        } else if self.end + DIRECT > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut room = ReadBuf::new(&mut self.buffer[self.end..]);
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut room));
        let count = room.filled().len();
        self.end += count;
        Poll::Ready(Self::ended(read, count))
    }

    fn ended(read: std::io::Result<()>, count: usize) -> Result<(), Closed> {
        match read {
            Err(error) => Err(Closed::Io(error.to_string())),
            Ok(()) if count == 0 => Err(Closed::ByPeer),
            Ok(()) => Ok(()),
        }
    }

    /// Does what the frames say that have arrived.
    ///
    /// # Errors
    /// When that ends the link.
    pub(super) fn process(&mut self) -> Result<(), Closed> {
        loop {
            if let Some(payload) = &mut self.payload {
                let here = payload.left.min(self.end - self.start);
                let bytes = &self.buffer[self.start..self.start + here];
                self.start += here;
                payload.left -= here;
                let Payload { exchange, left } = *payload;
                // Of an exchange that has ended, they came late.
                if let Some(arriving) = self.arriving.get_mut(&exchange) {
                    arriving.body.push(bytes).map_err(violation)?;
                }
                if left > 0 {
                    return Ok(());
                }
                self.payload = None;
                self.complete(exchange);
                continue;
            }
            let arrived = &self.buffer[self.start..self.end];
            let Some((header, behind)) = arrived.split_first_chunk::<HEADER>() else {
                return Ok(());
            };
            let header = Header::decode(header).map_err(violation)?;
            if header.version != self.version {
                return Err(violation(format_args!(
                    "a frame of version {}, agreed was {}",
                    header.version, self.version
                )));
            }
            if header.kind == Kind::Data {
                self.start += HEADER;
                self.data(header)?;
                continue;
            }
            let Some(payload) = behind.get(..header.payload as usize) else {
                return Ok(());
            };
            let payload = Bytes::copy_from_slice(payload);
            self.start += HEADER + payload.len();
            self.frame(header, payload)?;
        }
    }

    /// Whether the exchange was opened here.
    ///
    /// # Errors
    /// When it was never opened.
    fn is_own(&self, header: &Header) -> Result<bool, Closed> {
        let next = self.shared.out.lock().next_exchange();
        let is_own = header.exchange % 2 == next % 2;
        let is_known = if is_own {
            header.exchange < next
        } else {
            header.exchange <= self.newest && header.exchange > 0
        };
        match is_known {
            true => Ok(is_own),
            false => Err(violation(format_args!(
                "a {:?} frame of exchange {}, which was never opened",
                header.kind, header.exchange
            ))),
        }
    }

    fn data(&mut self, header: Header) -> Result<(), Closed> {
        let length = header.payload as usize;
        match self.arriving.get(&header.exchange) {
            Some(arriving) => {
                arriving.body.check(length).map_err(violation)?;
                let mut book = self.shared.book.lock();
                book.ledger.data(header.exchange, length).map_err(violation)?;
                let grants = book.ledger.take_grants();
                drop(book);
                self.shared.grant(grants);
            }
            None => {
                self.is_own(&header)?;
            }
        }
        self.payload = Some(Payload {
            exchange: header.exchange,
            left: length,
        });
        Ok(())
    }

    fn frame(&mut self, header: Header, payload: Bytes) -> Result<(), Closed> {
        let exchange = header.exchange;
        match header.kind {
            Kind::Head => self.head(header, payload)?,
            Kind::Credit => {
                self.is_own(&header)?;
                self.shared.write(|outbox| outbox.grant(exchange, header.argument));
            }
            Kind::Cancel => {
                if self.is_own(&header)? {
                    return Err(violation("it cancels an exchange that it did not open"));
                }
                self.arriving.remove(&exchange);
                self.shared.finish(exchange);
                self.shared.write(|outbox| outbox.remove(exchange));
            }
            Kind::Reset => {
                if !self.is_own(&header)? {
                    return Err(violation("it resets an exchange that it opened"));
                }
                self.fail(exchange, ResetCode::from_code(header.argument).into());
            }
            Kind::Ping => {
                let flooded = self
                    .shared
                    .write(|outbox| outbox.control(Header::new(Kind::Pong, exchange)));
                self.shared.check(flooded);
            }
            Kind::Pong => self.pong = Some(exchange),
            Kind::GoAway => {
                self.peer_goes_away = true;
                self.shared.write(|outbox| outbox.go_away());
            }
            Kind::Refused => {
                let text = String::from_utf8_lossy(&payload[..payload.len().min(1000)]);
                return Err(Closed::Refused(text.into_owned()));
            }
            Kind::Hello | Kind::Proof | Kind::Data => {
                return Err(violation(format_args!("a {:?} frame out of turn", header.kind)));
            }
        }
        Ok(())
    }

    /// Ends an exchange that was opened here.
    fn fail(&mut self, exchange: u64, error: ExchangeError) {
        self.arriving.remove(&exchange);
        self.shared.write(|outbox| outbox.remove(exchange));
        if let Some(inbox) = self.shared.finish(exchange) {
            inbox.fail(error);
        }
    }

    fn head(&mut self, header: Header, head: Bytes) -> Result<(), Closed> {
        let exchange = header.exchange;
        let next = self.shared.out.lock().next_exchange();
        let served = if exchange % 2 == next % 2 {
            self.is_own(&header)?;
            if self.arriving.contains_key(&exchange) {
                return Err(violation("a message within another one of its exchange"));
            }
            if !self.shared.book.lock().calls.contains_key(&exchange) {
                return Ok(());
            }
            None
        } else {
            match self.opened(&header)? {
                Some(served) => Some(served),
                None => return Ok(()),
            }
        };
        let limit = self.shared.limits.max_message;
        let bytes = header.body as usize;
        if bytes > limit {
            if served.is_some() {
                self.shared.reset(exchange, ResetCode::TooLarge);
            } else {
                let inbox = self.shared.book.lock().calls.get(&exchange).cloned();
                self.shared.cancel(exchange);
                if let Some(inbox) = inbox {
                    inbox.fail(ExchangeError::AnswerTooLarge { bytes, limit });
                }
            }
            return Ok(());
        }
        let mut book = self.shared.book.lock();
        if served.is_some() {
            book.ledger.open(exchange);
        }
        let body = u64::from(header.body);
        book.ledger.head(exchange, head.len(), body).map_err(violation)?;
        let grants = book.ledger.take_grants();
        drop(book);
        self.shared.grant(grants);
        self.arriving.insert(
            exchange,
            Arriving {
                head,
                remaining: match header.argument {
                    0 => None,
                    left => Some(Duration::from_millis(u64::from(left))),
                },
                last: header.is_last(),
                body: Assembly::new(bytes),
                served,
            },
        );
        self.complete(exchange);
        Ok(())
    }

    /// Takes note of an exchange that the other end opens; `None` if it is refused.
    fn opened(&mut self, header: &Header) -> Result<Option<Arc<Served>>, Closed> {
        let exchange = header.exchange;
        if exchange <= self.newest {
            return Err(violation("a request with the number of an earlier one"));
        }
        if !header.is_last() {
            return Err(violation("a request of several messages, which this version has not"));
        }
        self.newest = exchange;
        let most = self.shared.limits.max_exchanges;
        let opened = self.shared.write(|outbox| {
            // What is read of a link after its end is for nobody.
            if !outbox.is_open() {
                return Ok(None);
            }
            // It is opened in any case, for the reset to have something to end.
            let code = if outbox.is_going_away() {
                ResetCode::GoingAway
            } else if outbox.serving() >= most {
                ResetCode::Busy
            } else {
                let served = Arc::new(Served::default());
                outbox.serve(exchange, Arc::clone(&served));
                return Ok(Some(served));
            };
            outbox.reset(exchange, code).map(|()| None)
        });
        opened.map_err(violation)
    }

    /// Hands a message on, if all of it is there.
    fn complete(&mut self, exchange: u64) {
        if !self
            .arriving
            .get(&exchange)
            .is_some_and(|arriving| arriving.body.is_complete())
        {
            return;
        }
        let Some(arriving) = self.arriving.remove(&exchange) else {
            return;
        };
        let cost = arriving.head.len() as u64 + HEAD_COST + arriving.body.total() as u64;
        let incoming = Incoming {
            head: arriving.head,
            body: arriving.body.finish().unwrap_or_else(empty),
            remaining: arriving.remaining,
            last: arriving.last,
        };
        if let Some(served) = arriving.served {
            self.shared.finish(exchange);
            let reply = Reply::new(Arc::clone(&self.shared), exchange, served);
            return self.service.call(incoming, reply);
        }
        let inbox = if incoming.last {
            self.shared.write(|outbox| outbox.remove(exchange));
            self.shared.finish(exchange)
        } else {
            let mut book = self.shared.book.lock();
            book.ledger.hold(exchange, cost);
            let grants = book.ledger.take_grants();
            let inbox = book.calls.get(&exchange).cloned();
            drop(book);
            self.shared.grant(grants);
            inbox
        };
        if let Some(inbox) = inbox {
            inbox.deliver(incoming, cost);
        }
    }
}

fn empty() -> Buffer {
    AlignedBytes::default().freeze()
}
