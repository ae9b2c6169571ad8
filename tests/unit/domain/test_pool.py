"""A pool's own words: what stands for it in keys, and what it means where nothing is said."""

from __future__ import annotations

from epp.domain.pool import POOL_GROUP, AppProtocol, FailureMode, PoolSpec


def test_what_a_pool_need_not_say() -> None:
    pool = PoolSpec("prod", "chat", "app=chat", (8000,))
    assert pool.key == "prod/chat"
    assert (pool.group, pool.app_protocol, pool.failure_mode) == (
        POOL_GROUP,
        AppProtocol.HTTP,
        FailureMode.CLOSE,
    )
    assert not pool.picker_service
    assert pool == PoolSpec("prod", "chat", "app=chat", (8000,))
