"""The tree and its check on a real nginx."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.errors import PermanentError, TemporaryError
from agentd.nginx.check import NginxCheck
from agentd.options import NginxOptions
from agentd.tree.tree import Tree
from tests.servers.equipment import missing
from tests.servers.nginx import MODULES, Nginx, loading
from tests.unit.tree.trees import commit, everything, live, new_tree, unprepared

STAMP = """\
include {prefix}/current/*/*.conf;
server {{ listen unix:{canary}; location = /generation {{ return 200 "{number}"; }} }}
"""


def check_of(nginx: Nginx, tree: Path) -> NginxCheck:
    """What agentd would ask this nginx."""
    return NginxCheck(NginxOptions.model_validate(nginx.agentd_section), tree)


def tree_of(nginx: Nginx) -> Tree:
    """The tree that this nginx includes."""
    return new_tree(
        nginx.directory,
        path=nginx.tree,
        check=check_of(nginx, nginx.tree),
        stamp=lambda number: {
            "agentd.conf": STAMP.format(prefix="agentd", canary=nginx.canary, number=number).encode()
        },
    )


@pytest.fixture
def nginx(new_nginx: Callable[..., Nginx]) -> Nginx:
    """An nginx that is not started."""
    return new_nginx()


@pytest.fixture
def tree(nginx: Nginx) -> Tree:
    """Its tree, with a session ticket key in generation 1."""
    made = tree_of(nginx)
    stage = made.stage("tickets")
    stage.write("tickets/current.key", os.urandom(48), mode=0o600)
    stage.write(
        "tickets/keys.conf", f"ssl_session_ticket_key {stage.reference('tickets/current.key')};\n".encode()
    )
    made.commit(stage, extra={}, prepare=unprepared)
    return made


def test_nginx_serves_what_was_committed(nginx: Nginx, tree: Tree) -> None:
    """Through relative includes only: first the generation it started with, after a reload the next."""
    nginx.start()
    assert _generation(nginx) == "1"

    commit(tree, "blacklist", {"blacklist/map.conf": b"map $remote_addr $blocked { default 0; }\n"})
    nginx.reload()

    assert _generation(nginx) == "2"


def test_a_good_commit_leaves_no_trace_of_its_check(nginx: Nginx, tree: Tree) -> None:
    """No pid file, no socket, no shadow."""
    commit(tree, "more", {"more/x.conf": b"map $remote_addr $x { default 0; }\n"})

    assert tree.current == 2
    assert not nginx.pid_file.exists()
    assert not nginx.canary.exists()
    assert {path.name for path in tree.path.iterdir()} == {".lock", "current", "generations"}


@pytest.mark.parametrize("size", [47, 49, 0])
def test_a_key_of_the_wrong_size_is_refused(tree: Tree, size: int) -> None:
    """By nginx itself; the message quotes it, with the path of the candidate, and the tree is untouched."""
    before = everything(tree.path)
    stage = tree.stage("tickets")
    stage.write("tickets/current.key", b"\1" * size, mode=0o600)

    with pytest.raises(PermanentError, match=r"\[emerg\].*tickets/current\.key") as raised:
        tree.commit(stage, extra={}, prepare=unprepared)

    assert ".scratch-" not in str(raised.value)
    assert everything(tree.path) == before


def test_a_missing_key_is_refused(tree: Tree) -> None:
    """The include names a file that is not in the candidate, though it is in the live tree."""
    stage = tree.stage("tickets")
    stage.remove("tickets/current.key")

    with pytest.raises(PermanentError, match="No such file"):
        tree.commit(stage, extra={}, prepare=unprepared)

    assert len(live(tree)) == 2


def test_a_configuration_broken_by_someone_else_is_not_held_against_the_change(
    nginx: Nginx, tree: Tree
) -> None:
    """The change waits; once it is mended the same stage is committed."""
    stage = tree.stage("tickets")
    stage.write("tickets/current.key", os.urandom(80), mode=0o600)
    nginx.break_configuration()

    with pytest.raises(TemporaryError, match=rf"no_such_directive.*{nginx.conf}"):
        tree.commit(stage, extra={}, prepare=unprepared)
    assert tree.current == 1

    nginx.configure()
    assert tree.commit(stage, extra={}, prepare=unprepared) is not None


def test_a_tree_nested_deeper_is_checked_as_well(nginx: Nginx) -> None:
    """The shadow has the directories on the way, and what lies beside."""
    nested = nginx.conf.parent / "lb" / "site"
    nested.mkdir(parents=True)
    (nginx.conf.parent / "lb" / "beside.conf").write_text("server_tokens off;\n")
    text = nginx.conf.read_text().replace(
        "include agentd/", "include lb/beside.conf;\n    include lb/site/tree/"
    )
    nginx.conf.write_text(text)
    tree = new_tree(
        nested, check=check_of(nginx, nested / "tree"), stamp=lambda _: {"agentd.conf": b"etag off;\n"}
    )

    commit(tree, "one", {"a": b"1"})
    tree.stamp = lambda _: {"agentd.conf": b"etag perhaps;\n"}

    with pytest.raises(PermanentError, match="etag"):
        commit(tree, "one", {"a": b"2"})
    assert tree.current == 1


def test_the_check_leaves_a_running_nginx_its_socket_and_pid_file(nginx: Nginx, tree: Tree) -> None:
    """`nginx -t` binds every socket; that of the canary is taken, and must stay as it is."""
    nginx.start()
    before = nginx.canary.stat().st_ino, nginx.pid_file.read_text()

    for number in range(3):
        commit(tree, "more", {"more/x.conf": f"map $remote_addr $x{number} {{ default 0; }}\n".encode()})
    with pytest.raises(PermanentError):
        commit(tree, "more", {"more/x.conf": b"nonsense;\n"})

    assert (nginx.canary.stat().st_ino, nginx.pid_file.read_text()) == before
    assert _generation(nginx) == "1"


def test_a_stale_socket_survives_the_check(nginx: Nginx, tree: Tree) -> None:
    """What a killed nginx left behind is for the reload handler to judge."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(nginx.canary))
    inode = nginx.canary.stat().st_ino

    commit(tree, "more", {"more/x.conf": b"map $remote_addr $x { default 0; }\n"})

    assert tree.current == 2
    assert nginx.canary.stat().st_ino == inode


def test_a_large_geo_list_never_meets_an_old_cache(tree: Tree) -> None:
    """FILE.bin, which nginx writes beside a list, stays with one that stays; a changed list gets its own."""
    commit(tree, "bad", {"bad/geo.conf": GEO, "bad/list.geo": _large_list("1")})
    commit(tree, "tickets", {"tickets/new.conf": b"ssl_session_timeout 1h;\n"})
    commit(tree, "bad", {"bad/list.geo": _large_list("0")})

    first, unchanged, changed = (_cache(tree, number) for number in (2, 3, 4))
    assert first.read_bytes() == unchanged.read_bytes() != changed.read_bytes()
    assert "bad/list.geo.bin" not in tree.manifest(4).files
    tree.roll_back(2, prepare=unprepared)
    assert tree.intact()


GEO = b"geo $bad { ranges; default 2; include agentd/current/bad/list.geo; }\n"


def _large_list(value: str) -> bytes:
    blocks = (f"{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(1 << 16, (1 << 16) + 100_001))
    return "".join(f"{block}.0-{block}.9 {value};\n" for block in blocks).encode()


def _cache(tree: Tree, number: int) -> Path:
    return tree.path / "generations" / f"{number:06d}" / "bad" / "list.geo.bin"


def test_it_knows_whether_nginx_includes_the_tree(nginx: Nginx, tree: Tree) -> None:
    """By the relative path; an absolute one would always show the live tree, never a candidate."""
    check = check_of(nginx, nginx.tree)
    assert check.included()

    text = nginx.conf.read_text()
    nginx.conf.write_text(text.replace("include agentd/", f"include {nginx.conf.parent}/agentd/"))
    assert not check.included()

    nginx.conf.write_text(text.replace("include agentd/current/agentd.conf;", ""))
    assert not check.included()

    nginx.conf.write_text("include agentd/current/agentd.conf;\n" + text.replace("include agentd/", "#"))
    assert not check.included(), "not in http {}"

    nginx.conf.write_text(text + "nonsense;\n")
    assert check.included(), "the probe comes before the error"
    assert {path.name for path in tree.path.iterdir()} == {".lock", "current", "generations"}


@pytest.mark.parametrize("running", [True, False])
def test_the_check_runs_as_the_running_nginx_does(
    new_nginx: Callable[..., Nginx], directory: Path, *, running: bool
) -> None:
    """With its -p, which paths in the configuration begin at, its -g and its -e; it takes all of them."""
    if not (MODULES / "ngx_stream_module.so").exists():
        missing("nginx's module stream is not installed")
    prefix = directory / "prefix"
    (prefix / "logs").mkdir(parents=True)
    nginx = new_nginx(arguments=["-p", str(prefix), "-e", "logs/start.log"])
    nginx.process.argv += ["-c", str(nginx.conf), "-g", loading("stream").strip().replace("\n", " ")]
    nginx.configure(main="stream { }", http="error_log logs/http.log;")
    tree = tree_of(nginx)
    nginx.seed_tree()
    if running:
        nginx.start()

    if running:
        commit(tree, "x", {"x/x.conf": b"map $remote_addr $x { default 0; }\n"})
        with pytest.raises(PermanentError, match="unknown directive"):
            commit(tree, "x", {"x/x.conf": b"broken;\n"})
    else:
        with pytest.raises(TemporaryError, match="stream"):
            commit(tree, "x", {"x/x.conf": b"map $remote_addr $x { default 0; }\n"})


def _generation(nginx: Nginx) -> str:
    """What the canary answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(nginx.canary))
        connection.sendall(b"GET /generation HTTP/1.0\r\n\r\n")
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    return answer.rpartition(b"\r\n\r\n")[2].decode()
