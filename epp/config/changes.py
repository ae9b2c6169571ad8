"""What a reload changes: which parts of a pool have to be made anew, and which settings have to wait."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Protocol

from epp.config.data import FileDiscovery
from epp.config.own import OwnBlock
from epp.config.problems import Path, Report
from epp.config.trust import Trust
from epp.scheduling.profile import Named, Profile

Field = tuple[str, ...]

OF_PROCESS: tuple[Field, ...] = (
    ("limits",),
    ("scrape", "cpu_share"),
    ("decision_log_size",),
    ("trust", "max_fairness_ids"),
)
"""Fields of the block `epp:` that the transport, the scraper, the log of decisions and the metrics are built
with: once, for all pools, as the default configuration has them."""
OF_POOL: tuple[Field, ...] = (
    ("outliers",),
    ("observe",),
    ("objectives", "path"),
    ("objectives", "default_priority"),
)
"""Those that are built into what is known of a pool, which outlives its configurations."""
_LATER = "it takes effect at the next start; until then it is as it was"
_ELSEWHERE = "it counts in the default configuration only, for all pools together"


@dataclass(frozen=True, slots=True)
class Started:
    """What holds for settings that no reload changes."""

    own: OwnBlock
    """Of the pool's first configuration."""
    discovery: FileDiscovery | None
    process: OwnBlock
    """Of the process's default configuration."""


class Configured(Protocol):
    """What is compared of a loaded configuration."""

    @property
    def handler(self) -> Named[Any]: ...
    @property
    def plugins(self) -> Sequence[Named[Any]]: ...
    @property
    def profiles(self) -> Sequence[Profile]: ...
    @property
    def detector(self) -> Named[Any]: ...
    @property
    def flow(self) -> object: ...
    @property
    def policies(self) -> Sequence[Named[Any]]: ...
    @property
    def parsers(self) -> Sequence[_Typed]: ...
    @property
    def data(self) -> object: ...
    @property
    def own(self) -> OwnBlock: ...


@dataclass(frozen=True, slots=True)
class Changes:
    """Each says whether that part differs from the configuration before."""

    scheduling: bool = True
    """Profiles, their handler, or a plugin of the scheduling layer."""
    detector: bool = True
    flow: bool = True
    """The queues' settings or policies; opening and closing them too."""
    parsers: bool = True
    data: bool = True
    """How endpoints are found, scraped and asked for their models."""
    own: bool = True
    """The block `epp:`."""

    def __bool__(self) -> bool:
        return any(astuple(self))

    def __str__(self) -> str:
        """`scheduling, flow`."""
        return ", ".join(name for name in self.__slots__ if getattr(self, name)) or "nothing"


def changes(before: Configured, after: Configured) -> Changes:
    return Changes(
        scheduling=not (
            _same_steps((before.handler, *before.plugins), (after.handler, *after.plugins))
            and _same_profiles(before.profiles, after.profiles)
        ),
        detector=not _same_step(before.detector, after.detector),
        flow=before.flow != after.flow or not _same_steps(before.policies, after.policies),
        parsers=_types(before.parsers) != _types(after.parsers),
        data=before.data != after.data,
        own=before.own != after.own,
    )


def tell_waiting(started: Started, own: OwnBlock, discovery: FileDiscovery | None, report: Report) -> None:
    """Notices for settings that differ from what holds."""
    elsewhere = started.process is not started.own
    for field in OF_PROCESS:
        if _of(started.process, field) != _of(own, field):
            report.notice(_path(field), _ELSEWHERE if elsewhere else _LATER, key=True)
    for field in OF_POOL:
        if _of(started.own, field) != _of(own, field):
            report.notice(_path(field), _LATER, key=True)
    if started.discovery != discovery:
        report.notice(("dataLayer", "discovery"), _LATER, key=True)


def _path(field: Field) -> Path:
    return ("epp", *(_camel(step) for step in field))


def _of(own: OwnBlock, field: Field) -> Any:
    value: Any = own
    for step in field:
        value = getattr(value, step)
        if value is None and step == "trust":
            value = Trust()
    return value


def _camel(word: str) -> str:
    first, *rest = word.split("_")
    return first + "".join(part.title() for part in rest)


class _Typed(Protocol):
    @property
    def type_name(self) -> str: ...


def _types(parsers: Iterable[_Typed]) -> list[str]:
    """Parsers take no parameters, so their types say all."""
    return [parser.type_name for parser in parsers]


def _same_step(one: Named[Any], other: Named[Any]) -> bool:
    return one.plugin is other.plugin and one.name == other.name


def _same_steps(some: Sequence[Named[Any]], others: Sequence[Named[Any]]) -> bool:
    return len(some) == len(others) and all(map(_same_step, some, others))


def _same_profiles(some: Sequence[Profile], others: Sequence[Profile]) -> bool:
    return len(some) == len(others) and all(map(_same_profile, some, others))


def _same_profile(one: Profile, other: Profile) -> bool:
    return (
        one.name == other.name
        and _same_step(one.picker, other.picker)
        and _same_steps(one.filters, other.filters)
        and _same_steps([step for step, _ in one.scorers], [step for step, _ in other.scorers])
        and [weight for _, weight in one.scorers] == [weight for _, weight in other.scorers]
    )
