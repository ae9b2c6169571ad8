"""A logic-free picker: grpc.aio on uvloop with canned answers that always name one endpoint.

The least that a Python picker on grpc.aio can cost, hence the yardstick of `bench/gateway.py`; it also lets
the configurations of `deploy/envoy` be tried without epp. Answers FULL_DUPLEX_STREAMED bodies by echoing them
once the request is whole, BUFFERED, BUFFERED_PARTIAL and STREAMED ones by an empty answer for each message.

    python bench/responder.py --port 9002 --health-port 9003 --endpoint 127.0.0.1:8000
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any, Final

import click
import grpc
import uvloop
from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

CHUNK_BYTES = 62_000
DUPLEX = processing_mode_pb2.ProcessingMode.FULL_DUPLEX_STREAMED
# The published type stubs lack it.
_EOF: Final[Any] = vars(grpc.aio)["EOF"]
HEADER = "x-gateway-destination-endpoint"

Message = ext_proc.ProcessingRequest
Answer = ext_proc.ProcessingResponse


class Responder:
    """Canned answers for one endpoint, built once."""

    def __init__(self, endpoint: str) -> None:
        chosen = ext_proc.CommonResponse(
            clear_route_cache=True,
            header_mutation=ext_proc.HeaderMutation(
                set_headers=[
                    base_pb2.HeaderValueOption(
                        header=base_pb2.HeaderValue(key=HEADER, raw_value=endpoint.encode())
                    )
                ]
            ),
        )
        self._chosen = Answer(request_headers=ext_proc.HeadersResponse(response=chosen))
        self._chosen.dynamic_metadata["envoy.lb"] = {HEADER: endpoint}
        self._chosen_at_body = Answer(request_body=ext_proc.BodyResponse(response=chosen))
        self._empty = {
            "request_headers": Answer(request_headers=ext_proc.HeadersResponse()),
            "request_body": Answer(request_body=ext_proc.BodyResponse()),
            "request_trailers": Answer(request_trailers=ext_proc.TrailersResponse()),
            "response_headers": Answer(response_headers=ext_proc.HeadersResponse()),
            "response_body": Answer(response_body=ext_proc.BodyResponse()),
            "response_trailers": Answer(response_trailers=ext_proc.TrailersResponse()),
        }

    async def process(self, _: object, context: grpc.aio.ServicerContext[Message, Answer]) -> None:
        request_duplex = answer_duplex = chosen = False
        parts: list[bytes] = []
        while (message := await context.read()) is not _EOF:
            if message.HasField("protocol_config"):
                request_duplex = message.protocol_config.request_body_mode == DUPLEX
                answer_duplex = message.protocol_config.response_body_mode == DUPLEX
            kind = message.WhichOneof("request")
            if kind == "request_headers":
                ended = message.request_headers.end_of_stream
                if ended or not request_duplex:
                    chosen = ended
                    await context.write(self._chosen if ended else self._empty[kind])
            elif kind == "request_body" and request_duplex:
                parts.append(message.request_body.body)
                if message.request_body.end_of_stream:
                    await context.write(self._chosen)
                    for answer in _echo(b"".join(parts)):
                        await context.write(answer)
                    parts.clear()
            elif kind == "request_body":
                await context.write(self._empty[kind] if chosen else self._chosen_at_body)
                chosen = True
            elif kind == "response_body" and answer_duplex:
                body = message.response_body
                answer = Answer()
                streamed = answer.response_body.response.body_mutation.streamed_response
                streamed.body = body.body
                streamed.end_of_stream = body.end_of_stream
                await context.write(answer)
            elif kind is not None:
                await context.write(self._empty[kind])


def _echo(body: bytes) -> list[Answer]:
    answers = []
    for start in range(0, len(body) or 1, CHUNK_BYTES):
        answer = Answer()
        streamed = answer.request_body.response.body_mutation.streamed_response
        streamed.body = body[start : start + CHUNK_BYTES]
        streamed.end_of_stream = start + CHUNK_BYTES >= len(body)
        answers.append(answer)
    return answers


async def _serve(port: int, health_port: int, endpoint: str) -> None:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 128 << 20)])
    handler = grpc.stream_stream_rpc_method_handler(
        Responder(endpoint).process,
        request_deserializer=Message.FromString,
        response_serializer=Answer.SerializeToString,
    )
    service = "envoy.service.ext_proc.v3.ExternalProcessor"
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Process": handler})])
    server.add_insecure_port(f"127.0.0.1:{port}")
    health_server = grpc.aio.server()
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, health_server)
    await health.set(service, health_pb2.HealthCheckResponse.SERVING)
    health_server.add_insecure_port(f"127.0.0.1:{health_port}")
    await server.start()
    await health_server.start()
    print("ready", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await asyncio.gather(server.stop(0), health_server.stop(0))


@click.command(help=__doc__)
@click.option("--port", default=9002, show_default=True, help="ext_proc listener on loopback.")
@click.option("--health-port", default=9003, show_default=True, help="gRPC health listener on loopback.")
@click.option("--endpoint", default="127.0.0.1:8000", show_default=True, help="The endpoint always chosen.")
def main(port: int, health_port: int, endpoint: str) -> None:
    uvloop.run(_serve(port, health_port, endpoint))


if __name__ == "__main__":
    main()
