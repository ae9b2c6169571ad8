"""The transport on grpc.aio: moves messages between a stream and its exchange, and enforces limits.

grpc.aio does not tell a call's `:authority`: heads have none here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil, inf
from time import monotonic
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from epp.domain.errors import Answer, Reason, Refused
from epp.domain.views import Abort, Clock, Door, Ending
from epp.extproc.actions import Action, Close, Cut, Fail, StreamedReply
from epp.extproc.codec import decode, encode
from epp.extproc.exchange import Exchange
from epp.extproc.messages import Budget
from epp.extproc.sparing import SparingLog
from epp.extproc.transport import Limits, StreamSink, Tls

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
_SWEEP_S = 1.0
_INT_MAX = (1 << 31) - 1
_POOL = "x-gateway-inference-pool"
_FEW = 4
"""Messages that are sent without being counted: less than 250 KB."""
# The published type stubs lack it.
_EOF: Final[Any] = vars(grpc.aio)["EOF"]

log = logging.getLogger("epp.extproc")

Context = grpc.aio.ServicerContext[Any, Any]


class _Stream:
    """One open stream, as the sweep for time limits sees it."""

    __slots__ = ("aborting", "exchange", "progress_at", "task", "timed_out")

    def __init__(self, make: Callable[[Abort], Exchange], now: float) -> None:
        self.exchange = make(self.abort)
        self.progress_at = now
        self.task = asyncio.current_task()
        self.timed_out = False
        self.aborting: Answer | None = None

    def abort(self, answer: Answer) -> None:
        """By the door's own will; the stream's task does it."""
        self.aborting = answer
        if self.task is not None:
            self.task.cancel()


class GrpcioTransport:
    """Serves Envoy's ExternalProcessor."""

    def __init__(
        self,
        door: Door,
        *,
        address: str,
        sink: StreamSink,
        new_id: Callable[[], str],
        limits: Limits | None = None,
        tls: Callable[[], Tls] | None = None,
        reload_tls: bool = False,
        reflection: bool = False,
        servicers: Sequence[Callable[[grpc.aio.Server], None]] = (),
        max_send_bytes: int = -1,
        clock: Clock = monotonic,
    ) -> None:
        self._door = door
        self._address = address
        self._sink = sink
        self._new_id = new_id
        self._limits = limits or Limits()
        self._budget = Budget(self._limits.max_buffered_bytes)
        self._tls = tls
        self._reload_tls = reload_tls
        self._reflection = reflection
        self._servicers = servicers
        self._max_send_bytes = max_send_bytes
        self._clock = clock
        self._refusals = SparingLog(log, clock)
        self._streams: set[_Stream] = set()
        self._opened = 0
        self._cut_off_at = inf
        self._port = 0
        self._server: grpc.aio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        return self._port

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    @property
    def opened_streams(self) -> int:
        return self._opened

    @property
    def held_bytes(self) -> int:
        """Of request bodies, all streams together."""
        return self._budget.used

    async def start(self) -> None:
        limits = 2 * self._limits.max_streams
        server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", self._limits.receive_bytes),
                ("grpc.max_send_message_length", self._max_send_bytes),
                ("grpc.so_reuseport", 0),
                # Streams that nobody has taken yet. From 1,000 on gRPC would reject some by chance, but a
                # burst is no attack: `max_streams` limits them, with an answer.
                ("grpc.server.max_pending_requests", limits),
                ("grpc.server.max_pending_requests_hard_limit", limits),
                # Gateways keep their connection for days: answer their pings, however often.
                ("grpc.http2.min_ping_interval_without_data_ms", 1000),
                ("grpc.keepalive_permit_without_calls", 1),
                # A gateway whose machine is gone says nothing: find out, and free what its streams hold.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.http2.max_pings_without_data", 0),
                *self._age(),
            )
        )
        handler = grpc.stream_stream_rpc_method_handler(
            self._process,
            request_deserializer=pb.ProcessingRequest.FromString,
            response_serializer=pb.ProcessingResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"Process": handler}),)
        )
        for register in self._servicers:
            register(server)
        if self._reflection:
            from grpc_reflection.v1alpha import reflection

            reflection.enable_server_reflection((SERVICE, reflection.SERVICE_NAME), server)
        try:
            self._port = self._bind(server)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._address}: {error}") from error
        await server.start()
        self._server = server
        self._sweeper = asyncio.create_task(self._sweep(), name="extproc-sweep")

    def _age(self) -> Sequence[tuple[str, int]]:
        """gRPC itself adds or takes a tenth, and lets open streams end in their own time."""
        age_s = self._limits.max_connection_age_s
        return (("grpc.max_connection_age_ms", min(ceil(age_s * 1e3), _INT_MAX)),) if age_s > 0 else ()

    def _bind(self, server: grpc.aio.Server) -> int:
        if self._tls is None:
            return server.add_insecure_port(self._address)
        source = self._tls
        if not self._reload_tls:
            pair = source()
            return server.add_secure_port(
                self._address, grpc.ssl_server_credentials([(pair.key, pair.certificate)])
            )

        def configuration() -> grpc.ServerCertificateConfiguration:
            pair = source()
            return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)])

        # The fetcher is asked at every handshake; `source` keeps the last good pair.
        credentials = grpc.dynamic_ssl_server_credentials(configuration(), configuration)
        return server.add_secure_port(self._address, credentials)

    async def stop(self, grace_s: float) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._server is not None:
            self._cut_off_at = self._clock() + grace_s
            await self._server.stop(grace_s)

    def hurry(self, hurry: bool) -> None:
        """Everything is told as it happens."""

    def collect(self) -> None:
        """Everything is counted as it happens."""

    async def _sweep(self) -> None:
        """Time limits, once a second for all streams instead of a timer for each message."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = self._clock()
            for stream in tuple(self._streams):
                waiting = stream.exchange.pending is None
                if waiting and now - stream.progress_at > self._patience_s(stream.exchange):
                    stream.timed_out = True
                    # Whom even the answer about that does not reach is cut off after the same time again.
                    stream.progress_at = now
                    if stream.task is not None:
                        stream.task.cancel()

    def _patience_s(self, exchange: Exchange) -> float:
        uploading = exchange.waits_for_request and exchange.sees_upload
        return self._limits.progress_timeout_s if uploading else self._limits.answer_timeout_s

    async def _process(self, _requests: object, context: Context) -> None:
        began = self._clock()
        make = partial(
            Exchange,
            self._door,
            self._clock,
            self._new_id,
            max_body_bytes=self._limits.max_body_bytes,
            budget=self._budget,
            pool=_named_pool(context),
        )
        stream = _Stream(lambda abort: make(abort=abort), began)
        exchange = stream.exchange
        self._opened += 1
        self._sink.stream_opened()
        code = "OK"
        drained = False
        crowded = len(self._streams) >= self._limits.max_streams
        self._streams.add(stream)
        try:
            try:
                if crowded:
                    text = f"more than {self._limits.max_streams} requests are open"
                    await self._send(context, exchange.refuse(Refused(Reason.TOO_MANY_STREAMS, text)))
                else:
                    await self._converse(context, stream)
            except asyncio.CancelledError:
                if stream.aborting is not None:
                    await self._send(context, exchange.abort(stream.aborting))
                elif stream.timed_out:
                    await self._time_out(context, exchange)
                else:
                    raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            drained = self._clock() >= self._cut_off_at
            raise
        except grpc.aio.AbortError:
            code = context.code().name
            raise
        except grpc.aio.InternalError:
            # What we were sending could not be sent: the gateway has reset the stream meanwhile.
            code = "CANCELLED"
        except Exception:
            code = "INTERNAL"
            self._sink.internal_error("stream")
            log.exception("a stream ended by a fault of ours")
            raise
        finally:
            self._streams.discard(stream)
            try:
                ending = exchange.over(drained=drained)
                if code == "OK" and ending is Ending.CLIENT_DISCONNECT:
                    code = "CANCELLED"  # a reset may show as the end of reading first
            finally:
                self._sink.stream_closed(code, self._clock() - began)

    async def _converse(self, context: Context, stream: _Stream) -> None:
        exchange = stream.exchange
        request = await context.read()
        if request is _EOF:
            return
        if request.HasField("protocol_config"):
            modes = request.protocol_config
            exchange.learn_modes(modes.request_body_mode, modes.response_body_mode)
        while request is not _EOF:
            stream.progress_at = self._clock()
            actions = _taken(exchange, request)
            del request  # it may be a whole body, and the next one may come in an hour
            if await self._send(context, actions):
                return
            del actions
            if exchange.pending is None:
                request = await context.read()
                continue
            request = await self._read_while_deciding(context, exchange)
            stream.progress_at = self._clock()
            if request is None:
                return

    async def _read_while_deciding(self, context: Context, exchange: Exchange) -> Any:
        """The message after the verdict was sent; None when the stream is over.

        Reading goes on meanwhile: a client that leaves is noticed, and an answer of Envoy's own (a route
        timeout, say) ends the waiting.
        """
        pending = exchange.pending
        if pending is None:
            return await context.read()
        deciding = asyncio.ensure_future(pending)
        reading: asyncio.Future[Any] = asyncio.ensure_future(context.read())
        try:
            while True:
                await asyncio.wait((reading, deciding), return_when=asyncio.FIRST_COMPLETED)
                if deciding.done():
                    over = await self._send(context, exchange.decided(deciding.result()))
                    return None if over else await reading
                request = reading.result()
                if request is _EOF:
                    return _EOF
                if await self._send(context, _taken(exchange, request)):
                    return None
                del request
                reading = asyncio.ensure_future(context.read())
                if exchange.pending is None:
                    return await reading
        finally:
            deciding.cancel()
            reading.cancel()

    async def _send(self, context: Context, actions: Sequence[Action] | None) -> bool:
        """True when the stream is over."""
        if actions is None:
            await self._abort(context, "a message that holds none of the six kinds", "empty")
        if len(actions) > _FEW:
            return await self._send_body(context, actions)
        for action in actions:
            message = encode(action)
            if message is not None:
                await context.write(message)
            elif isinstance(action, Fail):
                await self._abort(context, action.message)
            elif isinstance(action, Close):
                return True
            elif isinstance(action, Cut):
                await context.abort(grpc.StatusCode.UNAVAILABLE, action.message)
        return False

    async def _send_body(self, context: Context, actions: Sequence[Action]) -> bool:
        """As `_send`; what waits here for a slow model server counts against the budget for bodies."""
        over = False
        held = sum(len(action.chunk) for action in actions if isinstance(action, StreamedReply))
        self._budget.used += held
        try:
            for at in range(0, len(actions), _FEW):
                over = await self._send(context, actions[at : at + _FEW])
        finally:
            self._budget.used -= held
        return over

    async def _abort(self, context: Context, message: str, kind: str = "order") -> NoReturn:
        self._sink.protocol_violation(kind)
        self._refusals.say(logging.WARNING, f"ext_proc stream refused: {message}")
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)

    async def _time_out(self, context: Context, exchange: Exchange) -> None:
        """Answers the client where that is still possible, else ends the stream with a status."""
        if exchange.waits_for_request:
            limit = self._patience_s(exchange)
            late = Refused(Reason.TIMED_OUT, f"no further part of the body came for {limit:g} seconds")
            await self._send(context, exchange.refuse(late))
        else:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no message for too long")


def _named_pool(context: Context) -> str:
    """From the metadata of the gateway's call; of repeated ones the last counts."""
    pool = ""
    for key, value in context.invocation_metadata() or ():
        if key == _POOL:
            pool = value if isinstance(value, str) else value.decode("utf-8", "replace")
    return pool


def _taken(exchange: Exchange, request: Any) -> list[Action] | None:
    """What the exchange wants done about a message; None when it is none."""
    decoded = decode(request)
    return None if decoded is None else exchange.receive(*decoded)
