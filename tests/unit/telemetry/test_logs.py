"""What a configured log writes."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.telemetry.logs import TIME_ENCODINGS, TRACE, LogOptions, configure, encode_time, named_level

log = logging.getLogger("epp.test")


@pytest.fixture(autouse=True)
def root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    handlers = list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(options: LogOptions, *records: tuple[int, str, dict[str, Any]]) -> list[dict[str, Any]]:
    stream = io.StringIO()
    configure(options, stream)
    for level, message, extra in records:
        log.log(level, message, extra=extra)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_where_nobody_watches_and_lines_on_a_terminal() -> None:
    for stream, options, is_json in (
        (io.StringIO(), LogOptions(), True),
        (Terminal(), LogOptions(), False),
        (Terminal(), LogOptions(encoder="json"), True),
        (io.StringIO(), LogOptions(encoder="console"), False),
        (io.StringIO(), LogOptions(devel=True), False),
    ):
        configure(options, stream)
        log.warning("up", extra={"port": 9002})
        text = stream.getvalue()
        assert text.count("\n") == 1, "one handler only"
        assert text.startswith("{") is is_json
        assert "9002" in text


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (LogOptions(v=0), "IWE"),
        (LogOptions(), "IWE"),
        (LogOptions(v=4), "DIWE"),
        (LogOptions(v=5), "TDIWE"),
        (LogOptions(level="error"), "E"),
        (LogOptions(v=5, level="info"), "IWE"),
        (LogOptions(level="4"), "DIWE"),
        (LogOptions(level="debug"), "DIWE"),
        (LogOptions(devel=True, encoder="json"), "DIWE"),
        (LogOptions(devel=True, encoder="json", level="error"), "E"),
    ],
)
def test_levels(options: LogOptions, shown: str) -> None:
    levels = {"T": TRACE, "D": logging.DEBUG, "I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR}
    made = lines(options, *((level, letter, {}) for letter, level in levels.items()))
    assert "".join(line["msg"] for line in made) == shown


def test_a_json_line() -> None:
    (line,) = lines(
        LogOptions(), (logging.WARNING, "late", {"request_id": "r-1", "Authorization": "Bearer x"})
    )
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "warning", "logger": "epp.test", "msg": "late", "request_id": "r-1", "Authorization": "***",
    }  # fmt: skip


@given(st.text())
def test_no_value_forges_a_console_line(text: str) -> None:
    stream = io.StringIO()
    configure(LogOptions(encoder="console"), stream)
    log.warning("%s", text, extra={"field": text})
    written = stream.getvalue()
    assert written.endswith("\n")
    assert len(written.splitlines()) == 1
    written.encode()


def test_tracebacks_from_a_level_on() -> None:
    for options, level, whole in (
        (LogOptions(), logging.ERROR, True),
        (LogOptions(), logging.WARNING, False),
        (LogOptions(devel=True, encoder="json"), logging.WARNING, True),
        (LogOptions(stacktrace_level="panic"), logging.ERROR, False),
    ):
        stream = io.StringIO()
        configure(options, stream)
        try:
            raise KeyError("gone")
        except KeyError:
            log.log(level, "failed", exc_info=True)
        line = json.loads(stream.getvalue())
        assert line["error"] == "KeyError: 'gone'"
        assert ("stacktrace" in line) is whole


def test_time_encodings() -> None:
    at = 1_700_000_000.123456
    written = [encode_time(at, encoding) for encoding in TIME_ENCODINGS]
    assert written[0] == at
    assert written[1] == pytest.approx(at * 1e3)
    assert written[2] == written[6] == int(at * 1e9)
    assert written[3:6] == ["2023-11-14T22:13:20.123Z", "2023-11-14T22:13:20Z", "2023-11-14T22:13:20.123456Z"]
    for encoding in TIME_ENCODINGS:
        (line,) = lines(LogOptions(time_encoding=encoding), (logging.ERROR, "x", {}))
        assert type(line["ts"]) is type(encode_time(at, encoding))


@pytest.mark.parametrize(
    "options",
    [
        LogOptions(level="loud"),
        LogOptions(level="0"),
        LogOptions(level="-1"),
        LogOptions(stacktrace_level="x"),
        LogOptions(time_encoding="sundial"),
        LogOptions(encoder="xml"),  # type: ignore[arg-type]
    ],
)
def test_bad_flags_are_refused(options: LogOptions) -> None:
    with pytest.raises(ValueError, match="use"):
        configure(options, io.StringIO())


def test_a_number_counts_like_v() -> None:
    assert [named_level(text) for text in ("1", "4", "9")] == [logging.INFO, logging.DEBUG, TRACE]
