"""Reading the YAML file: every problem at once, each with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.config.fleet_keys import with_fleet_keys
from agentd.config.load import load
from agentd.config.triggers import KINDS, OnEvent
from agentd.errors import ConfigError
from agentd.trust.key_files import write_key
from handlers.command import Command
from tests.unit.trust.samples import FLEET, OPS

BEST = """\
handlers:
  deploy:
    use: command
    on:
      - event: deploy
      - service: web
        tag: blue
        passing: false
    options:
      argv: [/bin/true]
"""


def write(directory: Path, text: str) -> Path:
    """A file of this text."""
    path = directory / "agentd.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(directory: Path, text: str) -> list[str]:
    """What is wrong with it, without the file's name."""
    path = write(directory, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [problem.removeprefix(f"{path}:") for problem in caught.value.problems]


def test_a_good_file_is_loaded(tmp_path: Path) -> None:
    """Classes are found and options are checked."""
    loaded = load(write(tmp_path, BEST))

    [deploy] = loaded.handlers
    assert deploy.name == "deploy"
    assert deploy.type is Command
    assert isinstance(deploy.build(), Command)
    assert [str(on.query()) for on in deploy.entry.on] == ["event", "service:web?tag=blue&passing=false"]


def test_every_problem_is_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Fields, handlers, options and references, one line each."""
    text = """\
consul:
  adress: 127.0.0.1:8500
drain: soon
handlers:
  one:
    use: no_such_handler
    notify: [nobody]
  two:
    use: command
    on:
      - event: x
        colour: red
    options:
      argv: []
      shell: echo
      typo: 1
"""
    found = problems(tmp_path, text)

    assert [problem.partition(":")[0] for problem in found] == ["2", "3", "6", "7", "12", "14", "16"]
    assert found[0] == "2: consul.adress: unknown field"
    assert found[1] == "3: drain: must be a duration, such as 55s, 1h30m or 250ms"
    assert found[2].startswith("6: handlers.one.use: there is no handler 'no_such_handler'; known: command")
    assert found[3] == "7: handlers.one.notify.0: there is no handler named 'nobody' in this file"
    assert found[4] == "12: handlers.two.on.0.colour: unknown field"


@pytest.mark.parametrize(
    "line,problem",
    [
        ("use: [a]", "use: Input should be a valid string"),
        ("on: {event: a}", "on: a list is needed here"),
        ("on: [deploy]", "on.0: an item of `on` needs one of the keys"),
        ("on: [{colour: red}]", "on.0: an item of `on` needs one of the keys"),
        ("on: [{event: a, key: b}]", "on.0.key: unknown field"),
        ("on: [{key: /a}]", "on.0.key: String should match pattern"),
        ("on: [{services: yes}]", "on.0.services: Input should be True"),
        ("on: [{checks: {service: a, state: any}}]", "on.0.checks: give `service` or `state`, not both"),
        ("options: [1]", "options: a map is needed here"),
        ("retry: {attempts: 0}", "retry.attempts: Input should be greater than or equal to 1"),
        ("retry: {first: 0}", "retry.first: Input should be greater than 0"),
        ("timeout: 0s", "timeout: Input should be greater than 0"),
        ("timeout: .inf", "timeout: must be a duration"),
        ("notify: other", "notify: a list is needed here"),
        ("colour: red", "colour: unknown field"),
    ],
)
def test_a_wrong_field_is_told_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    """By the path that the operator wrote, not by that of the models."""
    text = f"handlers:\n  h:\n    use: command\n    {line}\n".replace("    use: command\n    use", "    use")

    found = problems(tmp_path, text)

    wanted = f"{text.count(chr(10))}: handlers.h.{problem}"
    assert any(one.startswith(wanted) for one in found), found


@pytest.mark.parametrize(
    "text,problem",
    [
        ("", "1: the file must be a map"),
        ("- a\n", "1: the file must be a map"),
        ("drain: 1s\n", "1: handlers: this field is required"),
        ("handlers: {}\n", "1: handlers: this must not be empty"),
        ("handlers:\n  h: command\n", "2: handlers.h: a map is needed here"),
        ("handlers:\n  h:\n    on: []\n", "2: handlers.h.use: this field is required"),
        (f"tree: {{path: agentd}}\n{BEST}", "1: tree.path: the path must be absolute"),
        (f"state: here\n{BEST}", "1: state: the path must be absolute"),
        (
            f"tree:\n  path: /srv/x\n{BEST}",
            "2: tree.path: the tree must lie below the directory of /etc/nginx",
        ),
        (f"tree:\n  path: /etc/nginx\n{BEST}", "2: tree.path: the tree must lie below"),
        (f"tree:\n  path: /etc/nginx/../x\n{BEST}", "2: tree.path: the tree must lie below"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, text: str, problem: str) -> None:
    """Sections that are missing, empty, or of the wrong shape."""
    assert problems(tmp_path, text)[0].startswith(problem)


@pytest.mark.parametrize("name", ["Upper", "-x", "a b", "a/b", "x" * 65])
def test_a_handlers_name_is_simple(tmp_path: Path, name: str) -> None:
    """It is part of paths, labels and acknowledgements."""
    found = problems(tmp_path, f"handlers:\n  {name!r}: {{use: command, options: {{argv: [x]}}}}\n")

    assert len(found) == 1
    assert "a name has lower-case letters" in found[0]


def test_notifications_do_not_chain(tmp_path: Path) -> None:
    """A handler that is told must not tell others: there would be no end of it."""
    text = """\
handlers:
  a: {use: command, notify: [b], options: {argv: [x]}}
  b: {use: command, notify: [c], options: {argv: [x]}}
  c: {use: command, options: {argv: [x]}}
"""
    assert problems(tmp_path, text) == [
        "2: handlers.a.notify.0: 'b' notifies others itself; notifications do not chain"
    ]


def test_a_handler_that_proves_may_be_told_and_tell(tmp_path: Path) -> None:
    """Who must do something after each reload is named by the handler that reloads."""
    text = """\
handlers:
  a: {use: command, notify: [reload], options: {argv: [x]}}
  reload: {use: nginx_reload, notify: [c]}
  c: {use: command, options: {argv: [x]}}
"""
    loaded = load(write(tmp_path, text))

    assert [handler.entry.notify for handler in loaded.handlers] == [("reload",), ("c",), ()]


def test_a_chain_through_a_proof_has_an_end(tmp_path: Path) -> None:
    """Neither may it lead back to the proof, nor from one proof to another that tells."""
    text = """\
handlers:
  a: {use: command, notify: [reload], options: {argv: [x]}}
  reload: {use: nginx_reload, notify: [a]}
  other: {use: nginx_reload, notify: [reload]}
"""
    assert problems(tmp_path, text) == [
        "3: handlers.reload.notify.0: 'a' notifies others itself; notifications do not chain",
        "4: handlers.other.notify.0: 'reload' notifies others itself; notifications do not chain",
    ]


def test_without_nginx_the_tree_may_lie_anywhere(tmp_path: Path) -> None:
    """Nothing includes it then."""
    loaded = load(write(tmp_path, f"nginx: null\ntree: {{path: /srv/files}}\n{BEST}"))

    assert loaded.config.prefix == "files"


def test_the_prefix_is_the_trees_path_from_nginxs_directory(tmp_path: Path) -> None:
    """However deep it lies."""
    loaded = load(write(tmp_path, f"tree: {{path: /etc/nginx/conf.d/agentd}}\n{BEST}"))

    assert loaded.config.prefix == "conf.d/agentd"


@pytest.mark.parametrize(
    "item",
    [
        "event: x",
        "key: a",
        "keyprefix: a/",
        "service: x",
        "services: true",
        "nodes: true",
        "checks: {state: any}",
    ],
)
def test_every_kind_of_change_can_be_asked_for(tmp_path: Path, item: str) -> None:
    """Each item has a query of its kind."""
    text = f"handlers:\n  h:\n    use: command\n    on: [{{{item}}}]\n    options: {{argv: [x]}}\n"
    [handler] = load(write(tmp_path, text)).handlers

    assert str(handler.entry.on[0].query()).startswith(item.partition(":")[0])
    assert item.partition(":")[0] in KINDS


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """With the system's reason."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "missing.yaml")


KEPT = """\
fleet:
  name: production
handlers:
  deny:
    use: ip_blacklist
    on:
      - event: ban
        keep: all
"""


def test_a_kept_name_is_loaded(tmp_path: Path) -> None:
    """With a fleet, an event may be kept."""
    loaded = load(write(tmp_path, KEPT))

    assert loaded.config.fleet is not None
    assert loaded.config.fleet.name == "production"
    entry = loaded.handlers[0].entry
    assert [on.keep for on in entry.on if isinstance(on, OnEvent)] == ["all"]
    assert entry.sources == {"event", *(f"log:{name}" for name in entry.kept)}


def test_keep_needs_a_fleet(tmp_path: Path) -> None:
    """The message says what to add, at the line of `keep`."""
    [problem] = problems(tmp_path, KEPT.removeprefix("fleet:\n  name: production\n"))

    assert problem.startswith(
        "6: handlers.deny.on.0.keep: events are kept in the log of a fleet: add `fleet:`"
    )


@pytest.mark.parametrize("name", ['"*"', "a/b", "_fleet", '"a b"', "x" * 65])
def test_a_name_that_is_no_key_cannot_be_kept(tmp_path: Path, name: str) -> None:
    """Every name is part of a key; and all events together have no log."""
    [problem] = problems(tmp_path, KEPT.replace("event: ban", f"event: {name}"))

    assert problem.startswith("8: handlers.deny.on.0.keep: ")


TICKETS = KEPT.replace("ip_blacklist", "tls_ticket_keys").replace("keep: all", "keep: latest")
TRUST = f"""\
trust:
  publishers: {{ops: {{key: {OPS.public.text}, may: ban}}}}
  fleet_keys: [/nonexistent/fleet.key]
  seal: [ban]
"""


@pytest.mark.parametrize(
    "text",
    [
        TICKETS,
        TICKETS + TRUST.replace("seal: [ban]", "seal: []"),
        TICKETS + TRUST.replace("may: ban", "may: ban*").replace("seal: [ban]", "seal: [bans]"),
        TICKETS.replace("latest", "all") + TRUST,
    ],
)
def test_a_secret_payload_is_not_kept_readable(tmp_path: Path, text: str) -> None:
    """Whoever reads Consul's KV store would have the key."""
    [problem] = problems(tmp_path, text)

    assert "its payload is secret: add the event to `trust.seal`" in problem


def test_a_secret_payload_is_kept_sealed(tmp_path: Path) -> None:
    """The files of the keys are not read here."""
    loaded = load(write(tmp_path, TICKETS + TRUST))

    assert loaded.handlers[0].entry.kept == ("ban",)
    assert loaded.fleet_keys == ()


def test_trust_needs_a_fleet(tmp_path: Path) -> None:
    """Nothing else is signed."""
    text = BEST + TRUST

    [problem] = problems(tmp_path, text)

    assert problem.startswith("11: trust: only messages of a fleet are signed: add `fleet:`")


def test_a_section_that_is_wrong_is_the_only_problem(tmp_path: Path) -> None:
    """Nobody is told to add what is there."""
    [problem] = problems(tmp_path, TICKETS + TRUST.replace("may: ban", "may: nothing"))

    assert "no publisher may send" in problem


def test_the_keys_of_the_fleet_are_read_when_the_daemon_loads_the_file(tmp_path: Path) -> None:
    """Those that there are; what is wrong with one is told with its line, and the key stays unsaid."""
    key = tmp_path / "fleet.key"
    text = TICKETS + TRUST.replace("/nonexistent/fleet.key", str(key))
    loaded = load(write(tmp_path, text))

    with pytest.raises(ConfigError) as caught:
        with_fleet_keys(loaded)
    assert f":11: trust.fleet_keys: the key {key} cannot be read" in str(caught.value)

    write_key(key, FLEET)
    found = with_fleet_keys(loaded)
    assert found.fleet_keys == (FLEET,)
    assert FLEET.text not in repr(found)


@pytest.mark.parametrize("other", ["keep: latest", ""])
def test_a_name_is_kept_in_one_way(tmp_path: Path, other: str) -> None:
    """Two handlers of one name follow one log."""
    text = f"{KEPT}  other:\n    use: ip_blacklist\n    on:\n      - event: ban\n        {other}\n"

    [problem] = problems(tmp_path, text)

    assert problem.startswith("12: handlers.other.on.0: 'deny' has `keep: all` for 'ban'")


@pytest.mark.parametrize("name", ["", "a/b", "-x", "ä"])
def test_a_fleet_is_named_as_a_key(tmp_path: Path, name: str) -> None:
    """A name that Consul would not take is refused before anything is written."""
    [problem] = problems(tmp_path, KEPT.replace("production", f'"{name}"'))

    assert problem.startswith("2: fleet.name: ")


def test_a_handler_of_states_alone_takes_no_events(tmp_path: Path) -> None:
    """And needs at least one state; the message says what to do instead."""
    entry = "use: template, options: {files: [{text: x, path: x}]}"
    text = f"handlers:\n  a: {{{entry}, on: [{{key: k}}, {{event: e}}]}}\n  b: {{{entry}}}\n"

    event, nothing = problems(tmp_path, text)

    assert event.startswith("2: handlers.a.on.1: it is made from states, and an event is none")
    assert event.endswith("write to a key instead, and name that")
    assert nothing.startswith("3: handlers.b: `on` is missing")


def test_a_handler_of_states_alone_is_not_notified(tmp_path: Path) -> None:
    """It would be made from states that wait, even while it is paused."""
    text = """\
handlers:
  a: {use: template, on: [{key: a}], options: {files: [{text: x, path: x}]}}
  reload: {use: nginx_reload, notify: [a]}
"""
    assert problems(tmp_path, text) == [
        "3: handlers.reload.notify.0: 'a' is made from states, and a notification changes none: leave it out"
    ]
