"""The service's side towards a cluster: the ConfigMaps that name base models, and who may read metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from epp.bodyrouting.basemodels import BaseModels
from epp.bodyrouting.configmaps import LABEL, BaseModelMaps
from epp.domain.access import Access
from epp.kube.api import Kube
from epp.kube.informer import Informer
from epp.kube.resource import Resource
from epp.kube.reviews import Reviews

CONFIGMAPS: Final = Resource("", "v1", "configmaps", "ConfigMap")
_NAMED_BY: Final = ("KUBERNETES_SERVICE_HOST", "KUBECONFIG")
log = logging.getLogger("epp.bodyrouting")


def is_known(kubeconfig: Path | None, environ: Mapping[str, str]) -> bool:
    """Whether a cluster was meant: we are a pod, or a kubeconfig is named."""
    return kubeconfig is not None or any(environ.get(name) for name in _NAMED_BY)


class ModelCluster:
    """`open` it, `run` it until cancelled, then `close` it. Also a Reviewer for the listener."""

    def __init__(
        self,
        kubeconfig: Path | None,
        namespace: str | None,
        environ: Mapping[str, str],
        models: BaseModels | None,
    ) -> None:
        """`models` is kept as the ConfigMaps of `namespace` (None: all) have it; None: they are not read."""
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self._environ = environ
        self._models = models
        self._kube: Kube | None = None
        self._reviews: Reviews | None = None
        self._informer: Informer | None = None

    async def open(self) -> None:
        """Nothing is asked of the API yet. Raises KubeConfigError, a ValueError."""
        kube = self._kube = await Kube.open(self._kubeconfig, self._environ)
        self._reviews = Reviews(kube)
        if self._models is not None:
            maps = BaseModelMaps(self._models)
            self._informer = Informer(kube, CONFIGMAPS, maps, namespace=self._namespace, labels=LABEL)
            log.info("following ConfigMaps of base models in %s at %s", self._where, kube.server)

    @property
    def _where(self) -> str:
        return "all namespaces" if self._namespace is None else f"namespace {self._namespace}"

    async def run(self) -> None:
        if self._informer is not None:
            await self._informer.run()

    def missing(self) -> str:
        """Why we are not ready; empty when we are. What was known once goes on to count."""
        informer = self._informer
        if self._models is None or (informer is not None and informer.synced):
            return ""
        trouble = f": {informer.trouble}" if informer is not None and informer.trouble else ""
        return f"the ConfigMaps of base models in {self._where} are not listed yet{trouble}"

    async def review(self, token: str, verb: str, path: str) -> Access:
        """May whoever has this token read that page?"""
        if self._reviews is None:
            return Access(503, "the cluster is not asked yet who may read this")
        return await self._reviews.review(token, verb, path)

    async def close(self) -> None:
        if self._kube is not None:
            await self._kube.close()
