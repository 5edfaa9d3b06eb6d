"""`agentd generations show` and `agentd generations diff`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.commands.generation_files import _ranges
from agentd.journal.plan import Plan
from tests.unit.commands.node import CommandNode


@pytest.fixture
def node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandNode:
    """A node with generations 1 to 3, each with other content in one file; 3 is current."""
    return committed(CommandNode(tmp_path, capsys))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of such a node that no test changes."""
    directory = tmp_path_factory.mktemp("node")
    committed(CommandNode(directory))
    return directory


@pytest.fixture
def same(made: Path, capsys: pytest.CaptureFixture[str]) -> CommandNode:
    """The node of all tests that only look."""
    return CommandNode(made, capsys)


def committed(made: CommandNode) -> CommandNode:
    """Make the three generations."""
    made.commit(b"one\n", "maps/hosts.map", "maps/old.map")
    made.commit(b"two\n")
    made.commit(b"three\n")
    return made


def write(
    node: CommandNode, path: str, content: bytes | None, *, mode: int = 0o644, secret: bool = False
) -> None:
    """Commit one file, or its removal."""
    with node.opened() as opened:
        stage = opened.tree.stage("writer")
        if content is None:
            stage.remove(path)
        else:
            stage.write(path, content, mode=mode, secret=secret)
        opened.committer.commit(stage, Plan(handler="writer"))


def test_show_tells_what_is_in_a_generation(same: CommandNode) -> None:
    """Of each file its mode, its owner, its size, its digest, and since which generation it is so."""
    told = same.json("generations", "show", "2")
    assert (told["generation"], told["current"], told["by"], told["parent"]) == (2, False, "writer", 1)
    assert told["changed"] == ["plain.txt"]
    files = {one["path"]: one for one in told["files"]}
    assert files["plain.txt"] == {
        "path": "plain.txt",
        "mode": "0644",
        "owner": "writer",
        "size": 4,
        "sha256": "27dd8ed44a83ff94d557f9fd0412ed5a8cbca69ea04922d88c01184a07300a5a",
        "secret": False,
        "since": 2,
    }
    assert files["maps/hosts.map"]["since"] == 1


def test_show_says_why_the_current_one_is_current(node: CommandNode) -> None:
    """Who committed it; and after a rollback, that this was one."""
    assert node.json("generations", "show")["why"] == "committed by writer"
    node.command("rollback", "1", "--wait", "0")
    told = node.json("generations", "show", "current")
    assert told["generation"] == 1
    assert told["why"].startswith("current again instead of generation 3: by `agentd rollback`")
    assert told["current_since"] > told["created"]
    assert "\ncurrent        current again instead" in node.command("generations", "show")[1]


def test_show_names_the_changes_of_a_generation(node: CommandNode) -> None:
    """By the IDs that `agentd history` takes."""
    entry = node.receive()
    with node.opened() as opened:
        stage = opened.tree.stage("writer")
        stage.write("plain.txt", b"by an event\n")
        opened.committer.commit(stage, Plan(handler="writer", seqs=(entry.seq,), paths=("plain.txt",)))
    assert node.json("generations", "show", "4")["changes"] == [entry.id]


def test_diff_shows_lines(same: CommandNode) -> None:
    """From the first that is named to the second, or to the current one."""
    _, said, _ = same.command("generations", "diff", "1")
    assert said.splitlines() == [
        "Generation 1 -> 3",
        "--- a/plain.txt",
        "+++ b/plain.txt",
        "@@ -1 +1 @@",
        "-one",
        "+three",
    ]
    assert "-three" in same.command("generations", "diff", "3", "2")[1]


@pytest.mark.parametrize(
    "text, number", [("2", 2), ("current", 3), ("newest", 4), ("-1", 2), ("-2", 1), ("0002", 2)]
)
def test_a_generation_is_named_by_number_or_place(text: str, number: int, node: CommandNode) -> None:
    """After a rollback the newest is not the current one."""
    node.commit(b"four\n")
    node.command("rollback", "3", "--wait", "0")
    assert node.json("generations", "show", text)["generation"] == number


@pytest.mark.parametrize("text", ["77", "0", "-3", "-0", "x", "²", "9" * 5000, "-999999999"])
def test_a_generation_that_is_not_there_is_an_error_that_names_those_that_are(
    text: str, same: CommandNode
) -> None:
    """As numbers that can be typed."""
    status, said, error = same.command("generations", "diff", text)
    assert (status, said) == (1, "")
    assert "there is no generation" in error
    assert error.endswith("; kept: 1 to 3\n")


def test_no_generation_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the first commit."""
    assert "kept: none yet" in CommandNode(tmp_path, capsys).command("generations", "show")[2]


@given(st.sets(st.integers(1, 30)))
def test_ranges_name_every_number_once(numbers: set[int]) -> None:
    """And leave none between."""
    named: list[int] = []
    for part in filter(None, _ranges(sorted(numbers)).split(", ")):
        first, _, last = part.partition(" to ")
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(numbers)


def test_one_generation_is_not_compared_with_itself(same: CommandNode) -> None:
    """That is a mistake, not an answer."""
    status, _, error = same.command("generations", "diff", "3")
    assert status == 1
    assert "both are generation 3" in error


@pytest.mark.parametrize("mode, secret", [(0o600, False), (0o644, True)])
def test_of_a_secret_only_length_and_digest_are_shown(mode: int, secret: bool, node: CommandNode) -> None:  # noqa: FBT001
    """In every form of output; also where only one of the two versions is one."""
    write(node, "key.pem", b"5ecret one\n", mode=mode, secret=secret)
    write(node, "key.pem", b"public two\n")
    write(node, "key.pem", b"public three\n")
    write(node, "key.pem", b"5ecret 4\n", mode=mode, secret=secret)
    said = ""
    for pair in (("3", "4"), ("4", "5"), ("4", "7"), ("6", "7"), ("7", "3")):
        for more in ([], ["--json"]):
            said += node.command("generations", "diff", *pair, "--path", "key.pem", *more)[1]
    said += node.command("generations", "show", "4")[1] + json.dumps(node.json("generations", "show", "7"))
    assert "5ecret" not in said
    assert "11 bytes sha256:" in said
    (file,) = node.json("generations", "show", "7", "--path", "key.pem")["files"]
    assert len(file["sha256"]) == 8


def test_binary_large_and_removed_files(node: CommandNode) -> None:
    """Length and digest where there are no lines to show; what was removed is shown as such."""
    write(node, "image.bin", b"\0\1\2")
    write(node, "big.txt", b"line\n" * 100_000)
    write(node, "maps/old.map", None)
    _, said, _ = node.command("generations", "diff", "3")
    assert "image.bin (mode 0644): no file -> 3 bytes sha256:" in said
    assert "big.txt (mode 0644): no file -> 500000 bytes sha256:" in said
    assert "--- a/maps/old.map\n+++ /dev/null" in said


def test_a_mode_that_changed_is_shown(node: CommandNode) -> None:
    """Though the content is the same."""
    node.commit(b"three\n", mode=0o755)
    assert "plain.txt: mode 0644 -> 0755" in node.command("generations", "diff", "3")[1]


@pytest.mark.parametrize(
    "pattern, paths",
    [
        ("plain.txt", ["plain.txt"]),
        ("maps", ["maps/hosts.map", "maps/old.map"]),
        ("/maps/", ["maps/hosts.map", "maps/old.map"]),
        ("*.map", ["maps/hosts.map", "maps/old.map"]),
        ("maps/h*", ["maps/hosts.map"]),
    ],
)
def test_path_chooses_files(pattern: str, paths: list[str], same: CommandNode) -> None:
    """A file, a directory, or a pattern."""
    told = same.json("generations", "show", "--path", pattern)
    assert [one["path"] for one in told["files"]] == paths


def test_a_path_that_fits_nothing_is_an_error(same: CommandNode) -> None:
    """Otherwise it would look as if nothing had changed; several patterns are each looked at."""
    status, _, error = same.command("generations", "diff", "1", "--path", "plain.txt", "--path", "map")
    assert status == 1
    assert "no file fits 'map'; those at the top: maps, plain.txt" in error


def test_two_generations_without_a_difference(node: CommandNode) -> None:
    """That is said."""
    node.commit(b"one\n")
    assert node.command("generations", "diff", "1")[1] == "Generation 1 -> 4: no difference\n"
    assert node.json("generations", "diff", "1") == {"from": 1, "to": 4, "files": []}


def test_names_of_files_cannot_steer_the_terminal(node: CommandNode) -> None:
    """Nor their content."""
    write(node, "plain.txt", b"a\033[2Jb\n")
    said = node.command("generations", "diff", "3")[1] + node.command("generations", "show")[1]
    assert "\033" not in said
    assert "+a\\x1b[2Jb" in said


def test_a_damaged_generation_says_so(node: CommandNode) -> None:
    """And is not taken for one without files."""
    manifest = node.directory / "tree" / "generations" / "000002" / "manifest.json"
    manifest.unlink()
    manifest.write_text("{}")
    status, _, error = node.command("generations", "show", "2")
    assert status == 1
    assert "choose another generation" in error
