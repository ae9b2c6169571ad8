"""Real API servers: one that the tests of a worker share, and private ones for tests that kill theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from .rig import ApiServer, Parts, parts


@pytest.fixture(scope="session")
def kube_parts() -> Parts:
    found = parts()
    if isinstance(found, str):
        pytest.skip(f"KUBERNETES TESTS SKIPPED: {found}")
    return found


@pytest.fixture(scope="session")
def apiserver(kube_parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Shared: use a namespace of your own, leave its processes and its CRDs alone. All CRDs are installed."""
    server = ApiServer(kube_parts, tmp_path_factory.mktemp("kube"))
    try:
        server.start()
        server.inference_crds()
        yield server
    finally:
        server.stop()


@pytest.fixture
def namespace(apiserver: ApiServer) -> str:
    """A new one on the shared server."""
    return apiserver.namespace()


@pytest.fixture
def private_apiserver(
    kube_parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], ApiServer]]:
    """Starts a server without CRDs that is the test's own."""
    started: list[ApiServer] = []

    def start() -> ApiServer:
        server = ApiServer(kube_parts, tmp_path_factory.mktemp("kube"))
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()
