"""Watches of a Consul agent become handlers, and nothing is left out in silence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.config.yaml_document import Document
from agentd.errors import ConfigError
from agentd.import_watches import import_watches

ARGS = ["/usr/bin/deploy", "--all"]


def imported(*watches: object) -> dict[str, Any]:
    """The handler map made of the watches, read as agentd reads its configuration."""
    text = import_watches(json.dumps({"watches": list(watches)}))
    handlers: dict[str, Any] = Document(text, "test").data["handlers"]
    return handlers


@pytest.mark.parametrize(
    "watch,on",
    [
        ({"type": "event", "name": "deploy"}, {"event": "deploy"}),
        ({"type": "event"}, {"event": "*"}),
        ({"type": "key", "key": "a/b"}, {"key": "a/b"}),
        ({"type": "key", "key": "/a"}, {"key": "a"}),
        ({"type": "keyprefix", "prefix": "a/"}, {"keyprefix": "a/"}),
        ({"type": "services"}, {"services": True}),
        ({"type": "nodes"}, {"nodes": True}),
        ({"type": "service", "service": "web"}, {"service": "web", "passing": False}),
        (
            {"type": "service", "service": "web", "tag": "a", "passingonly": True},
            {"service": "web", "tag": "a", "passing": True},
        ),
        (
            {"type": "service", "service": "web", "tag": ["a"]},
            {"service": "web", "tag": "a", "passing": False},
        ),
        ({"type": "checks"}, {"checks": {"state": "any"}}),
        ({"type": "checks", "state": "critical"}, {"checks": {"state": "critical"}}),
        ({"type": "checks", "service": "web"}, {"checks": {"service": "web"}}),
    ],
)
def test_each_type_has_its_counterpart(watch: dict[str, Any], on: dict[str, Any]) -> None:
    """The handler sees the changes that the watch saw; a watch of a service shows failing instances too."""
    (handler,) = imported({**watch, "args": ARGS}).values()

    assert handler == {"use": "command", "on": [on], "options": {"argv": ARGS}}


def test_the_older_handler_string_goes_to_a_shell() -> None:
    """As Consul ran it."""
    (handler,) = imported({"type": "nodes", "handler": "cat > /tmp/x"}).values()

    assert handler["options"] == {"shell": "cat > /tmp/x"}


def test_names_are_readable_and_unique() -> None:
    """Two equal watches are two handlers."""
    watch = {"type": "key", "key": "App/Config!", "args": ARGS}

    assert list(imported(watch, watch)) == ["watch-1-key-app-config", "watch-2-key-app-config"]


@pytest.mark.parametrize(
    "watch,reason",
    [
        (
            {"type": "event", "handler_type": "http", "http_handler_config": {"path": "http://x"}},
            "HTTP request",
        ),
        ({"type": "event", "datacenter": "dc2", "args": ARGS}, "datacenter"),
        ({"type": "service", "service": "w", "tag": ["a", "b"], "args": ARGS}, "several tags"),
        ({"type": "service", "service": "w", "passingonly": "maybe", "args": ARGS}, "passingonly"),
        ({"type": "service", "args": ARGS}, "`service` is missing"),
        ({"type": "key", "key": 5, "args": ARGS}, "`key` is missing or is not a string"),
        ({"type": "checks", "state": "odd", "args": ARGS}, "`state` must be one of"),
        ({"type": "nodes", "node_meta": {"a": "b"}, "args": ARGS}, "node_meta"),
        ({"type": "connect_leaf", "args": ARGS}, "connect_leaf"),
        ({"type": "nodes"}, "neither `args` nor `handler`"),
        ({"args": ARGS}, "no type"),
        ("nodes", "not an object"),
    ],
)
def test_what_has_no_counterpart_stays_as_a_comment(watch: object, reason: str) -> None:
    """The comment names the watch and the reason; the others are imported."""
    text = import_watches(json.dumps([watch, {"type": "nodes", "args": ARGS}]))

    (comment,) = [line for line in text.splitlines() if line.lstrip().startswith("#")]
    assert "watch 1 (" in comment
    assert reason in comment
    assert list(Document(text, "test").data["handlers"]) == ["watch-2-nodes"]


def test_only_untranslatable_watches_make_an_empty_map() -> None:
    """Still YAML, and still telling why."""
    text = import_watches('{"type": "connect_roots", "args": ["x"]}')

    assert Document(text, "test").data == {"handlers": {}}


def test_a_token_is_mentioned_and_not_copied() -> None:
    """The output may end up in version control."""
    text = import_watches(json.dumps([{"type": "nodes", "token": "s3cret", "args": ARGS}]))

    assert "s3cret" not in text
    assert "consul.token_file" in text


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "5", "[]", "{}", '{"watches": []}', '{"watches": {"type": "nodes"}}', "[" * 100_000,
        '[{"type":' + "[" * 985 + "]" * 985 + "}]", '[{"type": ' + "9" * 5_000 + "}]", '["\\ud800"]',
    ],
    ids=range(11),
)  # fmt: skip
def test_a_file_without_watches_is_an_error(text: str) -> None:
    """Not an empty configuration; the message is for an operator."""
    with pytest.raises(ConfigError) as raised:
        import_watches(text)
    assert "sys." not in str(raised.value)


@pytest.mark.parametrize("watch", [{"name": "a\0"}, {"args": ["cat", "\0"]}, {"a\0": [{"b": "c"}]}])
def test_a_watch_with_a_nul_character_is_left_out(watch: dict[str, object]) -> None:
    """Agentd would refuse the file."""
    assert imported({"type": "event", "name": "a", "args": ["cat"], **watch}) == {}


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(TEXT, st.lists(TEXT, min_size=1))
def test_any_text_survives(name: str, args: list[str]) -> None:
    """Quotes, line breaks, `yes` and `on`: what is read back is what was given."""
    (handler,) = imported({"type": "event", "name": name, "args": args}).values()

    assert handler["on"] == [{"event": name or "*"}]
    assert handler["options"]["argv"] == args


@given(st.dictionaries(st.sampled_from(["type", "key", "token", "handler", "name"]), st.text(), min_size=1))
def test_no_watch_breaks_the_file(watch: dict[str, str]) -> None:
    """Whatever stands in a watch, the output is YAML with at most one handler."""
    assert len(imported(watch)) <= 1


@pytest.mark.parametrize("tag", [[7], {"a": "b"}, 7, [["a"]]])
def test_a_tag_that_is_no_text_is_told(tag: object) -> None:
    """Not written as it is, for agentd to refuse."""
    watch = {"type": "service", "service": "web", "tag": tag, "args": ["true"]}

    text = import_watches(json.dumps([watch]))

    assert "NOT imported: `tag` must be a string or a list of strings" in text


def test_no_character_of_a_watch_steers_a_terminal() -> None:
    """A direction mark is escaped as YAML reads it."""
    watch = {"type": "event", "name": "a\u202e\x9b", "args": ["\u2066"]}

    assert import_watches(json.dumps([watch])).replace("\n", "").isprintable()
