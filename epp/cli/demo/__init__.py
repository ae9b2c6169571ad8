"""`epp demo`: the whole stack on one machine, compared with round robin."""

from __future__ import annotations

from epp.cli.demo.command import demo

__all__ = ["demo"]
