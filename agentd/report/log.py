"""Configures structlog: one line per event on standard error, JSON unless it is a terminal.

Owns the chain of processors, gives each line its priority where the journal reads it, and brings the
standard library's logging, Python's warnings and the death of a thread into the same lines. It must not
import agentd's other rooms, and no line may hold a secret: see `redaction`.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import MutableMapping
from functools import partialmethod
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import Processor, WrappedLogger

from agentd.printable import printable, printable_lines
from agentd.priority import Name, goes_to_journal, prefixed
from agentd.report.redaction import redact

Level = Literal["debug", "info", "warning", "error"]
LEVELS: Final[dict[Level, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_FIRST: Final = ("timestamp", "level", "event")


def configure(level: Level = "info", *, json: bool | None = None, stream: TextIO | None = None) -> None:
    """Send all log lines to `stream` from now on; may be called again, as after a SIGHUP.

    Args:
        level: the least that is written. What libraries log is written from "warning" on.
        json: JSON lines, or text for a person; None asks whether `stream` is a terminal.
        stream: standard error if None.
    """
    out = sys.stderr if stream is None else stream
    for_machines = not out.isatty() if json is None else json
    lines = _Lines(out)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redacted,
            *(_json() if for_machines else _text(out)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,  # so that existing loggers follow a new configuration
    )
    _adopt_libraries()


def _json() -> list[Processor]:
    return [structlog.processors.JSONRenderer()]


def _text(out: TextIO) -> list[Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    return [_printable, renderer]


def _redacted(_logger: WrappedLogger, _method: str, fields: MutableMapping[str, Any]) -> dict[str, Any]:
    """Every field as it may be logged; time, level and event come first."""
    ordered = {name: fields[name] for name in _FIRST if name in fields} | dict(fields)
    return {name: redact(value, name) for name, value in ordered.items()}


def _printable(
    _logger: WrappedLogger, _method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """An event's sender chose its name: a control character must not reach the terminal."""
    for name, value in fields.items():
        if isinstance(value, str):
            fields[name] = printable_lines(value) if name == "exception" else printable(value)
    return fields


class _Lines:
    """Writes lines; a log that cannot be written is no reason to stop serving."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._journal = goes_to_journal(stream)

    def _write(self, line: str, name: Name) -> None:
        shown = prefixed(line, name) if self._journal else line
        try:
            self._stream.write(shown + "\n")  # one call, so that threads do not mix their lines
            self._stream.flush()
        except (OSError, ValueError):  # a closed pipe, a full disk, a closed stream
            return

    msg = info = partialmethod(_write, name="info")
    debug = partialmethod(_write, name="debug")
    warning = partialmethod(_write, name="warning")
    error = exception = partialmethod(_write, name="error")
    critical = partialmethod(_write, name="critical")


class _Library(logging.Handler):
    """What a library logs, as the event `library.said`."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # its arguments do not fit its format: the library's mistake
            message = str(record.msg)
        level = logging.ERROR if record.levelno >= logging.ERROR else logging.WARNING
        structlog.get_logger().log(
            level, "library.said", logger=record.name, message=message, exc_info=record.exc_info
        )


def _adopt_libraries() -> None:
    logging.basicConfig(level=logging.WARNING, handlers=[_Library()], force=True)
    logging.captureWarnings(capture=True)
    threading.excepthook = _thread_died


def _thread_died(args: threading.ExceptHookArgs) -> None:
    if issubclass(args.exc_type, SystemExit):
        return
    structlog.get_logger().error(
        "thread.died",
        thread=args.thread.name if args.thread else None,
        exc_info=args.exc_value or args.exc_type(),
    )
