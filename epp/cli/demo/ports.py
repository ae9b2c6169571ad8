"""Free ports on loopback, the usual ones where they can be had."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

HOST = "127.0.0.1"
_BELOW_OUTGOING = (12_000, 32_000)


def is_free(port: int) -> bool:
    """Nobody listens there, on loopback or everywhere. Ports that only wait to be forgotten are free."""
    for host in (HOST, "0.0.0.0"):  # noqa: S104 - asked for, not listened on
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def any_free(but: Iterable[int]) -> int:
    """A port below those that outgoing connections take. Raises OSError when there is none."""
    taken, chance = set(but), Random()
    for _ in range(1000):
        port = chance.randrange(*_BELOW_OUTGOING)
        if port not in taken and is_free(port):
            return port
    raise OSError("no free port on loopback")


@dataclass(slots=True)
class Ports:
    """Hands out ports and remembers which wishes could not be met."""

    given: list[int] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    """Sentences for the user."""

    def one(self, wanted: int, what: str) -> int:
        port = wanted
        if wanted in self.given or not is_free(wanted):
            port = any_free(self.given)
            self.moved.append(f"port {wanted} is taken: {what} is on {port}")
        self.given.append(port)
        return port

    def row(self, first: int, count: int, what: str) -> list[int]:
        """Consecutive ports: the wished ones, else the first free run further up. Raises OSError."""
        for start in range(first, 65_536 - count, count):
            ports = list(range(start, start + count))
            if all(port not in self.given and is_free(port) for port in ports):
                if start != first:
                    last = first + count - 1
                    self.moved.append(f"ports {first}-{last} are taken: {what} are on {start}-{ports[-1]}")
                self.given += ports
                return ports
        raise OSError(f"no {count} free ports in a row above {first}")
