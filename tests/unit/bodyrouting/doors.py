"""Doors of body-based routing with real rooms behind them, and requests for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import count

from epp.bodyrouting.basemodels import BaseModels, Family
from epp.bodyrouting.door import BodyDoor
from epp.bodyrouting.metrics import BodyMetrics
from epp.bodyrouting.steps import DEFAULT, Step
from epp.domain.errors import Answer
from epp.domain.request import Body, RequestHead
from epp.domain.views import Route
from epp.telemetry.tracing import Tracer

QWEN = Family("qwen", ("foo", "bar", "sql-lora-sheddable"), "test")
JSON = {":method": "POST", "content-type": "application/json"}


def door(steps: Sequence[Step] = DEFAULT) -> BodyDoor:
    """Knows the adapters of qwen; its clock goes a second further each time it is read."""
    models = BaseModels()
    models.replace([QWEN])
    ticks = count()
    return BodyDoor(steps, models, BodyMetrics(steps), Tracer(), lambda: float(next(ticks)))


def head(headers: Mapping[str, str] = JSON, *, has_body: bool = True) -> RequestHead:
    method = headers.get(":method", "POST")
    return RequestHead(headers, method, "/v1/completions", "r1", 0.0, has_body)


def decided(
    made: BodyDoor, body: Body, headers: Mapping[str, str] = JSON, *, truncated: bool = False
) -> Route | Answer:
    verdict = made.open(head(headers)).decide(body, truncated=truncated)
    assert isinstance(verdict, Route | Answer)
    return verdict


def told(
    made: BodyDoor, body: Body, headers: Mapping[str, str] = JSON, *, truncated: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Headers that are set, and those that are taken off."""
    route = decided(made, body, headers, truncated=truncated)
    assert isinstance(route, Route)
    assert (route.destination, route.body, route.skip_response) == ("", None, True)
    return dict(route.set_headers), list(route.remove_headers)


def refused(made: BodyDoor, body: Body, headers: Mapping[str, str] = JSON) -> tuple[int, str, str | None]:
    """Status, message and param of the error."""
    answer = decided(made, body, headers)
    assert isinstance(answer, Answer)
    error = json.loads(answer.body)["error"]
    return answer.status, error["message"], error["param"]


def number(made: BodyDoor, line: str) -> float:
    """The value of a line on the metrics page, 0 where there is none."""
    page = "".join(made.metrics.render()).splitlines()
    return next((float(one.rpartition(" ")[2]) for one in page if one.rpartition(" ")[0] == line), 0.0)
