"""What a reload changes: which parts of a pool have to be made anew, and which settings have to wait."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from epp.config.own import OwnBlock
from epp.config.problems import Report
from epp.config.trust import Trust
from epp.scheduling.profile import Named, Profile

if TYPE_CHECKING:
    from epp.config.loaded import Loaded

AT_START: tuple[tuple[str, ...], ...] = (
    ("limits",),
    ("outliers",),
    ("scrape",),
    ("observe",),
    ("objectives", "path"),
    ("objectives", "default_priority"),
    ("trust", "max_fairness_ids"),
    ("decision_log_size",),
)
"""Fields of the block `epp:` that are built into what outlives a reload: the transport, what is known of the
endpoints, the scraper, the metrics' labels."""


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


def changes(before: Loaded, after: Loaded) -> Changes:
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


def tell_at_start(started: OwnBlock, own: OwnBlock, report: Report) -> None:
    """Notices for settings that no reload changes and that differ from those of the start."""
    for steps in AT_START:
        if _of(started, steps) != _of(own, steps):
            path = ("epp", *(_camel(step) for step in steps))
            words = "it takes effect at the next start; until then it is as it was"
            report.notice(path, words, key=True)


def _of(own: OwnBlock, steps: Iterable[str]) -> Any:
    value: Any = own
    for step in steps:
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
