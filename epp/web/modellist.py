"""Which models clients may ask for: what the endpoints serve and what rewrites accept, over all pools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field

from epp.datalayer.rewrites import Rewrites
from epp.domain.snapshot import Snapshot

MAX_MODELS = 10_000
"""Listed at most."""
OWNER = "epp"


class PoolModels(Struct, frozen=True):
    """One pool, as whoever serves it sees it now."""

    pool: str
    """`namespace/name`, or only a name."""
    snapshot: Snapshot
    rewrites: Rewrites


class Serving(Struct, frozen=True, omit_defaults=True):
    """A model in one pool."""

    name: str
    """Of the pool."""
    endpoints: int
    """That serve the model, or a target that a rewrite puts in its place. Those whose models are not known
    are not among them."""
    of: int
    """Endpoints of the pool."""
    targets: Mapping[str, int] = {}
    """Where a rewrite puts others in its place: their shares of the requests."""


class Model(Struct, kw_only=True):
    """As OpenAI's list has them, and vLLM's; `pools` is ours."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = OWNER
    root: str | None = None
    """The model that answers, where it is one only."""
    parent: None = None
    pools: list[Serving] = field(default_factory=list)


class Models(Struct, kw_only=True):
    object: str = "list"
    data: Sequence[Model]


def list_models(pools: Iterable[PoolModels], created: int) -> dict[str, Model]:
    """By name, in the order of names."""
    listed: dict[str, Model] = {}
    for pool in pools:
        for name, serving in _of_pool(pool):
            model = listed.get(name)
            if model is None:
                if len(listed) >= MAX_MODELS:
                    continue
                model = listed[name] = Model(id=name, created=created)
            model.pools.append(serving)
    for model in listed.values():
        model.pools.sort(key=lambda one: one.name)
        model.root = _root(model.id, model.pools)
    return dict(sorted(listed.items()))


def in_pool(models: Mapping[str, Model], pool: str) -> dict[str, Model]:
    """Those of one pool, by its whole name or, in whatever namespace, by its name alone."""
    found: dict[str, Model] = {}
    for name, model in models.items():
        here = [one for one in model.pools if pool in names_of(one.name)]
        if here:
            found[name] = Model(id=name, created=model.created, root=_root(name, here), pools=here)
    return found


def names_of(pool: str) -> tuple[str, str]:
    """What a pool may be called: its whole name, and that without the namespace."""
    return pool, pool.rpartition("/")[2]


def _root(name: str, pools: Iterable[Serving]) -> str | None:
    roots = {root for one in pools for root in (one.targets or (name,))}
    return roots.pop() if len(roots) == 1 else None


def _of_pool(pool: PoolModels) -> Iterable[tuple[str, Serving]]:
    snapshot, rewrites = pool.snapshot, pool.rewrites
    size = len(snapshot)
    rows: dict[str, list[int]] = {}
    all_known = True
    for row, names in enumerate(snapshot.models):
        if names is None:
            all_known = False
            continue
        for name in names:
            rows.setdefault(name, []).append(row)
    for name, here in rows.items():
        if not rewrites or rewrites.shares(name) is None:
            yield name, Serving(pool.pool, len(here), size)
    if not rewrites:
        return
    for name in {*rewrites.models, *rows}:
        shares = rewrites.shares(name)
        if shares is None:
            continue
        endpoints = len({row for target in shares for row in rows.get(target, ())})
        if endpoints or not all_known or not size:
            yield name, Serving(pool.pool, endpoints, size, {} if list(shares) == [name] else shares)
