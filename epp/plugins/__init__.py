"""Every filter, scorer, picker, handler and producer that is built in, one file a family."""

from __future__ import annotations

from typing import Any

from epp.plugins import (
    affinity,
    classic,
    context_length,
    handlers,
    inflight,
    labels,
    load,
    lora,
    no_hit_lru,
    pickers,
    prefix,
    sticky,
    testing,
    work,
)
from epp.scheduling.contract import PluginType

PLUGINS: tuple[PluginType[Any], ...] = (
    *work.PLUGINS,
    *load.PLUGINS,
    *prefix.PLUGINS,
    *no_hit_lru.PLUGINS,
    *lora.PLUGINS,
    *context_length.PLUGINS,
    *classic.PLUGINS,
    *affinity.PLUGINS,
    *labels.PLUGINS,
    *sticky.PLUGINS,
    *inflight.PLUGINS,
    *pickers.PLUGINS,
    *handlers.PLUGINS,
    *testing.PLUGINS,
)
"""The built-in part of the catalog."""
