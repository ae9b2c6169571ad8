"""What following a cluster asks of those around it: lists that are followed, and whoever serves pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from epp.domain.endpoint import EndpointSpec
from epp.domain.objective import Objective
from epp.domain.pool import PoolSpec
from epp.domain.rewrite import Rewrite
from epp.kube.resource import Resource


class PoolView(Protocol):
    """One pool's rooms."""

    def set_endpoints(self, specs: Sequence[EndpointSpec]) -> None: ...

    def set_objectives(self, by_name: Mapping[str, Objective]) -> None: ...

    def set_rewrites(self, rewrites: Sequence[Rewrite]) -> None: ...


class PoolWorld(Protocol):
    """Whoever serves pools."""

    def pool_came(self, pool: PoolSpec) -> PoolView: ...

    def pool_changed(self, pool: PoolSpec) -> None: ...

    def pool_went(self, namespace: str, name: str) -> None: ...


class Watcher(Protocol):
    """Who is told what a list has, and every change of it, by `namespace/name`; on the event loop."""

    def replaced(self, objects: Mapping[str, Mapping[str, Any]]) -> None:
        """All there is, after a complete list. The mapping is the Watcher's to keep."""

    def changed(self, key: str, object: Mapping[str, Any]) -> None:
        """Added or modified."""

    def removed(self, key: str) -> None: ...


class Following(Protocol):
    """One list that is followed."""

    @property
    def synced(self) -> bool:
        """It was told whole at least once."""

    @property
    def absent(self) -> bool:
        """The API server does not know the resource."""

    @property
    def trouble(self) -> str:
        """Why it is not followed right now; empty while it is."""

    async def run(self) -> None: ...


class Follow(Protocol):
    """Makes one. `trim` takes from an object what nobody looks at."""

    def __call__(
        self,
        resource: Resource,
        watcher: Watcher,
        *,
        namespace: str | None,
        labels: str = "",
        fields: str = "",
        trim: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    ) -> Following: ...
