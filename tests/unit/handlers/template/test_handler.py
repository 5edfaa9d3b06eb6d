"""The handler `template` renders all files from the newest states, or none."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import ValidationError

from agentd.handler import PermanentError
from agentd.testing import HandlerHarness, instance, key, keyprefix, service
from handlers.template.handler import TemplateHandler
from handlers.template.options import TemplateFile, TemplateOptions
from handlers.template.renderer import SHARED

UPSTREAM: Final = """\
upstream api {
{% for one in service("api") %}
    server {{ one | host_port }} weight={{ one.weight }};
{% else %}
    server 127.0.0.1:1 down;
{% endfor %}
}
"""


def harness(text: str, *on: Mapping[str, Any], **file: Any) -> HandlerHarness:  # noqa: ANN401 (options)
    """A handler of one file, `out`."""
    options = {"files": [{"text": text, "path": "out"} | file]}
    return HandlerHarness(TemplateHandler, options, on=on)


def test_instances_become_an_upstream() -> None:
    """A template goes through the instances of a service."""
    made = harness(UPSTREAM, {"service": "api"})

    made.handle(service("api", [instance("10.0.0.2", 80), instance("10.0.0.1", 80)]))

    assert made.files["out"].decode().splitlines()[1:3] == [
        "    server 10.0.0.1:80 weight=1;",
        "    server 10.0.0.2:80 weight=1;",
    ]


def test_several_states_make_one_file() -> None:
    """Each state is asked for under its name, whichever of them changed."""
    made = harness(
        '{{ key("a") }} {{ keyprefix("p") | map(attribute="value") | join }}',
        {"key": "a"},
        {"keyprefix": "p/"},
    )

    made.handle(key("a", b"1"), keyprefix("p/", {"p/x": b"2", "p/y": b"3"}))
    made.handle(key("a", b"4"))

    assert made.files["out"] == b"4 23"


def test_an_item_that_is_there_twice_is_one_state() -> None:
    """Both mean the same, so a call need not say which."""
    made = harness('{{ service("api") | length }}', {"service": "api"}, {"service": "api", "passing": True})

    made.handle(service("api", [instance("10.0.0.1", 80)]))

    assert made.files["out"] == b"1"


def test_an_error_names_the_template_and_the_line() -> None:
    """A refused value leaves the file as it is, and the reason says where it is printed."""
    made = harness('a\n{{ key("a") }}\n', {"key": "a"})
    made.handle(key("a", b"fine"))

    with pytest.raises(PermanentError, match="text of out, line 2: a value of 4 characters has ';'"):
        made.handle(key("a", b"a; b"))

    assert made.files["out"] == b"a\nfine\n"


def test_a_file_that_is_not_configured_any_more_is_removed() -> None:
    """What the options do not name leaves the tree."""
    made = harness("x", {"key": "a"})
    made.handle(key("a", b""))

    made.restart({"files": [{"text": "x", "path": "other"}]})
    made.handle(key("a", b"1"))

    assert made.files == {"other": b"x"}


def test_a_secret_gets_the_mode_of_one() -> None:
    """`secret: true` alone makes the file readable for its owner only."""
    made = harness('{{ key("a") }}', {"key": "a"}, secret=True, escape="none")

    made.handle(key("a", b"-----BEGIN; {"))

    assert made.modes["out"] == 0o600


def test_preflight_finds_what_the_first_change_would(tmp_path: Path) -> None:
    """A template that is missing, and a call that `on` does not answer, are found beforehand."""
    options = {
        "files": [
            {"source": str(tmp_path / "missing.j2"), "path": "a"},
            {"text": '\n{{ key("b") }}', "path": "b"},
        ]
    }
    made = HandlerHarness(TemplateHandler, options, on=[{"key": "a"}])

    found = {one.part: one.reason for one in made.preflight()}

    assert found["files.0.source"].endswith("missing.j2 cannot be read: No such file or directory")
    assert "line 2" in found["files.1.text"]
    assert "add {key: b} to `on`" in found["files.1.text"]


@pytest.mark.parametrize(
    "file",
    [
        {"path": "a"},
        {"path": "a", "text": "x", "source": "/x"},
        {"path": "a", "source": "relative.j2"},
        {"path": "a", "text": "x", "mode": "0644", "secret": True},
    ],
)
def test_options_that_cannot_be_meant_are_refused(file: Mapping[str, Any]) -> None:
    """One source for each file, by its whole path; and a secret that nobody else may read."""
    with pytest.raises(ValidationError):
        HandlerHarness(TemplateHandler, {"files": [file]})


def test_a_burst_is_gathered_and_never_for_longer_than_max() -> None:
    """Each change begins `min` anew, until `max` after the first one is over."""
    made = harness("x", {"key": "a"}, {"key": "b"})
    made.restart({"files": [{"text": "x", "path": "out"}], "wait": {"min": "2s", "max": "5s"}})
    made.handle(key("a", b"1"), key("b", b"1"))
    arrive = made.arrive

    arrive(key("a", b"2"))
    waits = [made.hold()]
    for value in (b"3", b"4", b"5"):
        made.now += 1.5
        arrive(key("a", value))
        waits.append(made.hold())
    made.handle(key("a", b"5"))
    arrive(key("b", b"2"))

    assert waits == [2.0, 2.0, 2.0, 0.5]
    assert made.hold() == 2.0


def test_status_says_since_when_each_file_is_as_it_is() -> None:
    """A render that changes nothing commits nothing."""
    made = harness("{% set x = key('a') %}x", {"key": "a"})
    made.initial()
    assert "not rendered yet" in made.store["status"][0]["trouble"]
    made.handle(key("a", b"1"))
    began, generation = made.now, made.generation

    made.now += 60
    made.handle(key("a", b"2"))

    assert made.store["status"] == [{"part": "out", "since": began}]
    assert made.generation == generation


def test_a_new_node_has_its_files_as_soon_as_the_states_have_come() -> None:
    """Nginx may load nothing before it has them, so that no later commit could pass."""
    made = harness("{{ key('a') }}", {"key": "a"})
    made.arrive(key("a", b"1"))

    assert made.initial() == ("out",)
    assert made.files["out"] == b"1"


def test_what_cannot_be_rendered_at_the_start_does_not_hold_up_other_handlers() -> None:
    """The status says why; the change itself is refused later."""
    made = harness("{{ key('a') }}", {"key": "a"})
    made.arrive(key("a", b"a;b"))

    assert made.initial() == ()
    assert "not rendered yet: text of out, line 1: " in made.store["status"][0]["trouble"]


def test_the_first_files_come_all_or_not_at_all() -> None:
    """Also where only one of them has a path that is another handler's."""
    files = [{"text": "x", "path": "one"}, {"text": "y", "path": "two"}]
    made = HandlerHarness(TemplateHandler, {"files": files}, on=[{"key": "a"}], foreign={"two": b""})
    made.arrive(key("a", b"1"))

    with pytest.raises(PermanentError, match="two: belongs to another handler"):
        made.initial()

    assert made.files == {}


def test_nodes_with_equal_files_have_equal_fingerprints() -> None:
    """And nothing can be guessed from that of a secret."""
    prints = []
    for value, secret in ((b"1", False), (b"1", False), (b"2", False), (b"1", True), (b"2", True)):
        made = harness('{{ key("a") }}', {"key": "a"}, secret=secret)
        assert made.fingerprint() is None
        made.handle(key("a", value))
        prints.append(made.fingerprint())

    assert [prints.index(one) for one in prints] == [0, 0, 2, 3, 3]


@pytest.mark.parametrize(
    "template, limits, reason",
    [
        ('{{ "x" * key("a")|int }}', {"memory": "64M"}, "more than 64 MB of memory"),
        ('{{ key("a") * 100 }}', {"size": 500}, "larger than 500 bytes"),
        ('{{ ("a" * 40) | regex_search("(a+)+$b") }}', {"cpu": "1s"}, "more than 1 s of processor time"),
        ("{{ range(key('a')|int) }}", {}, "Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", {}, "RecursionError"),
    ],
)
def test_what_values_make_of_a_template_is_bounded(
    template: str, limits: Mapping[str, Any], reason: str
) -> None:
    """Memory, time and size end the render, and not the daemon; the next one works."""
    made = harness(template, {"key": "a"})
    made.restart({"files": [{"text": template, "path": "out"}], "limits": limits})

    with pytest.raises(PermanentError, match=reason):
        made.handle(key("a", b"1000000000"))

    assert harness("x", {"key": "a"}).handle(key("a", b"")) == ("out",)


def test_a_program_that_was_killed_is_started_again() -> None:
    """Nobody notices, but for the time that it takes."""
    made = harness("x", {"key": "a"})
    made.handle(key("a", b"1"))
    assert SHARED._process
    SHARED._process.kill()

    made.restart({"files": [{"text": "y", "path": "out"}]})
    made.handle(key("a", b"2"))

    assert made.files == {"out": b"y"}


ABANDONED: Final = """
import os, threading, time
from pathlib import Path
from handlers.template.renderer import SHARED, Bounds
from handlers.template.templates import Template

def begun():
    program = SHARED._process
    return program and Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text()

endless = Template("x", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
given = [endless], [], [], Bounds(cpu=60, memory=1 << 28, size=1, wall=60.0)
threading.Thread(target=SHARED.render, args=given, daemon=True).start()
while not begun():
    time.sleep(0.01)
os.kill(os.getpid(), 9)
"""


def test_a_render_ends_with_its_daemon() -> None:
    """Even if that is killed: the program and its fork let go of the pipe to which they would complain."""
    ended = subprocess.run([sys.executable, "-c", ABANDONED], stderr=subprocess.PIPE, timeout=30, check=False)

    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, b"")


def test_a_template_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """They could write nginx's configuration through it."""
    source = tmp_path / "x.j2"
    source.write_text("x")
    source.chmod(0o666)
    made = HandlerHarness(
        TemplateHandler, {"files": [{"source": str(source), "path": "x"}]}, on=[{"key": "a"}]
    )

    with pytest.raises(PermanentError, match=r"writable by others.*chmod go-w"):
        made.handle(key("a", b""))


def test_a_template_behind_a_link_that_others_may_replace_is_refused(tmp_path: Path) -> None:
    """They could have any file rendered instead."""
    (tmp_path / "x.j2").write_text("x")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    (theirs / "x.j2").symlink_to(tmp_path / "x.j2")
    options = {"files": [{"source": str(theirs / "x.j2"), "path": "x"}]}
    made = HandlerHarness(TemplateHandler, options, on=[{"key": "a"}])

    with pytest.raises(PermanentError, match=f"{theirs} is writable by others"):
        made.handle(key("a", b""))


def test_a_changed_template_is_another_input(tmp_path: Path) -> None:
    """So that a reload of agentd renders it, as it does changed options."""
    source = tmp_path / "x.j2"
    source.write_text("x")
    handler = TemplateHandler(TemplateOptions(files=(TemplateFile(source=source, path="x"),)))
    before = handler.inputs

    source.write_text("y")

    assert handler.inputs != before


def test_a_value_that_is_no_text_can_be_encoded_and_not_printed() -> None:
    """The message names the key."""
    made = harness('{{ key("a") | base64_encode }}', {"key": "a"})
    made.handle(key("a", b"\xff\xfe"))
    assert made.files["out"] == b"//4="

    made.restart({"files": [{"text": '{{ key("a") }}', "path": "out"}]})
    with pytest.raises(PermanentError, match="the value of the key a is not UTF-8 text"):
        made.handle(key("a", b"\xff\xfe"))


def test_a_folder_does_not_contain_what_begins_with_the_same_letters() -> None:
    """So that who may write below maps/hosts-old/ cannot write into the map."""
    pairs = {"maps/hosts/a": b"1", "maps/hosts/b/c": b"2", "maps/hosts/d/": b"", "maps/hosts-old/e": b"3"}
    folder = '{% set all = keyprefix("maps/hosts") %}{% set few = keyprefix("maps/hosts", nested=false) %}'
    text = folder + '{{ all | join(",", "key") }} {{ few | length }}'
    made = harness(text, {"keyprefix": "maps/hosts"})

    made.handle(keyprefix("maps/hosts", pairs))

    assert made.files["out"] == b"a,b/c 1"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("\n{{ env('X') }}", "line 2: there is no env: templates cannot read the environment"),
        ("{{ now() }}", "a clock would make each node's file another"),
        ("{{ 1 | tojson }}", "there is no filter tojson: use to_json"),
        ("{% include 'x' %}", "a template is one file"),
        ("{% filter upper %}x{% endfilter %}", "instead of {% filter %}"),
        ("{{ ''.__class__ }}", "the sandbox does not allow that"),
        (
            "{{ service('api') }}",
            'service("api") asks for what `on` does not name: add {service: api} to `on`',
        ),
        ("{{ checks(state='critical') }}", "add {checks: {state: critical}} to `on`"),
        ("{{ nodes() }}", "add {nodes: true} to `on`"),
        ("{{ key('a').zone }}", "use `| default(...)` if it may be missing"),
        ("{{ key('k' ~ 'b') }}", "add {key: kb} to `on`"),
        ("{{ " + "(" * 3000, "it is nested too deeply"),
        ("{{ [].x }}", "use `| default(...)` if it may be missing"),
        ("{{ key() }}", "TypeError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_a_mistake_says_what_to_do(text: str, reason: str) -> None:
    """Most of them before any state has come."""
    made = harness(text, {"key": "a"})

    with pytest.raises(PermanentError) as caught:
        made.handle(key("a", b"1"))

    assert reason in str(caught.value)


def test_an_attribute_that_is_not_there_names_those_that_are() -> None:
    """In the words of the page, not in Python's."""
    made = harness('{% for pair in keyprefix("a") %}{{ pair.valu }}{% endfor %}', {"keyprefix": "a"})

    with pytest.raises(
        PermanentError, match=r"a Pair has no 'valu'; it has path, key, value: use `\| default"
    ):
        made.handle(keyprefix("a", {"a/b": b"1"}))


def test_a_call_means_the_item_that_it_tells_apart() -> None:
    """The one without a tag, if there are several; one that could be several is an error."""
    on = [{"service": "api"}, {"service": "api", "tag": "v2"}, {"service": "api", "tag": "v3"}]
    made = harness('{{ service("api", tag="v2") | length }}{{ service("api") | length }}', *on)
    two = HandlerHarness(
        TemplateHandler, {"files": [{"text": '{{ service("api") }}', "path": "x"}]}, on=on[1:]
    )

    made.handle(
        service("api", [instance("10.0.0.1", 80)]),
        replace(service("api", []), query="service:api?tag=v2"),
        replace(service("api", []), query="service:api?tag=v3"),
    )

    assert made.files["out"] == b"01"
    [found] = two.preflight()
    assert (
        "could mean several items of `on` ({service: api, tag: v2}, {service: api, tag: v3})" in found.reason
    )


@pytest.mark.parametrize(
    "text, reason",
    [
        ('{{ {}[key("a")] }}', "it fails with UndefinedError"),
        ('{{ key("a") }}', "a value of 3 characters has a character at position 2"),
        ('{{ key("a") | quote }}', "a value of 3 characters has a character at position 2"),
        ('{{ key(key("a")) }}', r"key\(...\) asks for what `on` does not name"),
        ('{{ key("a") | from_json }}', "from_json: the value is not JSON"),
    ],
)
def test_what_a_failing_expression_says_may_be_secret(text: str, reason: str) -> None:
    """It is not quoted where one of the files is secret."""
    made = harness(text, {"key": "a"}, secret=True)

    with pytest.raises(PermanentError, match=reason) as caught:
        made.handle(key("a", "x\x07\u20ac".encode()))

    assert not re.search(r"x07|\u20ac|u20ac", str(caught.value))
