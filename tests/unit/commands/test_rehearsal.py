"""A message is tried on the handlers here before all nodes get it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agentd.commands.rehearsal import rehearse, takers
from agentd.config.yaml_document import Document
from agentd.errors import AgentdError
from tests.unit.commands.node import SECRET, CommandNode, Writer, event


@pytest.fixture
def node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandNode:
    """A node on which agentd has not run yet."""
    return CommandNode(tmp_path, capsys)


def everything(node: CommandNode) -> dict[str, bytes]:
    """Every file that is there, except what a journal that is read leaves beside it."""
    found = (path for path in node.directory.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in found if not path.name.startswith("journal.db")}


class TestTakers:
    """Which handlers take a name, by the configuration alone."""

    def test_only_those_that_name_it_count(self) -> None:
        """Not those for all events: those are never fed from the log."""
        text = """
            handlers:
              all: {use: no.such, on: [{event: "*"}]}
              one: {use: no.such, on: [{key: a}, {event: deploy, keep: latest}]}
              two: {use: no.such, on: [{event: deploy}]}
              other: {use: no.such, on: [{event: deployed}]}
        """
        assert takers(Document(text, "here"), "deploy") == {"one": "latest", "two": None}

    @pytest.mark.parametrize(
        "text",
        ["{}", "handlers: 7", "handlers: {a: 7}", "handlers: {a: {on: 7}}", "handlers: {a: {on: [7]}}"],
    )
    def test_what_is_wrong_takes_nothing(self, text: str) -> None:
        """`agentd check` tells what is wrong; this does not fail on it."""
        assert takers(Document(text, "here"), "deploy") == {}

    def test_no_file_takes_nothing(self) -> None:
        """On a host that runs no agentd."""
        assert takers(None, "deploy") == {}


class TestRehearsal:
    """What the handlers would do."""

    def test_what_a_handler_would_do_is_told_and_not_done(self, node: CommandNode) -> None:
        """Not even a journal is made."""
        before = everything(node)
        (told,) = rehearse(node.file, ["writer"], event(b"new"))
        assert (told["handler"], told["outcome"]) == ("writer", "changed")
        assert everything(node) == before

    def test_what_the_node_has_already_is_known(self, node: CommandNode) -> None:
        """The handler sees the current generation."""
        node.commit(b"new")
        before = everything(node)
        (told,) = rehearse(node.file, ["writer"], event(b"run"))
        assert (told["outcome"], told["would_run"]) == ("unchanged", ["/bin/program"])
        assert everything(node) == before

    @pytest.mark.parametrize(
        "payload,said", [(b"refuse", "refused: it is not wanted"), (b"later", "retried: not now")]
    )
    def test_a_handler_that_would_not_take_it_stops_it(
        self, node: CommandNode, payload: bytes, said: str
    ) -> None:
        """With its reason, and how to publish all the same."""
        with pytest.raises(AgentdError, match=rf"'writer' here would not take it \({said}\).*--no-dry-run"):
            rehearse(node.file, ["writer"], event(payload))

    def test_a_bug_in_the_handler_stops_it_and_quotes_nothing(
        self, node: CommandNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever the exception says may have come from the payload."""

        def fails(_self: Writer, *_: object) -> None:
            raise ValueError(SECRET.decode())

        monkeypatch.setattr(Writer, "handle", fails)
        with pytest.raises(AgentdError, match=r"'writer' here has a bug \(ValueError\)") as raised:
            rehearse(node.file, ["writer"], event(b"new"))
        assert SECRET.decode() not in str(raised.value)

    def test_no_permission_says_what_to_do(self, node: CommandNode, monkeypatch: pytest.MonkeyPatch) -> None:
        """The journal is root's; who publishes may be somebody else."""

        def forbidden(_state: Path) -> None:
            raise PermissionError(13, "Permission denied", "/var/lib/agentd/journal.db")

        monkeypatch.setattr("agentd.commands.places.open_journal", forbidden)
        with pytest.raises(AgentdError, match=r"journal\.db: .* run it as root, or publish it anyway"):
            rehearse(node.file, ["writer"], event(b"new"))


def test_asking_who_takes_a_name_imports_no_handler() -> None:
    """Nor pydantic: a publish where no handler takes the name starts fast."""
    import subprocess  # noqa: PLC0415 (only this test looks from outside)

    program = "import sys, agentd.commands.rehearsal; print('pydantic' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"
