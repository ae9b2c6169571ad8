"""Label selectors as Kubernetes writes them: text -> Selector, and whether labels match. No I/O.

`a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, `a>1`, `a<9`, joined by commas: all must
hold. `!=` and `notin` hold for labels that are not there, as in kubectl.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

MAX_CHARACTERS = 16_384
_TOKEN = re.compile(r"\s*(?:(?P<sign>==|!=|[=!(),<>])|(?P<word>[^\s=!(),<>]+)|(?P<end>$))")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_INTEGER = re.compile(r"[-+]?[0-9]{1,19}")

Operator: TypeAlias = Literal["=", "!=", "in", "notin", "exists", "!", ">", "<"]


class SelectorError(ValueError):
    """No selector; says at which character (from 1) and what would be one."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition; `values` is sorted, and empty for `exists` and `!`."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "=" | "in":
                return value in self.values
            case "!=" | "notin":
                return value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
        if value is None or not _INTEGER.fullmatch(value):
            return False
        return int(value) > int(self.values[0]) if self.operator == ">" else int(value) < int(self.values[0])

    def __str__(self) -> str:
        if self.operator == "exists":
            return self.key
        if self.operator == "!":
            return f"!{self.key}"
        if self.operator in ("in", "notin"):
            return f"{self.key} {self.operator} ({','.join(self.values)})"
        return f"{self.key}{self.operator}{self.values[0]}"


@dataclass(frozen=True, slots=True)
class Selector:
    """All of its requirements must hold; without any it matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Labels that whatever matches has exactly so."""
        return tuple(
            (one.key, one.values[0])
            for one in self.requirements
            if one.operator in ("=", "in") and len(one.values) == 1
        )

    def __str__(self) -> str:
        """Text that the API server takes and `parse` reads to the same selector."""
        return ",".join(map(str, self.requirements))


EVERYTHING = Selector()


def of_labels(labels: Mapping[str, str]) -> Selector:
    """The selector of a `matchLabels`. Raises SelectorError for what can be no label."""
    for key, value in labels.items():
        for wrong in (wrong_key(key), wrong_value(value)):
            if wrong:
                raise SelectorError(wrong)
    return Selector(tuple(Requirement(key, "=", (value,)) for key, value in sorted(labels.items())))


def wrong_key(key: str) -> str:
    """Why this is no label key; empty for one."""
    prefix, slash, name = key.rpartition("/")
    if not _NAME.fullmatch(name):
        return (
            f"'{key}' is no label key: letters, digits, '-', '_' and '.', at most 63 characters, "
            "a letter or digit at both ends"
        )
    if slash and not _PREFIX.fullmatch(prefix):
        return f"'{key}' is no label key: what stands before '/' must be a DNS name in lower case"
    return ""


def wrong_value(value: str) -> str:
    """Why this is no label value; empty for one."""
    if not value or _NAME.fullmatch(value):
        return ""
    return (
        f"'{value}' is no label value: letters, digits, '-', '_' and '.', at most 63 characters, "
        "a letter or digit at both ends"
    )


def parse(text: str) -> Selector:
    """Raises SelectorError. Text without a requirement gives the selector that matches everything."""
    if len(text) > MAX_CHARACTERS:
        raise SelectorError(f"a selector of {len(text)} characters; at most {MAX_CHARACTERS}")
    return _Parser(text).selector()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, int]] = []
        """Each with the place where it begins; the last is the empty text at the end."""
        at = 0
        while not self._tokens or self._tokens[-1][0]:
            match = _TOKEN.match(text, at)
            assert match is not None  # any character begins one of the three
            assert match.lastgroup is not None
            self._tokens.append((match[match.lastgroup], match.start(match.lastgroup)))
            at = match.end()
        self._next = 0

    def selector(self) -> Selector:
        if not self._peek():
            return EVERYTHING
        requirements = [self._requirement()]
        while self._peek():
            self._take(",")
            requirements.append(self._requirement())
        return Selector(tuple(requirements))

    def _requirement(self) -> Requirement:
        if self._peek() == "!":
            self._next += 1
            return Requirement(self._key(), "!")
        key = self._key()
        match self._peek():
            case "" | ",":
                return Requirement(key, "exists")
            case "=" | "==":
                self._next += 1
                return Requirement(key, "=", (self._value(),))
            case "!=":
                self._next += 1
                return Requirement(key, "!=", (self._value(),))
            case "in":
                self._next += 1
                return Requirement(key, "in", self._values())
            case "notin":
                self._next += 1
                return Requirement(key, "notin", self._values())
            case ">":
                self._next += 1
                return Requirement(key, ">", (self._integer(),))
            case "<":
                self._next += 1
                return Requirement(key, "<", (self._integer(),))
        raise self._wrong("expected ',', '=', '!=', 'in', 'notin', '>' or '<'")

    def _key(self) -> str:
        token = self._peek()
        if not token or not _is_word(token):
            raise self._wrong("expected a label key")
        wrong = wrong_key(token)
        if wrong:
            raise self._wrong(wrong, quote=False)
        self._next += 1
        return token

    def _value(self) -> str:
        """A word, or nothing at all: `a=` asks for the empty value."""
        token = self._peek()
        if not token or token[0] in ",)":
            return ""
        if not _is_word(token):
            raise self._wrong("expected a label value")
        wrong = wrong_value(token)
        if wrong:
            raise self._wrong(wrong, quote=False)
        self._next += 1
        return token

    def _values(self) -> tuple[str, ...]:
        self._take("(")
        values = {self._value()}
        while self._peek() == ",":
            self._next += 1
            values.add(self._value())
        self._take(")")
        return tuple(sorted(values))

    def _integer(self) -> str:
        token = self._peek()
        if not _INTEGER.fullmatch(token):
            raise self._wrong("expected a whole number")
        self._next += 1
        return token

    def _take(self, token: str) -> None:
        if self._peek() != token:
            raise self._wrong(f"expected '{token}'")
        self._next += 1

    def _peek(self) -> str:
        return self._tokens[self._next][0]

    def _wrong(self, what: str, *, quote: bool = True) -> SelectorError:
        token, at = self._tokens[self._next]
        got = f", got {repr(token) if token else 'the end'}" if quote else ""
        return SelectorError(f"'{self._text}', character {at + 1}: {what}{got}")


def _is_word(token: str) -> bool:
    return token[0] not in "=!(),<>"
