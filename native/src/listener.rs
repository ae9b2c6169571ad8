//! Connections: accepting, TLS, HTTP/2's settings, keepalive, and which call a request is.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{self, Connection, SendResponse};
use h2::{Ping, Reason, RecvStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use crate::authority::{Mended, Names};
use crate::health;
use crate::io::{Core, Phase};
use crate::status::{RESOURCE_EXHAUSTED, UNIMPLEMENTED, response_head, trailers};
use crate::stream::Stream;
use crate::types::Origin;

const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A gateway whose machine is gone says nothing: find out, and free what its streams hold.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Connections that were opened together must not all be opened anew together.
const AGE_JITTER: f64 = 0.1;
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
const POOL: &str = "x-gateway-inference-pool";
/// What a stream that nobody reads may hold.
const STREAM_WINDOW: u32 = 256 << 10;
/// Streams that nobody reads must not stop the others of their connection.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// Received frames: Envoy sends long bodies in fewer, where we allow it.
const FRAME_BYTES: u32 = 64 << 10;
const SEND_BUFFER: usize = 1 << 20;

/// Of the descriptors that the process may have, connections may take this part: scrapes need some too.
const DESCRIPTOR_SHARE: u64 = 2;

pub async fn accept(core: Rc<Core>, socket: TcpListener, tls: Option<TlsAcceptor>) {
    let (most, open) = (most_connections(), Rc::new(Cell::new(0)));
    loop {
        match socket.accept().await {
            Ok(_) if open.get() >= most => {
                core.warn(format!("a connection was closed at once: {most} are open"));
                yield_now().await;
            }
            Ok((peer, _)) => {
                let place = Place::taken(&core, &open);
                spawn_local(connect(core.clone(), peer, tls.clone(), place));
            }
            Err(error) => {
                // No file descriptor left, as a rule; a pause, else this would spin.
                core.warn(format!("a connection could not be accepted: {error}"));
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// From accept to the end, whatever ends it.
struct Place {
    core: Rc<Core>,
    open: Rc<Cell<u64>>,
}

impl Place {
    fn taken(core: &Rc<Core>, open: &Rc<Cell<u64>>) -> Place {
        open.set(open.get() + 1);
        Place { core: core.clone(), open: open.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
        if std::thread::panicking() {
            // The runtime catches it; the streams of the connection see it end.
            self.core.counts.fault();
            self.core.warn("a connection ended by a fault of the native transport".to_owned());
        }
    }
}

/// A connection whose handshake is done.
struct Counted<'a>(&'a Core);

impl<'a> Counted<'a> {
    fn new(core: &'a Core) -> Counted<'a> {
        core.counts.connections.fetch_add(1, Relaxed);
        Counted(core)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.counts.connections.fetch_sub(1, Relaxed);
    }
}

fn most_connections() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one struct that lives here.
    let found = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if found == 0 { (limit.rlim_cur / DESCRIPTOR_SHARE).max(1) } else { u64::MAX }
}

async fn connect(core: Rc<Core>, peer: TcpStream, tls: Option<TlsAcceptor>, _place: Place) {
    let _ = peer.set_nodelay(true);
    let Some(acceptor) = tls else { return converse(core, peer).await };
    match timeout(HANDSHAKE, acceptor.accept(peer)).await {
        Ok(Ok(secured)) => converse(core, secured).await,
        _ => core.counts.handshake_failed(),
    }
}

/// One connection, from its preface on.
pub async fn converse<T: AsyncRead + AsyncWrite + Unpin>(core: Rc<Core>, peer: T) {
    // Gateways may reset many streams at once, before we have looked at them, and that is no attack: the
    // number of streams is limited elsewhere.
    let names = Names::default();
    let many = core.options.max_streams.saturating_mul(2).clamp(1024, 1 << 24);
    let handshake = server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(64 << 10)
        .max_concurrent_streams(u32::try_from(many).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(many)
        .max_local_error_reset_streams(None)
        .handshake::<Mended<T>, Bytes>(Mended::new(peer, names.clone()));
    let Ok(Ok(mut connection)) = timeout(HANDSHAKE, handshake).await else {
        core.counts.handshake_failed();
        return;
    };
    let _counted = Counted::new(&core);
    serve(&core, &mut connection, &names).await;
}

async fn serve<T: AsyncRead + AsyncWrite + Unpin>(
    core: &Rc<Core>,
    connection: &mut Connection<T, Bytes>,
    names: &Names,
) {
    let mut phase = core.phase.subscribe();
    if *phase.borrow() != Phase::Serving {
        phase.mark_changed(); // the end began during the handshake
    }
    let mut pings = connection.ping_pong();
    let mut asked = false; // a ping is on its way
    let mut next = Instant::now() + KEEPALIVE;
    let mut old_at = Instant::now() + age(core.options.max_connection_age_s);
    let mut origins = Origins { names, latest: Origin::default() };
    loop {
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => dispatch(core, &mut origins, request, respond),
                Some(Err(_)) | None => return,
            },
            () = sleep_until(next.min(old_at)) => {
                let now = Instant::now();
                if now >= old_at {
                    // The gateway opens another connection; what is open here, or on its way, goes on to its end.
                    connection.graceful_shutdown();
                    old_at = now + NEVER;
                    continue;
                }
                let Some(pings) = pings.as_mut() else { return };
                if asked || pings.send_ping(Ping::opaque()).is_err() {
                    connection.abrupt_shutdown(Reason::NO_ERROR);
                    let _ = timeout(Duration::from_secs(1), std::future::poll_fn(|cx| connection.poll_closed(cx))).await;
                    return;
                }
                asked = true;
                next = Instant::now() + KEEPALIVE_TIMEOUT;
            }
            pong = pong(&mut pings), if asked => {
                if pong.is_err() {
                    return;
                }
                asked = false;
                next = Instant::now() + KEEPALIVE;
            }
            changed = phase.changed() => {
                if changed.is_err() || *phase.borrow_and_update() == Phase::Over {
                    // Streams have ended or were reset: send that, and close.
                    connection.graceful_shutdown();
                    let closed = std::future::poll_fn(|cx| connection.poll_closed(cx));
                    let _ = timeout(Duration::from_millis(50), closed).await;
                    return;
                }
                connection.graceful_shutdown();
            }
        }
    }
}

async fn pong(pings: &mut Option<h2::PingPong>) -> Result<(), h2::Error> {
    match pings {
        Some(pings) => std::future::poll_fn(|cx| pings.poll_pong(cx)).await.map(|_| ()),
        None => std::future::pending().await,
    }
}

fn age(limit_s: f64) -> Duration {
    if limit_s > 0.0 {
        let chance = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
        Duration::try_from_secs_f64(limit_s * (1.0 + AGE_JITTER * (2.0 * chance - 1.0)))
            .map_or(NEVER, |age| age.min(NEVER))
    } else {
        NEVER
    }
}

/// Whose the streams of a connection are.
struct Origins<'a> {
    names: &'a Names,
    /// As a rule the next one's too.
    latest: Origin,
}

impl Origins<'_> {
    fn of(&mut self, request: &Request<RecvStream>) -> Origin {
        let given = request.uri().authority().map_or("", |authority| authority.as_str());
        let real = self.names.real(given);
        let authority = real.as_deref().unwrap_or(given.as_bytes());
        let pool =
            request.headers().get_all(POOL).iter().next_back().map_or(&b""[..], |value| value.as_bytes());
        let latest = &mut self.latest;
        if !latest.authority.eq_ignore_ascii_case(authority) {
            latest.authority = authority.to_ascii_lowercase().into();
        }
        if latest.pool != pool {
            latest.pool = Bytes::copy_from_slice(pool);
        }
        latest.clone()
    }
}

fn dispatch(
    core: &Rc<Core>,
    origins: &mut Origins,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let path = request.uri().path();
    if core.overrun() {
        if let Ok(mut send) = respond.send_response(response_head(), false) {
            let _ = send.send_trailers(trailers(RESOURCE_EXHAUSTED, "too many streams come and go"));
        }
    } else if path == PROCESS {
        let stream = Stream::open(core.clone(), respond, origins.of(&request));
        spawn_local(stream.run(request.into_body()));
    } else if core.options.health_checking
        && let Some(call) = health::call(path)
    {
        spawn_local(health::answer(core.clone(), call, request.into_body(), respond));
    } else if let Ok(mut send) = respond.send_response(response_head(), false) {
        let _ = send.send_trailers(trailers(UNIMPLEMENTED, "no such method"));
    }
}
