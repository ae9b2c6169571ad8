"""Short ways to load configurations in tests."""

from __future__ import annotations

from epp.config.catalog import Catalog, catalog
from epp.config.loaded import Loaded
from epp.config.loader import load_text
from epp.config.problems import ConfigError

HEADER = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"


TYPES = catalog()
"""Looked up once: finding the installed packages takes longer than everything else here."""


def load(body: str, *, plugin_types: Catalog | None = None, allow_experimental: bool = False) -> Loaded:
    """`body` follows the two header lines: its first line is line 3."""
    return load_text(
        HEADER + body, source="c", allow_experimental=allow_experimental, plugin_types=plugin_types or TYPES
    )


def mistakes(body: str, *, experimental: bool = False, plugin_types: Catalog | None = None) -> list[str]:
    try:
        load(body, allow_experimental=experimental, plugin_types=plugin_types)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def notices(loaded: Loaded) -> list[str]:
    return [str(notice) for notice in loaded.notices]
