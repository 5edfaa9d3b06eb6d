"""One line an event: JSON for machines, text for a person, nothing that could not be told."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import threading
import warnings
from typing import Any

import pytest
import structlog

from agentd.digest import digest
from agentd.report import log

pytestmark = pytest.mark.usefixtures("restored_logging")


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        """It is one."""
        return True


class Broken(io.StringIO):
    """A stream whose reader is gone."""

    def write(self, _text: str) -> int:
        """Fail as a closed pipe does."""
        raise BrokenPipeError


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_time_level_and_event_first() -> None:
    """A machine reads one JSON object a line; the time is UTC in ISO 8601."""
    stream = io.StringIO()
    log.configure(stream=stream)

    structlog.get_logger().info("event.received", handler="tls", count=2)

    (line,) = _lines(stream)
    assert list(line) == ["timestamp", "level", "event", "handler", "count"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])
    assert (line["level"], line["event"], line["count"]) == ("info", "event.received", 2)


def test_a_terminal_gets_text() -> None:
    """On a terminal a person reads, and JSON would be in the way."""
    stream = Terminal()
    log.configure(stream=stream)

    structlog.get_logger().info("event.received", handler="tls")

    assert "event.received" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_json_can_be_had_on_a_terminal() -> None:
    """`json=True` decides, whatever the stream."""
    stream = Terminal()
    log.configure(json=True, stream=stream)

    structlog.get_logger().info("event.received")

    assert _lines(stream)[0]["event"] == "event.received"


def test_a_terminal_gets_no_control_characters_from_a_value() -> None:
    """Whoever fires an event chooses its name, and must not drive the operator's terminal with it."""
    stream = io.StringIO()
    log.configure(json=False, stream=stream)

    structlog.get_logger().info("event.received", name="x\x1b]0;owned\x07\n2026 [info] forged")

    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("as_json", [True, False])
def test_a_secret_is_not_written(as_json: bool) -> None:  # noqa: FBT001 (pytest passes parameters by name)
    """The redaction applies to every line, in both forms."""
    stream = io.StringIO()
    log.configure(json=as_json, stream=stream)

    structlog.get_logger().info(
        "event.received", payload="hunter2", nested={"token": "hunter2"}, blob=b"hunter2"
    )

    assert "hunter2" not in stream.getvalue()
    assert digest(b"hunter2") in stream.getvalue()


@pytest.mark.parametrize("as_json", [True, False])
def test_an_exception_is_written_with_its_traceback(as_json: bool) -> None:  # noqa: FBT001 (as above)
    """`log.exception` tells where it happened."""
    stream = io.StringIO()
    log.configure(json=as_json, stream=stream)

    try:
        int("no number")
    except ValueError:
        structlog.get_logger().exception("handler.crashed")

    assert "ValueError: invalid literal" in stream.getvalue()
    assert "test_log.py" in stream.getvalue()


def test_lines_below_the_level_are_dropped() -> None:
    """`level` is the least that is written."""
    stream = io.StringIO()
    log.configure("warning", stream=stream)

    structlog.get_logger().info("event.received")
    structlog.get_logger().warning("events.missed")

    assert [line["event"] for line in _lines(stream)] == ["events.missed"]


def test_a_logger_that_exists_follows_a_new_level() -> None:
    """After a SIGHUP the loggers that modules made at their import obey the new configuration."""
    stream = io.StringIO()
    logger = structlog.get_logger()
    log.configure("error", stream=stream)
    logger.debug("first.one")

    log.configure("debug", stream=stream)
    logger.debug("second.one")

    assert [line["event"] for line in _lines(stream)] == ["second.one"]


def test_what_a_library_logs_becomes_a_line() -> None:
    """The standard library's logging comes out as JSON too, from warnings on, an error at its level."""
    stream = io.StringIO()
    log.configure("debug", stream=stream)

    logging.getLogger("urllib3").info("too much to tell")
    logging.getLogger("urllib3").warning("retrying %s", "soon")
    logging.getLogger("urllib3").critical("given up")

    assert [(line["level"], line["logger"], line["message"]) for line in _lines(stream)] == [
        ("warning", "urllib3", "retrying soon"),
        ("error", "urllib3", "given up"),
    ]


def test_a_library_that_logs_nonsense_does_no_harm() -> None:
    """Arguments that do not fit the format are left out."""
    stream = io.StringIO()
    log.configure(stream=stream)

    logging.getLogger("sloppy").warning("%d of %d", 1)  # noqa: PLE1206 (the mistake under test)

    assert _lines(stream)[0]["message"] == "%d of %d"


def test_a_python_warning_becomes_a_line() -> None:
    """A warning printed as text would break whoever parses the JSON."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        log.configure(stream=stream)

        warnings.warn("this is old", DeprecationWarning, stacklevel=1)

        assert "this is old" in _lines(stream)[0]["message"]
        logging.captureWarnings(capture=False)


def test_a_thread_that_dies_is_reported() -> None:
    """An exception that ends a thread is one line with the thread's name."""
    stream = io.StringIO()
    log.configure(stream=stream)
    thread = threading.Thread(target=dict[str, int]().__getitem__, args=("missing",), name="poll event")

    thread.start()
    thread.join()

    (line,) = _lines(stream)
    assert (line["event"], line["thread"]) == ("thread.died", "poll event")
    assert "KeyError" in line["exception"]


def test_a_thread_that_exits_is_not_reported() -> None:
    """SystemExit in a thread is its way to end, as Python itself has it."""
    stream = io.StringIO()
    log.configure(stream=stream)
    thread = threading.Thread(target=sys.exit)

    thread.start()
    thread.join()

    assert stream.getvalue() == ""


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    """When the reader of standard error is gone, the daemon goes on serving."""
    log.configure(json=True, stream=Broken())

    structlog.get_logger().error("handler.failed")


def test_context_variables_are_part_of_each_line() -> None:
    """What a thread bound, such as its handler, stands in its lines."""
    stream = io.StringIO()
    log.configure(stream=stream)

    with structlog.contextvars.bound_contextvars(handler="tls"):
        structlog.get_logger().info("handler.applied")

    assert _lines(stream)[0]["handler"] == "tls"


def test_json_needs_no_rich() -> None:
    """JSON lines come out as well where rich, a tool of the developers, is not installed."""
    program = (
        "import sys; sys.modules['rich'] = None\n"
        "from agentd.report import log; import structlog\n"
        "log.configure(json=True); structlog.get_logger().info('event.received')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )

    assert json.loads(ended.stderr)["event"] == "event.received"


def test_a_traceback_on_a_terminal_has_its_lines_and_no_other_control_character() -> None:
    """The message of an exception may quote what an outsider chose."""
    stream = Terminal()
    log.configure(stream=stream)

    structlog.get_logger().error("handler.crashed", exception="KeyError: \x1b[2J\u202e\nnext")

    assert "KeyError: \\x1b[2J\\u202e\nnext" in stream.getvalue()
