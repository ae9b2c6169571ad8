"""What is taken out of bodies and in which header it goes: `--plugin <type>:<name>[:<json>]` -> steps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from epp.config.problems import choices, nearest

FIELD: Final = "body-field-to-header"
BASE_MODEL: Final = "base-model-to-header"
TYPES: Final = (FIELD, BASE_MODEL)
MODEL_FIELD: Final = "model"
MODEL_HEADER: Final = "X-Gateway-Model-Name"
BASE_MODEL_HEADER: Final = "X-Gateway-Base-Model-Name"
MAX_STEPS: Final = 32
_FORMS: Final = f"{FIELD}:NAME:{{...}} or {BASE_MODEL}:NAME"
_PARAMETERS: Final = ("fieldName", "headerName")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_UNLIKELY: Final = re.compile(r'["\\\x00-\x1f]')
_NOT_OURS: Final = frozenset(
    ("connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)
"""They say how the message is sent, or to whom."""
_OTHERS_PREFIXES: Final = ("x-envoy-", "x-forwarded-", "x-gateway-destination-endpoint")
"""The gateway's and the picker's own."""


@dataclass(frozen=True, slots=True)
class Step:
    """One header. A base model's is found by the field that names the model."""

    type: str
    name: str
    field: str
    header: str


DEFAULT: Final = (
    Step(FIELD, "model-to-header", MODEL_FIELD, MODEL_HEADER),
    Step(BASE_MODEL, BASE_MODEL, MODEL_FIELD, BASE_MODEL_HEADER),
)
"""Where no plugin is named."""


def read_steps(texts: Sequence[str]) -> tuple[Step, ...]:
    """Raises ValueError with the plugin, what is wrong with it and what would be right."""
    if not texts:
        return DEFAULT
    if len(texts) > MAX_STEPS:
        raise ValueError(f"there are {len(texts)} plugins; at most {MAX_STEPS} may be named")
    steps: list[Step] = []
    for text in texts:
        step = _step(text)
        for other in steps:
            if other.name == step.name:
                raise ValueError(f"{text!r}: another plugin has the name {step.name!r} already")
            if other.header.lower() == step.header.lower():
                raise ValueError(f"{text!r}: the plugin {other.name!r} sets the header {step.header} already")
        steps.append(step)
    return tuple(steps)


def _step(text: str) -> Step:
    kind, _, rest = text.partition(":")
    name, _, parameters = rest.partition(":")
    if kind not in TYPES:
        known = nearest(kind, TYPES) or f"; there are {choices(TYPES)}"
        raise ValueError(f"{text!r}: {kind!r} is no type of plugin here{known}")
    if not name:
        raise ValueError(f"{text!r} has no name; write {_FORMS}")
    if kind == BASE_MODEL:
        if parameters not in ("", "{}", "null"):
            raise ValueError(f"{text!r}: {BASE_MODEL} takes no parameters")
        return Step(kind, name, MODEL_FIELD, BASE_MODEL_HEADER)
    given = _parameters(text, parameters)
    for key in _PARAMETERS:
        if not given.get(key):
            raise ValueError(f"{text!r}: {key} is missing or empty; {FIELD} needs {choices(_PARAMETERS)}")
    if _UNLIKELY.search(given["fieldName"]):
        raise ValueError(f"{text!r}: fieldName has a quote, a backslash or a control character")
    _check_header(text, given["headerName"])
    return Step(kind, name, given["fieldName"], given["headerName"])


def _parameters(text: str, parameters: str) -> dict[str, str]:
    try:
        given = msgspec.json.decode(parameters or "{}", type=dict[str, str])
    except msgspec.DecodeError as error:
        raise ValueError(f"{text!r}: its parameters are not a JSON object of strings: {error}") from None
    for key in given:
        if key not in _PARAMETERS:
            known = nearest(key, _PARAMETERS) or f"; there are {choices(_PARAMETERS)}"
            raise ValueError(f"{text!r}: {key!r} is no parameter of {FIELD}{known}")
    return given


def _check_header(text: str, header: str) -> None:
    if not _TOKEN.fullmatch(header):
        raise ValueError(
            f"{text!r}: {header[:60]!r} is no name of a header: letters, digits and hyphens, at most 128"
        )
    lower = header.lower()
    if lower in _NOT_OURS or lower.startswith(_OTHERS_PREFIXES):
        raise ValueError(f"{text!r}: the header {header} is not to be set from a request's body")
