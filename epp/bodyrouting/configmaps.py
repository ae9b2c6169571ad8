"""Base models from the cluster's ConfigMaps, as an informer tells of them.

A ConfigMap that is wrong is reported, and what it said before stays in force; the others are not touched.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from epp.bodyrouting.basemodels import BaseModels, Family, read_configmap

LABEL: Final = "inference.networking.k8s.io/bbr-managed=true"
"""Only these are looked at; the reference's label."""
_log = logging.getLogger(__name__)


class BaseModelMaps:
    """A Watcher of the informer's."""

    def __init__(self, models: BaseModels) -> None:
        self._models = models
        self._families: dict[str, Family] = {}
        """By namespace/name."""
        self._told: tuple[str, ...] = ()

    def replaced(self, objects: Mapping[str, Mapping[str, Any]]) -> None:
        before = self._families
        self._families = {}
        for key, found in objects.items():
            self._take(key, found, before)
        self._swap()

    def changed(self, key: str, object: Mapping[str, Any]) -> None:
        self._take(key, object, self._families)
        self._swap()

    def removed(self, key: str) -> None:
        if self._families.pop(key, None) is not None:
            self._swap()

    def _take(self, key: str, found: Mapping[str, Any], before: Mapping[str, Family]) -> None:
        source = f"ConfigMap {key}"
        data = found.get("data")
        try:
            self._families[key] = read_configmap(data if isinstance(data, dict) else {}, source)
        except ValueError as error:
            _log.warning("base models: %s", error)
            if key in before:
                self._families[key] = before[key]

    def _swap(self) -> None:
        # By name, so that every replica takes the same one where two contradict each other.
        ordered = [self._families[key] for key in sorted(self._families)]
        notices = tuple(self._models.replace(ordered))
        for notice in notices:
            if notice not in self._told:
                _log.warning("base models: %s", notice)
        self._told = notices
