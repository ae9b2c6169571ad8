"""Whatever a page says, it is read or refused, and judged without a fault."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stack import DEPLOY, envoy, fetch, free_port
from epp.doctor.envoy import check_dump
from epp.doctor.envoydump import DumpError, read_dump

pytestmark = pytest.mark.envoy
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@dataclass(frozen=True)
class Page:
    text: str = field(repr=False)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Of a real Envoy with every kind of setting that is looked at."""
    directory: Path = tmp_path_factory.mktemp("dump")
    admin = free_port()
    values: dict[str, int | str] = {
        "admin": admin, "listener": free_port(), "listener_address": "127.0.0.1",
    }  # fmt: skip
    with envoy(DEPLOY / "sidecar.yaml", values, directory):
        told = json.loads(fetch(f"http://127.0.0.1:{admin}/config_dump"))
    for part in told["configs"]:  # two thirds of it, and not looked at
        if "bootstrap" in part:
            del part["bootstrap"]["static_resources"]
            part["bootstrap"]["node"].pop("extensions", None)
    return Page(json.dumps(told))


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every container in it, with each of its keys."""
    found = []
    if isinstance(node, dict | list):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            found.append((node, key))
            found += places(node[key])
    return found


@given(st.data())
def test_a_dump_with_other_things_in_it(page: Page, data: st.DataObject) -> None:
    told = json.loads(page.text)
    for _ in range(data.draw(st.integers(1, 3))):
        every = places(told)
        if not every:
            break
        container, key = every[data.draw(st.integers(0, len(every) - 1))]
        if data.draw(st.booleans()):
            container[key] = data.draw(JUNK)
        else:
            del container[key]
    judged(told)


@given(JUNK)
def test_any_json(told: Any) -> None:
    judged(told)
    judged({"configs": [told]})


def judged(told: Any) -> None:
    try:
        dump = read_dump(json.dumps(told).encode())
    except DumpError:
        return
    assert check_dump(dump)
