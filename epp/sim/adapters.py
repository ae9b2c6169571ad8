"""LoRA slots of an engine: which adapters run and which are waited for."""

from __future__ import annotations


class Adapters:
    """Counts by adapter name; the empty name is the model itself and needs no slot."""

    __slots__ = ("running", "slots", "waiting")

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ValueError("max_loras is below 1")
        self.slots = slots
        self.running: dict[str, int] = {}
        """Adapter to number of running sequences."""
        self.waiting: dict[str, int] = {}

    def fits(self, name: str) -> bool:
        """Whether a sequence of this adapter may run beside the running ones."""
        return not name or name in self.running or len(self.running) < self.slots

    def wait(self, name: str) -> None:
        _more(self.waiting, name)

    def go(self, name: str) -> None:
        """Waits no longer."""
        _less(self.waiting, name)

    def run(self, name: str) -> None:
        _more(self.running, name)

    def end(self, name: str) -> None:
        """Runs no longer."""
        _less(self.running, name)


def _more(counts: dict[str, int], name: str) -> None:
    if name:
        counts[name] = counts.get(name, 0) + 1


def _less(counts: dict[str, int], name: str) -> None:
    if name:
        left = counts[name] - 1
        if left:
            counts[name] = left
        else:
            del counts[name]
