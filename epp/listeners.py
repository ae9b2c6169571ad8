"""The ports that gateways use: ext_proc on one of two transports, and gRPC health beside it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from epp.config.own import Limits as OwnLimits
from epp.domain.request import Api
from epp.domain.views import Door
from epp.extproc import native
from epp.extproc.certificates import serving
from epp.extproc.grpcio import GrpcioTransport
from epp.extproc.health import Health
from epp.extproc.native import NativeTransport
from epp.extproc.transport import Limits, StreamSink, Transport
from epp.options import Options


def transport_name(options: Options) -> str:
    return options.transport or ("native" if native.is_built() else "grpcio")


def open_transport(
    options: Options,
    own: OwnLimits,
    door: Door,
    *,
    sink: StreamSink,
    health: Health,
    early: bool,
    scan: Mapping[str, Api],
) -> Transport:
    """`early`: the door is asked at the headers whether it refuses; `scan`: see NativeTransport. Raises
    ValueError for certificates that cannot be used."""
    limits = Limits(
        max_body_bytes=own.max_body_bytes,
        max_buffered_bytes=own.max_buffered_bytes,
        max_streams=own.max_streams,
        progress_timeout_s=own.progress_timeout,
        answer_timeout_s=own.answer_timeout,
        max_connection_age_s=own.max_connection_age,
        max_message_bytes=options.grpc_max_recv_bytes,
    )
    address = f"{options.bind_address}:{options.grpc_port}"
    tls = serving(options.secure_serving, options.cert_path)
    if transport_name(options) == "native":
        return NativeTransport(
            door,
            address=address,
            sink=sink,
            new_id=_new_id,
            limits=limits,
            tls=tls,
            reload_tls=options.cert_reload,
            ready=health.ready if options.health_checking else None,
            scan=scan,
            early=early,
        )
    return GrpcioTransport(
        door,
        address=address,
        sink=sink,
        new_id=_new_id,
        limits=limits,
        tls=tls,
        reload_tls=options.cert_reload,
        reflection=options.grpc_reflection,
        servicers=(health.register,) if options.health_checking else (),
        max_send_bytes=options.grpc_max_send_bytes,
    )


def _new_id() -> str:
    return str(uuid.uuid4())
