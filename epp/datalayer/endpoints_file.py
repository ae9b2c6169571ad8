"""The endpoints file: YAML or JSON text -> specs, with file, line, entry and field in every complaint.

The reference picker's format (`endpoints: [{name, namespace, address, port, labels}]`), and beyond it IPv6
literals, host names, `srv:` names and `metricsPort`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType

import yaml

from epp.domain.endpoint import NO_LABELS, EndpointSpec

MAX_FILE_BYTES = 1 << 20
MAX_ENDPOINTS = 20_000
MAX_LABELS = 256
MAX_DEPTH = 32
SRV = "srv:"
"""Prefix of an address that is looked up as an SRV record: `srv:_http._tcp.vllm.svc`; its port counts."""

_FIELDS = ("name", "namespace", "address", "port", "labels", "metricsPort")
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_DIGITS = re.compile(r"[0-9]{1,5}")


# What JSON may write and YAML 1.1 may not: tabs between words (strings have none), `\\/`, surrogate pairs.
_JSON_ESCAPE = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|.)")


def _as_yaml(escape: re.Match[str]) -> str:
    if escape[1]:
        return chr(0x10000 + ((int(escape[1], 16) & 0x3FF) << 10) + (int(escape[2], 16) & 0x3FF))
    return "/" if escape[0] == r"\/" else escape[0]


class EndpointsFileError(ValueError):
    """What is wrong and where. `line` counts from 1, 0 when the whole file is meant."""

    def __init__(self, source: str, line: int, problem: str, *, entry: str = "", field: str = "") -> None:
        self.source, self.line, self.entry, self.field, self.problem = source, line, entry, field, problem
        place = source if not line else f"{source}:{line}"
        where = ", ".join(part for part in (entry, f"field {field}" if field else "") if part)
        super().__init__(f"{place}: {where + ': ' if where else ''}{problem}")


def parse_endpoints(data: bytes, source: str) -> tuple[EndpointSpec, ...]:
    """All entries, in their order. Raises EndpointsFileError at the first that is not right."""
    if len(data) > MAX_FILE_BYTES:
        raise EndpointsFileError(source, 0, f"larger than {MAX_FILE_BYTES} bytes")
    return _Reading(source).read(_root(data, source))


def _root(data: bytes, source: str) -> yaml.Node | None:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise EndpointsFileError(source, line, "not UTF-8") from None
    if text.lstrip().startswith("{"):
        text = _JSON_ESCAPE.sub(_as_yaml, text.replace("\t", " "))
    try:
        depth = 0
        # The composer recurses in C: a deep file would end the process, so the events are looked at first.
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    mark = event.start_mark
                    line = mark.line + 1 if mark else 0
                    raise EndpointsFileError(source, line, f"nested deeper than {MAX_DEPTH} levels")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
        root: yaml.Node | None = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise EndpointsFileError(source, mark.line + 1 if mark else 0, f"not YAML: {problem}") from None
    return root


class _Reading:
    """One pass over one file's nodes."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._entry = ""
        self._labels: dict[int, Mapping[str, str]] = {}
        """By node, so that a mapping used again by an alias is read once."""

    def read(self, root: yaml.Node | None) -> tuple[EndpointSpec, ...]:
        if root is None:
            raise EndpointsFileError(self._source, 0, "empty: expected `endpoints:` and a list")
        top = self._mapping(root, ("endpoints",), "a mapping with `endpoints:`")
        entries = top.get("endpoints")
        if entries is None:
            raise self._wrong(root, "missing", "endpoints")
        if not isinstance(entries, yaml.SequenceNode):
            raise self._wrong(entries, "expected a list", "endpoints")
        if len(entries.value) > MAX_ENDPOINTS:
            raise self._wrong(entries, f"more than {MAX_ENDPOINTS} entries", "endpoints")
        specs: list[EndpointSpec] = []
        lines: dict[tuple[str, str], int] = {}
        for number, node in enumerate(entries.value, 1):
            spec = self._spec(node, number)
            before = lines.get((spec.namespace, spec.name))
            if before is not None:
                problem = f"{spec.namespace}/{spec.name} stands already at line {before}"
                raise self._wrong(node, problem, "name")
            lines[spec.namespace, spec.name] = node.start_mark.line + 1
            specs.append(spec)
        return tuple(specs)

    def _spec(self, node: yaml.Node, number: int) -> EndpointSpec:
        self._entry = f"entry {number}"
        fields = self._mapping(node, _FIELDS, "a mapping")
        name = self._text(node, fields, "name")
        self._entry = f"entry {number} ({name})"
        namespace = self._text(node, fields, "namespace") if "namespace" in fields else ""
        address = self._address(node, fields)
        srv = address.startswith(SRV)
        if "port" not in fields and not srv:
            raise self._wrong(node, "missing", "port")
        return EndpointSpec(
            name=name,
            address=address,
            port=self._port(fields["port"], "port") if "port" in fields else 0,
            namespace=namespace or "default",
            labels=self._label_map(fields["labels"]) if "labels" in fields else NO_LABELS,
            metrics_port=self._port(fields["metricsPort"], "metricsPort")
            if "metricsPort" in fields
            else None,
        )

    def _mapping(self, node: yaml.Node, known: tuple[str, ...], what: str) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self._wrong(node, f"expected {what}")
        fields: dict[str, yaml.Node] = {}
        for key, value in node.value:
            word = key.value if isinstance(key, yaml.ScalarNode) else ""
            if word not in known:
                near = get_close_matches(word, known, 1)
                meant = f", did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
                raise self._wrong(key, f"unknown field{meant}", word or "?")
            if word in fields:
                raise self._wrong(key, "given twice", word)
            fields[word] = value
        return {word: value for word, value in fields.items() if not _is_null(value)}

    def _text(self, node: yaml.Node, fields: Mapping[str, yaml.Node], field: str) -> str:
        value = fields.get(field)
        if value is None:
            raise self._wrong(node, "missing", field)
        if not isinstance(value, yaml.ScalarNode) or value.tag != "tag:yaml.org,2002:str":
            raise self._wrong(value, "expected a string", field)
        text = value.value.strip()
        if not text:
            raise self._wrong(value, "empty", field)
        if len(text) > 253 or any(ord(character) < 0x21 for character in text):
            raise self._wrong(value, "longer than 253 characters, or with white space inside", field)
        return str(text)

    def _address(self, node: yaml.Node, fields: Mapping[str, yaml.Node]) -> str:
        text = self._text(node, fields, "address")
        bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        try:
            return str(ipaddress.ip_address(bare))
        except ValueError:
            pass
        host = text.removeprefix(SRV).removesuffix(".")
        labels = host.split(".")
        # A last label of digits alone is an IPv4 address that went wrong, never a host name (RFC 1123 2.1).
        if not all(_HOST_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
            problem = f"{text!r} is neither an IPv4 or IPv6 address nor a host name"
            raise self._wrong(fields["address"], problem, "address")
        return SRV + host if text.startswith(SRV) else host

    def _port(self, node: yaml.Node, field: str) -> int:
        word = node.value.strip() if isinstance(node, yaml.ScalarNode) else ""
        if not _DIGITS.fullmatch(word) or not 1 <= int(word) <= 65535:
            shown = repr(word) if isinstance(node, yaml.ScalarNode) else "this"
            raise self._wrong(node, f"{shown} is not a port (1 to 65535)", field)
        return int(word)

    def _label_map(self, node: yaml.Node) -> Mapping[str, str]:
        held = self._labels.get(id(node))
        if held is not None:
            return held
        if not isinstance(node, yaml.MappingNode):
            raise self._wrong(node, "expected a mapping of strings", "labels")
        if len(node.value) > MAX_LABELS:
            raise self._wrong(node, f"more than {MAX_LABELS} labels", "labels")
        labels: dict[str, str] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
                raise self._wrong(key, "expected a mapping of strings", "labels")
            if value.tag != "tag:yaml.org,2002:str":
                problem = f"the value {value.value!r} is no string: put it in quotes"
                raise self._wrong(value, problem, f"labels.{key.value}")
            if key.value in labels:
                raise self._wrong(key, "given twice", f"labels.{key.value}")
            labels[key.value] = value.value
        return self._labels.setdefault(id(node), MappingProxyType(labels))

    def _wrong(self, node: yaml.Node, problem: str, field: str = "") -> EndpointsFileError:
        line = node.start_mark.line + 1
        return EndpointsFileError(self._source, line, problem, entry=self._entry, field=field)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"
