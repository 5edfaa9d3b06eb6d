"""Which paths and modes a generation may hold."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import PermanentError
from agentd.tree.paths import Layout, check_mode, check_path, check_together


@pytest.mark.parametrize(
    "path", ["a", "tickets/current.key", "upstreams/web-1.conf", "a/b/c/d", "x@1=2,3:4~5+6_7", "manifest/a"]
)
def test_usual_paths_pass(path: str) -> None:
    """What handlers write."""
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../a",
        "a/../b",
        "a/..",
        "./a",
        "a//b",
        "a/",
        ".hidden",
        "a/.new-1",
        "a b",
        "a\tb",
        "a\nb",
        "a\0b",
        "a;b",
        "a{b",
        "a}b",
        "a$b",
        'a"b',
        "a'b",
        "a#b",
        "a*",
        "a\\b",
        "schlüssel",
        "٣",
        "x" * 201,
        "/".join(["x"] * 600),
        "manifest.json",
        "agentd.conf",
        "manifest.json/a",
        "a\n",
    ],
)
def test_what_leaves_the_tree_or_confuses_nginx_is_refused(path: str) -> None:
    """None of these may become a file."""
    with pytest.raises(PermanentError):
        check_path(path)


@given(st.text())
def test_no_accepted_path_leaves_the_tree(path: str) -> None:
    """Whatever comes in a payload: an accepted path is relative, plain and stays below."""
    try:
        check_path(path)
    except PermanentError:
        return

    assert path.isascii()
    assert path.isprintable()
    assert not set(path) & set(" ;{}$\"'#\\*?[")
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(path.split("/"))


def test_a_name_stamped_by_this_tree_is_refused() -> None:
    """A tree may write other files of its own."""
    with pytest.raises(PermanentError, match="agentd itself"):
        check_path("canary.conf", {"canary.conf"})


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640, 0o644, 0o755])
def test_usual_modes_pass(mode: int) -> None:
    """Readable by their owner."""
    assert check_mode("a", mode) == mode


@pytest.mark.parametrize("mode", [0, 0o200, 0o044, 0o1644, 0o4755, -1])
def test_modes_that_nginx_cannot_use_are_refused(mode: int) -> None:
    """No set-uid bit, and never a file that its owner cannot read."""
    with pytest.raises(PermanentError):
        check_mode("a", mode)


@pytest.mark.parametrize(
    "paths", [{"a", "a/b"}, {"a", "a/b/c", "z"}, {"a/b", "a/b/c"}, {"list.conf", "list.conf.bin"}]
)
def test_paths_that_exclude_each_other_are_refused(paths: set[str]) -> None:
    """A file cannot be a directory, nor lie where nginx writes its cache; whichever comes second."""
    with pytest.raises(PermanentError):
        check_together(paths)
    for path in paths - {"z"}:
        with pytest.raises(PermanentError):
            Layout(paths - {path}).admit(path)


@given(st.sets(st.sampled_from(["a", "a/b", "a/b/c", "a/d", "ab", "b.bin", "b", "c/e.bin", "c/e"])))
def test_one_by_one_and_all_together_agree(paths: set[str]) -> None:
    """Files admitted one beside the other are admitted together, and the other way round."""

    def accepts(check: Callable[[], None]) -> bool:
        try:
            check()
        except PermanentError:
            return False
        return True

    together = accepts(lambda: check_together(paths))
    beside = all(accepts(partial(Layout(paths - {path}).admit, path)) for path in paths)

    assert together == beside


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "a/b", "a/b/c", "a.bin", "d/e"]))))
def test_a_path_that_was_discarded_is_out_of_the_way(steps: list[tuple[bool, str]]) -> None:
    """A layout that was added to and taken from admits what a new one of the same files admits."""
    layout, there = Layout(), set[str]()
    for adds, path in steps:
        with suppress(PermanentError):
            if adds:
                layout.admit(path)
                there.add(path)
            else:
                layout.discard(path)
                there.discard(path)

    for path in ("a", "a/b", "a/b/c", "a.bin", "d/e", "d"):
        try:
            Layout(there).admit(path)
        except PermanentError:
            with pytest.raises(PermanentError):
                layout.admit(path)
        else:
            layout.admit(path)
            layout.discard(path)
            there.discard(path)
