"""`epp demo --overload`: a tenant floods two engines, once with nothing in its way and once with queues."""

from __future__ import annotations

from epp.cli.demo.overload.course import overloaded

__all__ = ["overloaded"]
