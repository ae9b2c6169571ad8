"""Everything here starts a real Envoy; one stack serves the tests of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.wire.transports import TRANSPORTS

from . import rig

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.envoy)


@pytest.fixture(scope="module", params=TRANSPORTS, autouse=True)
def transport(request: pytest.FixtureRequest) -> str:
    """Every test runs over every transport; fixtures that keep a stack for a module must ask for this one."""
    rig.transport = request.param
    return rig.transport
