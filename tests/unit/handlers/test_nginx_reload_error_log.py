"""Reading back what nginx wrote since a moment."""

from __future__ import annotations

from pathlib import Path

from handlers.nginx_reload.error_log import emergencies, mark, quote


def line(text: str, pid: int = 7, level: str = "emerg") -> str:
    """One line as nginx writes it."""
    return f"2026/01/02 03:04:05 [{level}] {pid}#{pid}: {text}\n"


def test_only_what_came_after_the_mark_counts(tmp_path: Path) -> None:
    """An older [emerg] line is no news."""
    log = tmp_path / "error.log"
    log.write_text(line("old"))
    since = mark(log)
    with log.open("a") as file:
        file.write(line("new"))

    assert emergencies(since, {7}) == ["new"]


def test_other_levels_and_other_processes_are_left_out(tmp_path: Path) -> None:
    """A notice is no refusal, and a check that runs meanwhile is not the server."""
    log = tmp_path / "error.log"
    since = mark(log)
    log.write_text(line("a notice", level="notice") + line("a check", pid=8) + line("mine"))

    assert emergencies(since, {7}) == ["mine"]


def test_a_rotated_log_is_read_from_its_beginning(tmp_path: Path) -> None:
    """A new file under the name holds only what is new."""
    log = tmp_path / "error.log"
    log.write_text(line("old") * 10)
    since = mark(log)
    log.rename(tmp_path / "error.log.1")
    log.write_text(line("new"))

    assert emergencies(since, {7}) == ["new"]


def test_a_truncated_log_is_read_from_its_beginning(tmp_path: Path) -> None:
    """The same when it was cut in place."""
    log = tmp_path / "error.log"
    log.write_text(line("old") * 10)
    since = mark(log)
    log.write_text(line("new"))

    assert emergencies(since, {7}) == ["new"]


def test_a_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    """Nginx may log elsewhere."""
    assert emergencies(mark(tmp_path / "none"), {7}) == []


def test_a_flood_is_bounded_to_its_end(tmp_path: Path) -> None:
    """At most 64 KiB are read, whatever was written, and the newest lines win."""
    log = tmp_path / "error.log"
    since = mark(log)
    log.write_text("".join(line(f"number {number:08d}") for number in range(10_000)))

    found = emergencies(since, {7})

    assert found[-1] == "number 00009999"
    assert len(found) < 2000


def test_repeated_lines_are_told_once(tmp_path: Path) -> None:
    """Nginx writes the same line for each of its tries."""
    log = tmp_path / "error.log"
    since = mark(log)
    log.write_text(line("bind() failed") * 5 + line("still could not bind()"))

    assert emergencies(since, {7}) == ["bind() failed", "still could not bind()"]


def test_a_quotation_is_short_and_printable(tmp_path: Path) -> None:
    """At most the last five lines and 1,024 characters, without control characters."""
    log = tmp_path / "error.log"
    since = mark(log)
    log.write_text("".join(line(f"{number}\x1b[31m" + "x" * 300) for number in range(9)))

    quoted = quote(emergencies(since, {7}))

    assert len(quoted) == 1024
    assert quoted.isprintable()
    assert "3?[31m" not in quoted


def test_what_a_client_has_nginx_log_is_no_emergency(tmp_path: Path) -> None:
    """A request can contain anything, also a number of 5,000 digits, in the middle of a line."""
    log = tmp_path / "error.log"
    since = mark(log)
    asked = f'client sent "[emerg] 7#7: made up [emerg] {"9" * 5000}#1: x"'
    log.write_text(line(asked, level="info") + line("mine") + line("long", pid=int("9" * 11)))

    assert emergencies(since, {7}) == ["mine"]
