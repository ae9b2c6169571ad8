"""Plain values -> strict msgspec types, reporting every mistake with its place instead of only the first.

Containers and Structs are walked here, so that each value keeps its path; single values are left to msgspec.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final, Generic, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from epp.config.problems import Path, Report, choices, nearest

T = TypeVar("T")


class _Bad:
    """Stands for a value that could not be decoded; its problem has been reported."""


BAD: Final = _Bad()


class FieldError(ValueError):
    """From checks over several fields of a Struct: the one to blame, as the configuration spells it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Spelling(Generic[T]):
    """In `Annotated[T, Spelling(...)]`: the value is written as text and `parse` makes a T of it.

    `parse` raises ValueError with words for the operator; `what` is how `epp plugins` calls the type.
    """

    what: str
    parse: Callable[[object], T]


@lru_cache(maxsize=1024)
def fields_of(target: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Looked up once: that costs 0.5 ms, and a thousand pools have the same types of plugins."""
    return msgspec.structs.fields(target)


def decode(value: Any, target: Any, path: Path, report: Report) -> Any:
    """`value` as `target` (a Struct or any annotation that msgspec knows), or BAD.

    A Struct with a class variable SHORT may be written as the value of that field alone.
    A bad or unknown field is reported and otherwise left out, so that the rest is looked at too: the result
    is only to be used when the report has no new problem.
    """
    bare, extras = _strip(target)
    for extra in extras:
        if isinstance(extra, Spelling):
            return _spelled(value, extra, path, report)
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct) and not bare.__struct_config__.tag:
        return _struct(value, bare, path, report)
    origin, arguments = get_origin(bare), get_args(bare)
    if origin in (Union, types.UnionType):
        members = [member for member in arguments if member is not type(None)]
        if len(members) < len(arguments) and value is None:
            return None
        if len(members) == 1:
            return decode(value, members[0], path, report)
    elif origin in (list, Sequence) or (origin is tuple and arguments[1:] == (Ellipsis,)):
        return _sequence(value, target, arguments[0], origin is tuple, path, report)
    elif origin in (dict, Mapping):
        return _mapping(value, target, arguments[1], path, report)
    elif origin is Literal:
        return _literal(value, arguments, path, report)
    return _single(value, target, path, report)


def _strip(target: Any) -> tuple[Any, tuple[Any, ...]]:
    if get_origin(target) is Annotated:
        bare, *extras = get_args(target)
        return bare, tuple(extras)
    return target, ()


def _struct(value: Any, target: type[msgspec.Struct], path: Path, report: Report) -> Any:
    if value is None:
        value = {}
    fields = {field.encode_name: field for field in fields_of(target)}
    short = getattr(target, "SHORT", "")
    if short and isinstance(value, str):
        item = decode(value, fields[short].type, path, report)
        return BAD if item is BAD else target(**{fields[short].name: item})
    if not isinstance(value, dict):
        report.error(path, f"expected a mapping, got {_show(value)}")
        return BAD
    for key in value:
        if key not in fields:
            hint = nearest(key, fields) or (f"; known: {', '.join(fields)}" if fields else "; it takes none")
            report.error((*path, key), f"unknown field '{key}'{hint}", key=True)
    given: dict[str, Any] = {}
    complete = True
    for name, field in fields.items():
        if value.get(name) is not None:
            item = decode(value[name], field.type, (*path, name), report)
            if item is not BAD:
                given[field.name] = item
                continue
        elif not field.required:
            continue
        else:
            report.error(path, f"'{name}' is required")
        complete = complete and not field.required
    if not complete:
        return BAD
    try:
        return target(**given)
    except FieldError as error:
        report.error((*path, error.field), str(error))
    except (ValueError, TypeError) as error:
        report.error(path, str(error))
    return BAD


def _sequence(value: Any, target: Any, item_type: Any, as_tuple: bool, path: Path, report: Report) -> Any:
    if not isinstance(value, list):
        report.error(path, f"expected a list, got {_show(value)}")
        return BAD
    before = len(report.problems)
    items = [decode(item, item_type, (*path, i), report) for i, item in enumerate(value)]
    if len(report.problems) == before:
        _constraints(items, target, path, report)
    kept = [_blank(item_type) if item is BAD else item for item in items]
    kept = [item for item in kept if item is not BAD]
    return tuple(kept) if as_tuple else kept


def _blank(item_type: Any) -> Any:
    """A stand-in that keeps the indices of the items after a bad one."""
    bare, _ = _strip(item_type)
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        try:
            return bare()
        except (TypeError, ValueError):
            pass
    return BAD


def _mapping(value: Any, target: Any, item_type: Any, path: Path, report: Report) -> Any:
    if not isinstance(value, dict):
        report.error(path, f"expected a mapping, got {_show(value)}")
        return BAD
    before = len(report.problems)
    items = {key: decode(item, item_type, (*path, key), report) for key, item in value.items()}
    if len(report.problems) == before:
        _constraints(items, target, path, report)
    return {key: item for key, item in items.items() if item is not BAD}


def _constraints(items: Any, target: Any, path: Path, report: Report) -> None:
    """Lengths of a container, as its Meta limits them."""
    for extra in _strip(target)[1]:
        if not isinstance(extra, Meta):
            continue
        if extra.min_length is not None and len(items) < extra.min_length:
            report.error(path, f"needs at least {extra.min_length} item(s), has {len(items)}")
        if extra.max_length is not None and len(items) > extra.max_length:
            report.error(path, f"takes at most {extra.max_length} item(s), has {len(items)}")


def _literal(value: Any, valid: tuple[Any, ...], path: Path, report: Report) -> Any:
    if value in valid and type(value) in {type(word) for word in valid}:
        return value
    words = [str(word) for word in valid]
    hint = nearest(str(value), words)
    report.error(path, f"{_show(value)} is not {choices(words)}{hint}")
    return BAD


def _spelled(value: Any, spelling: Spelling[Any], path: Path, report: Report) -> Any:
    try:
        return spelling.parse(value)
    except ValueError as error:
        report.error(path, str(error))
        return BAD


_AT = re.compile(r" - at `\$(.*)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")


def _single(value: Any, target: Any, path: Path, report: Report) -> Any:
    try:
        return msgspec.convert(value, target)
    except msgspec.ValidationError as error:
        text = str(error)
        inside = _AT.search(text)
        steps: Path = ()
        if inside:  # only for types that are not walked here
            text = text[: inside.start()]
            steps = tuple(word or int(index) for word, index in _STEP.findall(inside[1]))
        elif isinstance(value, int | float | str) and not isinstance(value, bool):
            text += f": {_show(value)}" if ", got" in text else f", got {_show(value)}"
        report.error((*path, *steps), text[:1].lower() + text[1:])
        return BAD


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
