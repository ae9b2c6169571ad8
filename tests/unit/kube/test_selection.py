"""What can be selected at all; complaints are for who has set the flags."""

from __future__ import annotations

import pytest

from epp.kube.selection import OnePool, PodsAlone
from epp.kube.selectors import EVERYTHING, parse

VLLM = parse("app=vllm")


def test_a_group_without_pools() -> None:
    with pytest.raises(
        ValueError, match=r"'apps' has no InferencePool; it is 'inference\.networking\.k8s\.io' or"
    ):
        OnePool("prod", "chat", "apps")


@pytest.mark.parametrize("ports", [(), (1, 1), tuple(range(1, 10)), (0,), (65536,)])
def test_ports_that_cannot_be(ports: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="target port"):
        PodsAlone("prod", "chat", VLLM, ports)


def test_every_pod_of_a_namespace() -> None:
    with pytest.raises(ValueError, match="name their labels"):
        PodsAlone("prod", "chat", EVERYTHING, (8000,))
    assert PodsAlone("prod", "chat", VLLM, (8000, 8001)).spec().target_ports == (8000, 8001)
