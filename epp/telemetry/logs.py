"""The process's logging, configured once: lines for a terminal, JSON for everything else.

Flags are the reference picker's: `-v N` and `--zap-*`. Prompts are never handed to a log; values under the
names of secrets are masked, and control characters are escaped, so that no client can forge a line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from pythonjsonlogger.json import JsonFormatter

TRACE = 5
"""Below DEBUG: single messages and chunks."""
TIME_ENCODINGS = ("epoch", "millis", "nano", "iso8601", "rfc3339", "rfc3339nano", "nanos")
_NAMED = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "panic": logging.CRITICAL,
}
_SECRET = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "api_key",
        "api-key",
        "x-api-key",
        "token",
    }
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
# Line separators, and marks that make a terminal write from right to left.
_ESCAPES |= {code: f"\\u{code:04x}" for code in (*range(0x2028, 0x202F), *range(0x2066, 0x206A))}


def verbosity_level(v: int) -> int:
    """Level of `-v N`: up to 3 is info, 4 is debug, from 5 on everything."""
    return logging.INFO if v < 4 else logging.DEBUG if v == 4 else TRACE


def named_level(text: str) -> int:
    """Level of `--zap-log-level`: a name, or a whole number above 0 that counts like `-v`."""
    name = text.strip().lower()
    if name in _NAMED:
        return _NAMED[name]
    if name.isascii() and name.isdigit() and int(name[:6]) > 0:
        return verbosity_level(int(name[:6]))
    raise ValueError(f"{text!r} is no log level; use {', '.join(_NAMED)} or a number above 0")


@dataclass(frozen=True, slots=True)
class LogOptions:
    """As the flags have it; empty or None where a flag is not given."""

    v: int = 2
    encoder: Literal["", "json", "console"] = ""
    level: str = ""
    devel: bool = False
    """Console, debug level and tracebacks from warnings on, where no other flag says otherwise."""
    stacktrace_level: str = ""
    """From which level on the traceback of an exception is written, below it only its last line."""
    time_encoding: str = ""


def configure(options: LogOptions | None = None, stream: TextIO | None = None) -> logging.Handler:
    """Sets up the root logger; a second call replaces the first. Raises ValueError for a bad flag value."""
    options = options or LogOptions()
    stream = stream or sys.stderr
    if options.encoder not in ("", "json", "console"):
        raise ValueError(f"{options.encoder!r} is no log encoder; use json or console")
    time_encoding = options.time_encoding or "rfc3339nano"
    if time_encoding not in TIME_ENCODINGS:
        raise ValueError(f"{time_encoding!r} is no time encoding; use {', '.join(TIME_ENCODINGS)}")
    level = named_level(options.level) if options.level else verbosity_level(options.v)
    if options.devel and not options.level:
        level = min(level, logging.DEBUG)
    stacks = named_level(options.stacktrace_level or ("warn" if options.devel else "error"))
    console = options.encoder == "console" or (not options.encoder and (options.devel or stream.isatty()))
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Console(stacks, options.time_encoding) if console else Json(stacks, time_encoding))
    logging.addLevelName(TRACE, "TRACE")
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h.formatter, Console | Json)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # These write a line a request or a message at levels that are ours to use.
    for name in ("aiohttp.access", "asyncio", "grpc", "opentelemetry", "watchfiles"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    return handler


def encode_time(seconds: float, encoding: str) -> float | int | str:
    """Wall-clock seconds in one of TIME_ENCODINGS."""
    if encoding == "epoch":
        return seconds
    if encoding == "millis":
        return seconds * 1e3
    if encoding in ("nano", "nanos"):
        return int(seconds * 1e9)
    utc = datetime.fromtimestamp(seconds, UTC)
    if encoding == "iso8601":
        return utc.strftime("%Y-%m-%dT%H:%M:%S.") + f"{utc.microsecond // 1000:03d}Z"
    text = utc.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}Z" if encoding == "rfc3339" else f"{text}.{utc.microsecond:06d}Z"


class Json(JsonFormatter):
    """One JSON object a line: ts, level, logger, msg, then the record's extras."""

    def __init__(self, stacks: int, time_encoding: str) -> None:
        super().__init__(json_ensure_ascii=False)
        self._stacks = stacks
        self._time_encoding = time_encoding

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        log_data["ts"] = encode_time(record.created, self._time_encoding)
        log_data["level"] = record.levelname.lower()
        log_data["logger"] = record.name
        log_data["msg"] = record.getMessage()
        log_data.update(_extras(record))
        if record.exc_info and record.exc_info[1] is not None:
            log_data["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
            if record.levelno >= self._stacks:
                log_data["stacktrace"] = self.formatException(record.exc_info)

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        line: str = super().jsonify_log_record(log_data)
        # A lone surrogate would make the stream's encoder raise.
        return line.encode("utf-8", "replace").decode()


class Console(logging.Formatter):
    """`12:34:56.789 INFO  logger  message  key=value`, in local time unless a time encoding is asked for."""

    def __init__(self, stacks: int, time_encoding: str = "") -> None:
        super().__init__()
        self._stacks = stacks
        self._time_encoding = time_encoding

    def format(self, record: logging.LogRecord) -> str:
        if self._time_encoding:
            at = str(encode_time(record.created, self._time_encoding))
        else:
            at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        line = f"{at} {record.levelname:<7} {record.name}  {record.getMessage()}"
        line += "".join(f"  {name}={value}" for name, value in _extras(record).items())
        if record.exc_info and record.exc_info[1] is not None:
            line += f"  error={type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        line = line.translate(_ESCAPES)
        if record.exc_info and record.levelno >= self._stacks:
            line += "\n" + self.formatException(record.exc_info)
        return line.encode("utf-8", "replace").decode()


def _extras(record: logging.LogRecord) -> Mapping[str, Any]:
    return {
        name: "***" if name.lower() in _SECRET else value
        for name, value in vars(record).items()
        if name not in _STANDARD and not name.startswith("_")
    }
