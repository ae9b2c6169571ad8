"""Specs with host names -> specs with addresses, asked again while they hold.

A name may be several servers; each becomes an endpoint `<name>-<address>`, so that it keeps its identity when
others come and go. An answer that fails changes nothing. "No such name" counts after the third time in a row:
name servers say it for a moment while they restart, and it would empty the pool.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from epp.datalayer.dns import Answer, AresLookup, Lookup, LookupFailed, NameGone
from epp.datalayer.endpoints_file import SRV
from epp.domain.endpoint import EndpointSpec
from epp.domain.views import Clock

MIN_REFRESH_S = 1.0
MAX_REFRESH_S = 30.0
"""Bounds of a record's time to live; /etc/hosts has none (0)."""
RETRY_S = 2.0
GONE_AFTER = 3
AT_ONCE = 64
"""Names asked for at the same time."""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Name:
    answer: Answer | None = None
    due_at: float = 0.0
    gone: int = 0
    failing: bool = False


class Resolver:
    """Give `set_specs` what discovery found; `resolved` gets the whole pool whenever it differs.

    Pools of literals alone are passed on at once. With names, nothing is passed on before the first round of
    answers; names that did not answer then are left out and asked for again.
    """

    def __init__(
        self,
        resolved: Callable[[Sequence[EndpointSpec]], None],
        *,
        lookup: Callable[[], Lookup] = AresLookup,
        clock: Clock = time.monotonic,
        rng: Random | None = None,
    ) -> None:
        """`lookup` is called once, by `run`, when there is a name to look up."""
        self._resolved = resolved
        self._make_lookup = lookup
        self._lookup: Lookup | None = None
        self._clock = clock
        self._rng = rng or Random()
        self._specs: tuple[EndpointSpec, ...] = ()
        self._names: dict[str, _Name] = {}
        self._told: tuple[EndpointSpec, ...] | None = None
        self._woken = asyncio.Event()

    def set_specs(self, specs: Sequence[EndpointSpec]) -> None:
        """What discovery says now."""
        self._specs = tuple(specs)
        wanted = {spec.address for spec in specs if not _is_literal(spec.address)}
        self._names = {name: self._names.get(name) or _Name() for name in sorted(wanted)}
        if all(name.answer or name.failing or name.gone for name in self._names.values()):
            self._tell()
        self._woken.set()

    async def run(self) -> None:
        """Asks until cancelled."""
        try:
            while True:
                self._woken.clear()
                now = self._clock()
                due = [address for address, name in self._names.items() if name.due_at <= now]
                if due:
                    await self._ask_all(due)
                    self._tell()
                    continue
                next_at = min((name.due_at for name in self._names.values()), default=None)
                pause_s = None if next_at is None else max(0.0, next_at - self._clock())
                try:
                    async with asyncio.timeout(pause_s):
                        await self._woken.wait()
                except TimeoutError:
                    pass
        finally:
            if isinstance(self._lookup, AresLookup):
                await self._lookup.close()

    async def _ask_all(self, addresses: Sequence[str]) -> None:
        lookup = self._lookup = self._lookup or self._make_lookup()
        slots = asyncio.Semaphore(AT_ONCE)

        async def ask(address: str, name: _Name) -> None:
            async with slots:
                await self._ask(lookup, address, name)

        async with asyncio.TaskGroup() as group:
            for address in addresses:
                if address in self._names:
                    group.create_task(ask(address, self._names[address]))

    async def _ask(self, lookup: Lookup, address: str, name: _Name) -> None:
        pause_s = RETRY_S
        try:
            if address.startswith(SRV):
                answer = await lookup.service(address.removeprefix(SRV))
            else:
                answer = await lookup.host(address)
        except NameGone as why:
            name.gone += 1
            if name.gone == GONE_AFTER:
                _log.warning("%s is gone: %s", address, why)
                name.answer = Answer((), 0.0)
        except LookupFailed as why:
            if not name.failing:
                kept = "the last answer stays" if name.answer else "nothing is known of it"
                _log.warning("looking up %s failed, %s: %s", address, kept, why)
            name.failing = True
        else:
            name.answer, name.gone, name.failing = answer, 0, False
            pause_s = min(MAX_REFRESH_S, max(MIN_REFRESH_S, answer.ttl_s))
        name.due_at = self._clock() + pause_s * self._rng.uniform(0.9, 1.1)

    def _tell(self) -> None:
        pool = tuple(found for spec in self._specs for found in self._of(spec))
        if pool != self._told:
            self._told = pool
            self._resolved(pool)

    def _of(self, spec: EndpointSpec) -> list[EndpointSpec]:
        if _is_literal(spec.address):
            return [spec]
        answer = self._names[spec.address].answer
        if answer is None:
            return []
        return [
            replace(spec, name=f"{spec.name}-{_word(ip, port)}", address=ip, port=port or spec.port)
            for ip, port in answer.servers
        ]


def _word(ip: str, port: int) -> str:
    """The address as a part of a name; a port only where the record named one."""
    word = ip.replace(".", "-").replace(":", "-")
    return f"{word}-{port}" if port else word


def _is_literal(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True
