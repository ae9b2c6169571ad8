"""Which base model an adapter belongs to: one frozen mapping, swapped whole by whoever knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from epp.config.problems import ConfigError, Report
from epp.config.text import parse

MAX_NAMES: Final = 100_000
"""Of adapters and base models together."""
MAX_NAME_CHARS: Final = 1024
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Family:
    """A base model and adapters that are made for it, as one place has them."""

    base: str
    adapters: tuple[str, ...]
    source: str
    """The file, or the object, for the log."""


class BaseModels:
    """Written by the event loop."""

    def __init__(self) -> None:
        self._bases = _NONE

    def __len__(self) -> int:
        return len(self._bases)

    def of(self, model: str) -> str:
        """The base model of an adapter, the model itself if it is one, or nothing."""
        return self._bases.get(model.strip(), "")

    def replace(self, families: Iterable[Family]) -> list[str]:
        """From now on these and no others; what contradicts an earlier one is left out and told."""
        bases: dict[str, str] = {}
        notices: list[str] = []
        families = tuple(families)
        # Base models first: an adapter of one place cannot take the name of another's base model.
        named = [(one.base, one) for one in families]
        named += [(adapter, one) for one in families for adapter in one.adapters]
        for name, family in named:
            if len(bases) >= MAX_NAMES and name not in bases:
                notices.append(f"{family.source}: more than {MAX_NAMES} names; the rest is left out")
                break
            known = bases.setdefault(name, family.base)
            if known != family.base:
                why = "it is a base model" if known == name else f"{known!r} has it already"
                notices.append(f"{family.source}: {name!r} is no adapter of {family.base!r}: {why}")
        self._bases = MappingProxyType(bases)
        return notices


def read_file(text: str, source: str) -> tuple[Family, ...]:
    """A mapping of base models to lists of their adapters. Raises ConfigError with every complaint."""
    value, report = parse(text, source)
    families: list[Family] = []
    if not isinstance(value, dict):
        report.error((), "expected base models, each with a list of its adapters: `qwen: [adapter-1]`")
        value = {}
    taken: dict[str, str] = {}
    for base, adapters in value.items():
        names = _names(adapters, (base,), report)
        for name in names:
            other = name if name in value else taken.setdefault(name, base)
            if other != base:
                known = "a base model itself" if other == name else f"an adapter of {other!r} already"
                report.error((base,), f"{name!r} is {known}")
        families.append(Family(base, names, source))
    report.raise_any()
    return tuple(families)


def read_configmap(data: Mapping[str, Any], source: str) -> Family:
    """Of the data `baseModel` and `adapters`, a YAML list as text. Raises ValueError."""
    base, adapters = data.get("baseModel"), data.get("adapters", "")
    if not isinstance(base, str) or not base.strip():
        raise ValueError(f"{source}: data.baseModel is missing or empty; write the base model's name there")
    if not isinstance(adapters, str):
        raise ValueError(f"{source}: data.adapters is not a text")
    try:
        value, report = parse(adapters, f"{source} data.adapters")
        names = _names(value, (), report)
        report.raise_any()
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return Family(base.strip(), names, source)


def _names(value: object, path: tuple[str, ...], report: Report) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    if not isinstance(value, list):
        report.error(path, "expected a list of adapters")
        return ()
    names: list[str] = []
    for index, name in enumerate(value):
        if not isinstance(name, str):
            report.error((*path, index), "expected a name; put it in quotes")
        elif len(name) > MAX_NAME_CHARS:
            report.error((*path, index), f"longer than {MAX_NAME_CHARS} characters")
        elif name.strip():
            names.append(name.strip())
    return tuple(names)
