"""What a program is given for each kind of change, and what becomes of its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentd.handler import Change, ChecksState, Event, Limits, ServicesState, TemporaryError
from agentd.process import run
from agentd.testing import (
    HandlerHarness,
    RecordedRun,
    event,
    instance,
    key,
    keyprefix,
    message,
    notification,
    service,
)
from handlers.command import Command, standard_input

PROGRAM = ["/usr/local/bin/deploy", "--secret", "s3cret"]


def run_for(change: Change, options: Mapping[str, Any] | None = None) -> RecordedRun:
    """Hand over one change and return how the program was run."""
    harness = HandlerHarness(Command, options or {"argv": PROGRAM})
    harness.handle(change)
    return harness.runs[0]


# ---------------------------------------------------------------- how it is started


def test_argv_is_run_as_it_stands() -> None:
    """No shell looks at it."""
    ran = run_for(event("deploy"), {"argv": ["echo", "$HOME; rm -rf /"], "timeout": "5s"})

    assert (ran.argv, ran.timeout) == (("echo", "$HOME; rm -rf /"), 5.0)


def test_a_shell_is_used_when_asked_for() -> None:
    """As Consul does with the older `handler` string."""
    assert run_for(event("deploy"), {"shell": "cat | wc -c"}).argv == ("/bin/sh", "-c", "cat | wc -c")


def test_limits_are_set_only_where_asked_for() -> None:
    """A service that the program starts would inherit them."""
    assert run_for(event("deploy")).limits is None

    ran = run_for(event("deploy"), {"argv": PROGRAM, "limits": {"memory": "512M", "cpu": "60s"}})

    assert ran.limits == Limits(memory=512 * 2**20, cpu=60)


@pytest.mark.parametrize(
    "options,words",
    [
        ({}, "argv"),
        ({"argv": ["a"], "shell": "a"}, "not both"),
        ({"argv": []}, "at least 1 item"),
        ({"shell": ""}, "at least 1 character"),
        ({"argv": ["a\0b"]}, "NUL"),
        ({"shell": "a", "env": {"A": "\0"}}, "NUL"),
        ({"argv": ["a"], "cwd": "/"}, "Extra inputs"),
    ],
)
def test_options_that_cannot_be_run_are_refused(options: dict[str, Any], words: str) -> None:
    """At the start, not at the first change."""
    with pytest.raises(ValidationError, match=words):
        HandlerHarness(Command, options)


def test_an_exit_status_other_than_0_is_tried_again() -> None:
    """A failed program says nothing of the change itself."""
    harness = HandlerHarness(Command, {"argv": PROGRAM})
    harness.answer_run(returncode=3, output=b"no such host")

    with pytest.raises(TemporaryError, match="status 3"):
        harness.handle(event("deploy"))


def test_neither_arguments_nor_output_are_logged() -> None:
    """Both may hold secrets: the program's name and sizes tell enough."""
    harness = HandlerHarness(Command, {"argv": PROGRAM})
    harness.answer_run(output=b"the key is s3cret")

    harness.handle(event("deploy", b"s3cret"))

    assert [line.event for line in harness.log] == ["command.ran"]
    assert harness.log[0].fields["output_bytes"] == 17
    assert "s3cret" not in str(harness.log)


def test_a_dry_run_logs_no_run() -> None:
    """The context only says what would be run."""
    harness = HandlerHarness(Command, {"argv": PROGRAM})
    harness.dry_run = True

    harness.handle(event("deploy"))

    assert harness.log == []


# ---------------------------------------------------------------- its environment


def test_the_environment_says_what_happened() -> None:
    """`CONSUL_INDEX` as in a watch, and agentd's own variables."""
    change = event("deploy", b"v2", id="a8d0cebc-1ee4-50b8-5dce-4e5700c4682f")
    harness = HandlerHarness(Command, {"argv": PROGRAM, "env": {"STAGE": "prod"}})
    harness.generation = 7

    harness.handle(change)

    assert harness.runs[0].env == {
        "STAGE": "prod",
        "CONSUL_INDEX": "17662696535904762007",
        "AGENTD_HANDLER": "Command",
        "AGENTD_QUERY": "event",
        "AGENTD_KIND": "event",
        "AGENTD_CHANGE_ID": "a8d0cebc-1ee4-50b8-5dce-4e5700c4682f",
        "AGENTD_GENERATION": "7",
        "AGENTD_EVENT_NAME": "deploy",
    }


def test_a_state_carries_the_index_of_its_answer() -> None:
    """And no name of an event."""
    env = run_for(key("a/b", b"1", index=20)).env

    assert (env["CONSUL_INDEX"], env["AGENTD_QUERY"]) == ("20", "key:a/b")
    assert "AGENTD_EVENT_NAME" not in env


def test_the_options_cannot_forge_what_agentd_says() -> None:
    """Its own variables win."""
    assert run_for(key("a", b"1"), {"argv": PROGRAM, "env": {"AGENTD_KIND": "x"}}).env["AGENTD_KIND"] == "key"


def test_an_event_id_that_is_no_uuid_has_the_index_of_its_answer() -> None:
    """No agent makes such an event, but it must not break the handler."""
    change = Event("event", {"ID": "odd", "Name": "deploy"}, 5)

    assert run_for(change).env["CONSUL_INDEX"] == "5"


@given(st.text(st.characters()))
def test_any_event_name_can_be_passed(name: str) -> None:
    """Whoever fires chooses it: what no environment can hold is taken out."""
    value = run_for(event(name, id="0")).env["AGENTD_EVENT_NAME"]

    assert b"\0" not in value.encode()


# ---------------------------------------------------------------- its standard input


def given_for(change: Change) -> Any:  # noqa: ANN401 (any JSON value)
    """The parsed standard input."""
    return json.loads(run_for(change).stdin)


def test_an_event_is_a_list_of_one() -> None:
    """A watch gets a list, however many there are."""
    assert [one["Name"] for one in given_for(event("deploy", b"x"))] == ["deploy"]


def test_a_key_has_all_fields_of_a_watch() -> None:
    """The HTTP API leaves out the session of a key that is not locked."""
    assert given_for(key("a", b"1"))["Session"] == ""


def test_a_deleted_key_is_null() -> None:
    """As a watch tells it."""
    assert run_for(key("a", None)).stdin == b"null\n"


def test_an_empty_prefix_is_null() -> None:
    """Also where the answer is kept as an empty list."""
    assert run_for(keyprefix("a/", {})).stdin == b"null\n"


def test_keys_below_a_prefix_keep_their_order_and_get_all_fields() -> None:
    """One object for each."""
    pairs = given_for(keyprefix("a/", {"a/2": b"", "a/1": b"x"}))

    assert [(pair["Key"], pair["Session"]) for pair in pairs] == [("a/2", ""), ("a/1", "")]


def test_checks_get_the_definition_of_a_watch() -> None:
    """Consul's client fills in what the HTTP API leaves out, and keeps what is there."""
    change = ChecksState("checks", [{"CheckID": "a", "Definition": {"HTTP": "http://x"}}, {"CheckID": "b"}])

    first, second = given_for(change)

    assert (first["Definition"]["HTTP"], first["Definition"]["Interval"]) == ("http://x", "0s")
    assert second["Definition"]["Header"] is None


def test_the_checks_of_a_service_are_filled_in_too() -> None:
    """The rest of an instance is passed on as it came."""
    found = given_for(service("web", [instance("10.0.0.1", 80)]))

    assert found[0]["Checks"][0]["Definition"]["Timeout"] == "0s"
    assert found[0]["Service"]["Port"] == 80


def test_a_service_without_checks_stays_without() -> None:
    """Null is not an empty list."""
    assert given_for(service("web", [instance("10.0.0.1", 80) | {"Checks": None}]))[0]["Checks"] is None


def test_other_states_and_notifications_are_passed_as_they_are() -> None:
    """The list of services, and what agentd itself tells."""
    assert given_for(ServicesState("services", {"web": ["prod"]})) == {"web": ["prod"]}
    assert given_for(notification(3, "keys", ["a"]))["generation"] == 3


def test_the_bytes_are_those_of_a_watch() -> None:
    """Compact, Go's order of fields, Go's escapes, UTF-8, and a line feed at the end."""
    change = key("a/<x>&ü", b"hello", index=20)

    assert standard_input(change).decode() == (
        '{"Key":"a/\\u003cx\\u003e\\u0026ü","CreateIndex":20,"ModifyIndex":20,"LockIndex":0,"Flags":0,'
        '"Value":"aGVsbG8=","Session":""}\n'
    )


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(), lambda inner: st.dictionaries(st.text(), inner), max_leaves=8
    )
)
def test_go_escapes_do_not_change_what_is_said(value: object) -> None:
    """Whatever the value, parsing the input gives it back."""
    assert json.loads(standard_input(ServicesState("services", value))) == value


@pytest.mark.parametrize("asked", [False, True])
def test_a_state_that_failed_is_given_to_the_program_again_only_if_asked_for(*, asked: bool) -> None:
    """A program may have side effects each time."""
    options = Command.Options(argv=("true",), retry_forever=asked)

    assert Command(options).converges is asked


def test_a_program_that_hits_its_limit_has_failed(tmp_path: Path) -> None:
    """The real program, which sees its limits and is ended by them."""
    script = f"ulimit -v >{tmp_path}/seen; while :; do :; done"
    options = {"shell": script, "timeout": 60, "limits": {"memory": "64M", "cpu": 1}}
    limited = HandlerHarness(Command, options, run=run)  # type: ignore[arg-type] # it is given a time-out

    with pytest.raises(TemporaryError, match="was ended by SIGXCPU"):
        limited.handle(event("deploy"))

    assert (tmp_path / "seen").read_text() == "65536\n"


# ---------------------------------------------------------------- messages of the fleet's log


def test_a_message_looks_like_its_event_to_a_program() -> None:
    """One written for `consul watch` cannot tell whether the event was heard or came through the log."""
    fired = event("deploy", "v2", id="c2a7e6a0-0000-4000-8000-000000000001", ltime=0)
    logged = message("deploy", "v2", id=fired.id, num=1_700_000_000_123)

    assert standard_input(logged) == standard_input(fired)
    assert run_for(logged).env["CONSUL_INDEX"] == run_for(fired).env["CONSUL_INDEX"]
    assert run_for(logged).env["AGENTD_CHANGE_ID"] == fired.id


def test_a_message_without_an_event_is_complete_all_the_same() -> None:
    """It was published: Consul never gave it an ID, a Lamport time or an index."""
    ran = run_for(message("deploy", num=1_700_000_000_123))
    (given,) = json.loads(ran.stdin)

    assert given == {
        "ID": "deploy-1700000000123", "Name": "deploy", "Payload": None, "NodeFilter": "",
        "ServiceFilter": "", "TagFilter": "", "Version": 1, "LTime": 0,
    }  # fmt: skip
    assert ran.env["CONSUL_INDEX"] == "1700000000123"


def test_the_environment_says_what_the_log_knows() -> None:
    """Its number, who published it, when, and which node heard it."""
    env = run_for(message("deploy", id="a", num=7, issued=1000.5, publisher="lb-1\0")).env

    names = ("AGENTD_MESSAGE", "AGENTD_PUBLISHER", "AGENTD_ISSUED", "AGENTD_VIA")
    assert [env[name] for name in names] == ["7", "lb-1", "1000.500", "lb-1"]
    assert "AGENTD_PROVISIONAL" not in env


def test_a_program_may_know_that_an_event_is_provisional() -> None:
    """On standard input it is an event like any other."""
    ran = run_for(event("deploy", "v2", provisional=True))

    assert ran.env["AGENTD_PROVISIONAL"] == "1"
    assert ran.stdin == standard_input(event("deploy", "v2"))
    assert "AGENTD_MESSAGE" not in ran.env


def test_programs_are_not_compared() -> None:
    """What they did is theirs to know."""
    assert HandlerHarness(Command, {"argv": PROGRAM}).fingerprint() is None
