"""A request through the gateway: is it answered by an endpoint of the pool, and of the picker's choice?"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Collection, Mapping
from typing import Any

import aiohttp
import msgspec

from epp.doctor.finding import Finding, error, ok, skipped, warning
from epp.doctor.modes import DESTINATION
from epp.doctor.routes import SERVED
from epp.doctor.web import Fetched, FetchError, fetch

TEST_HEADER = "test-epp-endpoint-selection"
PATIENCE_S = 120.0
"""A request may queue, and a server may be slow."""
NOBODY = "127.0.0.1:1"
"""An endpoint that a client must not be able to choose."""
_DROPPED = "x-llm-d-request-dropped-reason"


async def check_request(
    client: aiohttp.ClientSession,
    gateway: str,
    model: str,
    endpoints: Collection[str],
    headers: Mapping[str, str],
    tls: ssl.SSLContext | None = None,
) -> list[Finding]:
    """`endpoints`: `ip:port`, as far as they are known. Without a model the first that is listed is asked."""
    subject = f"request through {gateway}"
    if not model:
        try:
            listed = await fetch(client, f"{gateway}/v1/models", headers=headers, tls=tls)
        except FetchError as problem:
            return [_unreachable(subject, problem)]
        if listed.status >= 500:  # no server of the pool can be asked for anything
            return [_failed(f"{subject}/v1/models", listed)]
        model = _first_model(listed)
        if not model:
            found = f"/v1/models lists no model (status {listed.status})"
            return [skipped(subject, found, "name one: --model")]

    async def ask(**more: str) -> Fetched:
        body = {"model": model, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
        sent = {**headers, "x-request-id": f"epp-doctor-{secrets.token_hex(8)}", **more}
        return await fetch(
            client, f"{gateway}/v1/chat/completions", body=body, headers=sent, timeout_s=PATIENCE_S, tls=tls
        )

    try:
        answer = await ask()
        if answer.status != 200:
            return [_failed(subject, answer)]
        return [
            _served(subject, answer, endpoints),
            _not_forged(gateway, await ask(**{DESTINATION: NOBODY})),
            *await _chosen(gateway, ask, endpoints),
        ]
    except FetchError as problem:
        return [_unreachable(subject, problem)]


def _unreachable(subject: str, problem: FetchError) -> Finding:
    return error(subject, str(problem), "correct --gateway; start the gateway or open its port")


def _failed(subject: str, answer: Fetched) -> Finding:
    words = _message(answer.body)
    mends = {
        404: "does the gateway have a route for /v1/chat/completions, and the server this model?",
        429: "the pool is full: look at the picker's metrics and queues (docs/overload.md)",
        503: "is the picker up, and does the pool have ready endpoints? See the other findings",
        504: "message_timeout or the route's timeout passed: see the findings about Envoy",
    }
    dropped = answer.headers.get(_DROPPED, "")
    found = f"status {answer.status}" + (f" ({dropped})" if dropped else "") + (f": {words}" if words else "")
    return error(
        subject, found, mends.get(answer.status, "look at the logs of the gateway, picker and server")
    )


def _served(subject: str, answer: Fetched, endpoints: Collection[str]) -> Finding:
    served = answer.headers.get(SERVED, "")
    if not served:
        return warning(
            subject,
            f"answered, but without {SERVED}: which server did it is not told",
            f"let the route add {SERVED} with %UPSTREAM_REMOTE_ADDRESS% (deploy/envoy), unless a gateway in "
            f"front removes it on purpose",
        )
    if endpoints and served not in endpoints:
        return error(
            subject,
            f"answered by {served}, which is no endpoint of the pool",
            "does the route lead to the cluster that takes its host from the picker?",
        )
    return ok(subject, f"answered by {served}")


def _not_forged(gateway: str, answer: Fetched) -> Finding:
    subject = f"{DESTINATION} from a client of {gateway}"
    if answer.status == 200:
        return ok(subject, "is not obeyed")
    return error(
        subject,
        f"changes where the request goes: status {answer.status}",
        "remove it before all filters: early_header_mutation_extensions (deploy/envoy/standalone.yaml)",
    )


async def _chosen(gateway: str, ask: Any, endpoints: Collection[str]) -> list[Finding]:
    """By the conformance suite's header, which a gateway that is open to clients removes."""
    subject = f"{TEST_HEADER} through {gateway}"
    if not endpoints:
        return [skipped(subject, "no endpoint is known here to be asked for", "name them: --endpoints-file")]
    for wanted in sorted(endpoints)[:2]:
        served = (await ask(**{TEST_HEADER: wanted})).headers.get(SERVED, "")
        if served != wanted:
            return [ok(subject, "is not obeyed: clients cannot choose")]
    return [
        ok(subject, "is obeyed, as the conformance suite needs it; remove it where clients are strangers")
    ]


def _first_model(answer: Fetched) -> str:
    try:
        listed = msgspec.json.decode(answer.body)
    except msgspec.DecodeError:
        return ""
    rows = listed.get("data") if isinstance(listed, dict) else None
    first = rows[0] if isinstance(rows, list) and rows else None
    return str(first.get("id", "")) if isinstance(first, dict) else ""


def _message(body: bytes) -> str:
    """The words of an error in OpenAI's form, or the beginning of the text."""
    try:
        told = msgspec.json.decode(body)
        words = told["error"]["message"]
    except (msgspec.DecodeError, KeyError, TypeError):
        words = body[:200].decode(errors="replace")
    return str(words).strip()[:300]
