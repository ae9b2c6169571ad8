"""YAML (or JSON) text -> plain values, and for every value and key its line and column.

Stricter than YAML where it surprises: duplicate keys, several documents, unknown tags, infinities and NaN are
problems; dates, base-60 numbers and numbers with leading zeros stay text. Size, depth and expansion by
aliases are bounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import yaml

from epp.config.problems import ConfigError, Mark, Path, Problem, Report

MAX_CHARACTERS = 1 << 20
MAX_DEPTH = 64
MAX_NODES = 100_000
"""After expansion of aliases, all documents of a text together."""
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"

_TAG = "tag:yaml.org,2002:"
T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """Knows the words below and nothing else of YAML 1.1's."""


_Loader.yaml_implicit_resolvers = {}


for _name, _pattern, _first in (
    (
        "bool",
        r"^(?:[tT]rue|TRUE|[fF]alse|FALSE|[yY]es|YES|[nN]o|NO|[oO]n|ON|[oO]ff|OFF)$",
        "tTfFyYnNoO",
    ),
    ("int", r"^(?:[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)$", "-+0123456789"),
    (
        "float",
        r"^(?:[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+0123456789.",
    ),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"^<<$", "<"),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), list(_first))

_ZERO_LED = re.compile(r"^[-+]?0[0-9]")
_TRUE = frozenset({"true", "yes", "on"})


def parse(text: str, source: str) -> tuple[Any, Report]:
    """The document's value and a report that knows its lines.

    Raises ConfigError when the text is not one well-formed document; lesser problems (duplicate keys, NaN)
    are in the report and the value goes on without them.
    """
    node = _composed(text, source, lambda loader: loader.get_single_node())
    reader = _Reader(source)
    value = reader.value(node, ()) if node is not None else None
    return value, reader.report


def parse_documents(text: str, source: str) -> list[tuple[Any, Report]]:
    """As `parse`, of a text with any number of documents."""
    read: list[tuple[Any, Report]] = []
    nodes = 0
    for node in _composed(text, source, _documents):
        reader = _Reader(source, nodes)
        read.append((reader.value(node, ()), reader.report))
        nodes = reader.nodes
    return read


def _documents(loader: _Loader) -> list[yaml.Node]:
    nodes: list[yaml.Node] = []
    while loader.check_node():
        if (node := loader.get_node()) is not None:
            nodes.append(node)
    return nodes


def _composed(text: str, source: str, compose: Callable[[_Loader], T]) -> T:
    """Nodes of the text; what keeps it from being YAML is a ConfigError."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError([Problem(source, None, (), f"longer than {MAX_CHARACTERS} characters")])
    try:
        loader = _Loader(text)
        try:
            return compose(loader)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        mark = Mark(at.line + 1, at.column + 1) if at else None
        words = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError([Problem(source, mark, (), f"not valid YAML: {words}")]) from error
    except yaml.YAMLError as error:
        raise ConfigError([Problem(source, None, (), f"not valid YAML: {error}")]) from error
    except RecursionError as error:
        raise ConfigError([Problem(source, None, (), _TOO_DEEP)]) from error


class _Reader:
    def __init__(self, source: str, nodes: int = 0) -> None:
        """`nodes` were read of the text before."""
        self._marks: dict[Path, Mark] = {}
        self._keys: dict[Path, Mark] = {}
        self.nodes = nodes
        self.report = Report(source, self._marks, self._keys)

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.nodes += 1
        mark = _mark(node)
        if self.nodes > MAX_NODES:
            raise ConfigError([Problem(self.report.source, mark, (), f"more than {MAX_NODES} values")])
        if len(path) > MAX_DEPTH:
            raise ConfigError([Problem(self.report.source, mark, (), _TOO_DEEP)])
        self._marks[path] = mark
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        built: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key, item in node.value:
            if key.tag == _TAG + "merge":
                merged += item.value if isinstance(item, yaml.SequenceNode) else [item]
                continue
            if not isinstance(key, yaml.ScalarNode):
                self._keys[path] = _mark(key)
                self.report.error(path, "a key must be a plain word", key=True)
                continue
            word = _whole(key.value)
            at = (*path, word)
            if word in built:
                first = self._keys[at].line
                self._keys[at] = _mark(key)
                self.report.error(at, f"duplicate key '{word}', first used in line {first}", key=True)
                continue
            self._keys[at] = _mark(key)
            built[word] = self.value(item, at)
        for source in merged:
            self._merge(source, built, path)
        return built

    def _merge(self, node: yaml.Node, into: dict[str, Any], path: Path) -> None:
        if not isinstance(node, yaml.MappingNode):
            self.report.error(path, "'<<' takes a mapping")
            return
        for key, item in node.value:
            at = (*path, str(key.value))
            if key.tag == _TAG + "merge":
                self._merge(item, into, path)
            elif key.value not in into:
                self._keys[at] = _mark(key)
                into[str(key.value)] = self.value(item, at)

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        tag, text = node.tag.removeprefix(_TAG), _whole(node.value)
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() in _TRUE
        if tag in ("int", "float") and len(text) > 64:
            self.report.error(path, "a number of more than 64 digits")
            return None
        if tag == "int":
            return int(text, 0) if text[:2] in ("0x", "0o", "0b") else int(text)
        if tag == "float" and not _ZERO_LED.match(text):
            bare = text.lower().replace(".inf", "inf").replace(".nan", "nan")
            number = float(bare)
            if not math.isfinite(number):
                self.report.error(path, f"'{text}' is not a finite number")
                return None
            return number
        if tag not in ("str", "float", "merge"):
            self.report.error(path, f"the YAML tag '{node.tag}' has no meaning here")
            return None
        return text


def _whole(text: str) -> str:
    """JSON writes characters beyond the first plane as two escapes, which YAML reads as two halves."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _mark(node: yaml.Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)
