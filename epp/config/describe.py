"""Catalog rows and parameter values as JSON-ready values: what `epp plugins` and `epp check` print."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from epp.config.catalog import Kind, Row
from epp.config.decode import BAD, Spelling, decode
from epp.config.problems import Report
from epp.scheduling.contract import (
    AnswerObserver,
    BuildContext,
    ChoiceObserver,
    Filter,
    Picker,
    Producer,
    ProfileHandler,
    RequestMutator,
    Scorer,
)

ROLES: Mapping[str, Any] = types.MappingProxyType(
    {
        "filter": Filter,
        "scorer": Scorer,
        "picker": Picker,
        "profile handler": ProfileHandler,
        "producer": Producer,
        "observer": ChoiceObserver | AnswerObserver | RequestMutator,
    }
)
"""What a plugin can be in a run; one may be several. `observer` is named only when nothing else is."""


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter of a plugin type."""

    name: str
    type: str
    default: Any
    required: bool
    description: str


def fields_of(parameters: type[msgspec.Struct], prefix: str = "") -> list[Field]:
    """Every parameter as configurations spell it; those of nested blocks as `block.field`, `list[].field`."""
    found: list[Field] = []
    for field in msgspec.structs.fields(parameters):
        name = prefix + field.encode_name
        bare, extras = _strip(field.type)
        description = next((e.description for e in extras if isinstance(e, Meta) and e.description), "")
        default = None if field.required else json_ready(_default(field))
        found.append(Field(name, _type_text(field.type), default, field.required, description))
        inner, listed = _inner_struct(bare)
        if inner is not None:
            found += fields_of(inner, f"{name}[]." if listed else f"{name}.")
    return found


def values_of(parameters: msgspec.Struct) -> dict[str, Any]:
    """Every parameter of an instance with its value, defaults included."""
    return {
        field.encode_name: json_ready(getattr(parameters, field.name))
        for field in msgspec.structs.fields(parameters)
    }


def roles_of(row: Row) -> tuple[str, ...]:
    """What the plugin is; where a sample cannot be built, what name and annotations say."""
    if row.kind not in (Kind.SCHEDULING, Kind.SATURATION):
        return (str(row.kind),)
    first = () if row.kind is Kind.SCHEDULING else (str(row.kind),)
    return first + (roles_of_plugin(_sample(row)) or _named_role(row) or ("plugin",))


def roles_of_plugin(plugin: object) -> tuple[str, ...]:
    roles = tuple(role for role, protocol in ROLES.items() if isinstance(plugin, protocol))
    return tuple(role for role in roles if role != "observer") or roles


def _sample(row: Row) -> object:
    required = {
        field.encode_name: "x" if _strip(field.type)[0] is str else []
        for field in msgspec.structs.fields(row.type.parameters)
        if field.required
    }
    parameters = decode(required, row.type.parameters, (), Report(""))
    if parameters is BAD:
        return None

    def plugin(name: str) -> object:
        raise KeyError(name)

    try:
        return row.type.build(parameters, BuildContext(row.name, plugin))
    except Exception:  # it needs more than its defaults
        return None


def _named_role(row: Row) -> tuple[str, ...]:
    last = row.name.rpartition("-")[2]
    if last in ROLES:
        return (last,)
    try:
        made = get_type_hints(row.type.build).get("return")
    except (NameError, TypeError):
        return ()
    methods = {"filter": "keep", "scorer": "score", "picker": "pick", "producer": "produce"}
    return tuple(role for role, method in methods.items() if hasattr(made, method))


def json_ready(value: Any) -> Any:
    """Structs, dataclasses and bytes as plain values."""
    if isinstance(value, msgspec.Struct):
        return values_of(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: json_ready(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str):
        return [json_ready(item) for item in value]
    return value


def _default(field: Any) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _strip(target: Any) -> tuple[Any, tuple[Any, ...]]:
    if get_origin(target) is Annotated:
        bare, *extras = get_args(target)
        return bare, tuple(extras)
    return target, ()


def _inner_struct(bare: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    listed = get_origin(bare) in (list, tuple)
    candidates = [_strip(item)[0] for item in get_args(bare)] if get_origin(bare) else [bare]
    for item in candidates:
        if isinstance(item, type) and issubclass(item, msgspec.Struct):
            return item, listed
    return None, listed


def _type_text(target: Any) -> str:
    bare, extras = _strip(target)
    for extra in extras:
        if isinstance(extra, Spelling):
            return extra.what
    origin, arguments = get_origin(bare), get_args(bare)
    if origin in (Union, types.UnionType):
        text = " or ".join(_type_text(item) for item in arguments if item is not type(None))
    elif origin is Literal:
        text = "|".join(str(word) for word in arguments)
    elif origin in (list, tuple):
        text = f"list of {_type_text(arguments[0])}"
    elif origin is dict:
        text = f"map to {_type_text(arguments[1])}"
    elif isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        text = "block"
    else:
        text = getattr(bare, "__name__", str(bare))
    return text + "".join(_limits(extra) for extra in extras if isinstance(extra, Meta))


def _limits(meta: Meta) -> str:
    signs = ((">", meta.gt), (">=", meta.ge), ("<", meta.lt), ("<=", meta.le))
    return "".join(f" {sign} {bound:g}" for sign, bound in signs if bound is not None)
