"""Every filter, scorer, picker, handler and producer that is built in, one file a family."""

from __future__ import annotations

from typing import Any

from epp.plugins import handlers, load, pickers, work
from epp.scheduling.contract import PluginType

PLUGINS: tuple[PluginType[Any], ...] = (
    *work.PLUGINS,
    *load.PLUGINS,
    *pickers.PLUGINS,
    *handlers.PLUGINS,
)
"""The built-in part of the catalog."""
