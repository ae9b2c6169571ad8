"""Short ways to build the domain's values in tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from epp.domain.endpoint import Endpoint
from epp.domain.request import Api, Prompt, Request, RequestHead
from epp.domain.snapshot import Snapshot


def endpoint(slot: int = 0, *, ip: str | None = None, port: int = 8000, **more: Any) -> Endpoint:
    return Endpoint(
        name=more.pop("name", f"pod-{slot}"),
        namespace=more.pop("namespace", "default"),
        ip=ip or f"10.0.{slot // 250}.{slot % 250 + 1}",
        port=port,
        slot=slot,
        metrics_port=more.pop("metrics_port", port),
        **more,
    )


def snapshot(
    n: int = 3, *, at: float = 100.0, endpoints: Sequence[Endpoint] | None = None, **columns: Any
) -> Snapshot:
    """A pool of n endpoints, freshly scraped, idle; any column can be given as a list."""
    pool = tuple(endpoints) if endpoints is not None else tuple(endpoint(i) for i in range(n))
    n = len(pool)

    def floats(name: str, default: float) -> Any:
        return np.asarray(columns.pop(name, [default] * n), dtype=np.float64)

    def ints(name: str) -> Any:
        return np.asarray(columns.pop(name, [0] * n), dtype=np.intp)

    def sets(name: str) -> tuple[frozenset[str], ...]:
        return tuple(frozenset(names) for names in columns.pop(name, [()] * n))

    built = Snapshot(
        version=1,
        at=at,
        endpoints=pool,
        slots=np.asarray([e.slot for e in pool], dtype=np.intp),
        waiting=floats("waiting", 0.0),
        running=floats("running", 0.0),
        kv_used=floats("kv_used", 0.0),
        block_size=ints("block_size"),
        num_blocks=ints("num_blocks"),
        scraped_at=floats("scraped_at", at),
        lora_max=ints("lora_max"),
        lora_running=sets("lora_running"),
        lora_waiting=sets("lora_waiting"),
        models=tuple(
            None if names is None else frozenset(names) for names in columns.pop("models", [None] * n)
        ),
        available=np.asarray(columns.pop("available", [True] * n), dtype=np.bool_),
        stale_after_s=columns.pop("stale_after_s", 0.2),
    )
    assert not columns, f"unknown columns {sorted(columns)}"
    return built


def head(
    path: str = "/v1/chat/completions",
    *,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    request_id: str = "req-1",
    received_at: float = 100.0,
    **more: Any,
) -> RequestHead:
    return RequestHead(
        headers=dict(headers or {}),
        method=method,
        path=path,
        request_id=request_id,
        received_at=received_at,
        **more,
    )


def request(
    text: str | bytes = b"hello",
    *,
    model: str = "base",
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Request:
    raw = text.encode() if isinstance(text, str) else text
    return Request(
        head=more.pop("head", None) or head(headers=headers),
        api=more.pop("api", Api.CHAT),
        model=model,
        target_model=more.pop("target_model", model),
        size_bytes=more.pop("size_bytes", len(raw)),
        prompts=more.pop("prompts", (Prompt(text=raw),)),
        **more,
    )
