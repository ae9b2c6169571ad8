"""Short ways to load configurations in tests."""

from __future__ import annotations

from typing import Any

from epp.config.catalog import Catalog
from epp.config.loaded import Loaded
from epp.config.loader import load_text
from epp.config.problems import ConfigError

HEADER = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"


def load(body: str, **more: Any) -> Loaded:
    """`body` follows the two header lines: its first line is line 3."""
    return load_text(HEADER + body, source="c", **more)


def mistakes(body: str, *, experimental: bool = False, plugin_types: Catalog | None = None) -> list[str]:
    try:
        load(body, allow_experimental=experimental, plugin_types=plugin_types)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def notices(loaded: Loaded) -> list[str]:
    return [str(notice) for notice in loaded.notices]
