"""What `agentd check` says of the keys, and of what is accepted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentd.commands.checks.finding import Finding
from agentd.commands.checks.trust import findings
from agentd.config.load import load
from agentd.trust.key_files import write_key
from tests.unit.trust.samples import FLEET, OPS, OTHER


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A directory with the sample's keys."""
    directory = tmp_path / "keys"
    write_key(directory / "ops.key", OPS)
    write_key(directory / "fleet.key", FLEET)
    return directory


def found(keys: Path, **trust: Any) -> list[Finding]:  # noqa: ANN401 (fields of the section)
    """What is found on a node that keeps `ban`, whose `trust:` has one publisher and these fields."""
    section = {"publishers": {"ops": {"key": OPS.public.text, "may": "b*"}}, "require": "signed"}
    configuration = {
        "fleet": {"name": "prod"},
        "trust": section | trust,
        "handlers": {"deny": {"use": "ip_blacklist", "on": [{"event": "ban", "keep": "all"}]}},
    }
    path = keys.parent / "agentd.yaml"
    path.write_text(json.dumps(configuration))
    return list(findings(load(path)))


def test_what_is_in_order_is_told_in_one_line(keys: Path) -> None:
    """Who may send, and what is sealed."""
    files = {"fleet_keys": [str(keys / "fleet.key")], "signing_key": str(keys / "ops.key")}
    [one] = found(keys, seal="bans", **files)
    assert (one.level, one.text) == ("ok", "publishers: ops; sealed: bans")


def test_a_fleet_key_that_cannot_be_used_is_a_problem(keys: Path) -> None:
    """With the file, and what it stops."""
    (keys / "fleet.key").chmod(0o644)
    [one] = found(keys, fleet_keys=[str(keys / "fleet.key")], signing_key=str(keys / "ops.key"))
    assert one.level == "FAIL"
    assert f"{keys}/fleet.key has the mode 0644" in one.text
    assert "does not start" in one.advice


def test_a_public_key_with_which_nobody_can_sign_is_a_problem(keys: Path) -> None:
    """It is no point on the curve."""
    [one] = found(keys, publishers={"ops": {"key": "k4.public." + "_" * 42 + "8", "may": "ban"}})
    assert (one.level, "not a valid Ed25519" in one.text) == ("FAIL", True)


def test_a_signing_key_of_no_publisher_is_a_problem(keys: Path) -> None:
    """The advice is the line to add."""
    write_key(keys / "other.key", OTHER)
    [one] = found(keys, signing_key=str(keys / "other.key"))
    assert (one.level, OTHER.public.text in one.advice) == ("FAIL", True)


def test_a_signing_key_that_cannot_be_read_is_a_problem(keys: Path) -> None:
    """Of the host, not of the node."""
    [one] = found(keys, signing_key=str(keys / "missing.key"))
    assert (one.level, "`agentd publish` fails" in one.advice) == ("FAIL", True)


def test_what_nobody_signed_being_accepted_is_warned_of(keys: Path) -> None:
    """It is meant for the time until all publishers sign."""
    assert [one.level for one in found(keys, require=None)] == ["ok", "warn"]


def test_a_kept_name_that_nobody_may_send_is_a_problem(keys: Path) -> None:
    """With `require`, and if it is to be sealed."""
    publishers = {"ops": {"key": OPS.public.text, "may": "deploy"}}
    assert [one.level for one in found(keys, publishers=publishers)] == ["ok", "FAIL"]
    assert [one.level for one in found(keys, publishers=publishers, require=None)] == ["ok", "warn"]


def of(tmp_path: Path, text: str) -> list[tuple[str, str]]:
    """What is found on a node with this configuration."""
    path = tmp_path / "agentd.yaml"
    path.write_text(text)
    return [(one.level, one.text) for one in findings(load(path))]


def test_without_the_section_a_fleet_is_told_what_that_means(tmp_path: Path) -> None:
    """It is a choice, and no fault."""
    text = "{fleet: {name: prod}, handlers: {deny: {use: ip_blacklist, on: [{event: ban, keep: all}]}}}"
    [(level, told)] = of(tmp_path, text)
    assert (level, "whoever may write to the log" in told) == ("ok", True)


def test_where_nothing_is_kept_nothing_is_said(tmp_path: Path) -> None:
    """There is nothing that could be signed."""
    assert of(tmp_path, "handlers: {deny: {use: ip_blacklist, on: [{event: ban}]}}\n") == []


def test_an_event_that_only_arrives_empty_is_warned_of(keys: Path) -> None:
    """It is not kept, so it cannot be published."""
    text = f"""
        fleet: {{name: prod}}
        trust: {{publishers: {{ops: {{key: {OPS.public.text}, may: ban}}}}, require: signed}}
        handlers: {{deny: {{use: ip_blacklist, on: [{{event: ban, keep: all}}, {{event: other}}]}}}}
    """
    assert (
        "warn",
        "the event 'other' is not kept: with `trust.require`, it is refused if it has a payload",
    ) in of(keys, text)
