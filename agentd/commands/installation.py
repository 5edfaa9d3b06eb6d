"""The files of agentd outside its own code on one machine: where each goes, and what is there already.

Owns how they differ from those that come with agentd: the unit starts the agentd that writes it, with the
configuration that it was told. It never replaces a file.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from agentd import shipped
from agentd.commands.checks.nginx import Written
from agentd.commands.file_difference import difference
from agentd.commands.places import read_places
from agentd.errors import AgentdError, ConfigError
from agentd.nginx.files import NginxFiles
from agentd.tree import disk
from agentd.tree.generation import FileEntry
from agentd.values import TREE

State = Literal["missing", "there", "kept", "masked", "differs"]

_MODE: Final = 0o644
_UNITS: Final = (
    "etc/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)
_TMPFILES: Final = ("etc/tmpfiles.d", "usr/local/lib/tmpfiles.d", "usr/lib/tmpfiles.d")
_UNIT_FILES: Final = ("agentd.service", "agentd-rotate-tickets.service", "agentd-rotate-tickets.timer")
_INCLUDES: Final = ("agentd-http.conf", "agentd-server.conf")
_SNIPPETS: Final = "etc/nginx/snippets"
_CONF: Final = Path("/etc/nginx/nginx.conf")
_CONFIG: Final = "/etc/agentd/agentd.yaml"
_START: Final = re.compile(r"(?m)^ExecStart=/\S*/agentd ")
_PLAIN: Final = re.compile(r"[\w/.+@-]+", re.ASCII)
_TO_UPDATE: Final = (
    "If it is from an older agentd and nobody changed it, remove it and run this again;"
    " keep changes of your own to a unit in a drop-in (`systemctl edit`)."
)
_TO_UNMASK: Final = "systemd ignores it: `systemctl unmask` it if agentd is to run."


@dataclass(frozen=True, slots=True)
class Item:
    """One file.

    Attributes:
        target: where it is written if it is missing.
        content: what is written.
        there: what was found instead, or `target`.
        state: there: as it should be; kept: the operator's own; masked: systemd is told to ignore it.
        found: the content of what differs.
    """

    target: Path
    content: bytes
    there: Path
    state: State
    found: bytes | None = None

    @property
    def advice(self) -> str:
        """What to do about it, if anything."""
        return {"differs": _TO_UPDATE, "masked": _TO_UNMASK}.get(self.state, "")

    def difference(self) -> dict[str, Any]:
        """From what is there to what would be written, as `file_difference` has it."""
        before = None if self.found is None else FileEntry.of(None, self.found, _MODE)
        after = FileEntry.of(None, self.content, _MODE)
        return difference(
            str(self.there).lstrip("/"), before, after, lambda: self.found, lambda: self.content
        )

    def document(self) -> dict[str, Any]:
        """As JSON types."""
        diff = self.difference()["diff"] if self.state in ("missing", "differs") else None
        return {"path": str(self.there), "state": self.state, "diff": diff}


class Installation:
    """What agentd needs on a machine.

    Args:
        root: of the machine.
        config: the configuration file, as the machine sees it.
        started: the program that the unit starts, likewise.

    Attributes:
        left_out: what does not fit this machine, and why.
        started: the program that the unit starts, as this machine sees it.
    """

    def __init__(self, root: Path, config: Path, started: Path) -> None:
        self.root = root.resolve()
        self.config = Path(os.path.abspath(config))  # noqa: PTH100 (resolve() would follow links of this machine)
        self.started = started
        inside = started.is_relative_to(self.root)
        self.program = Path("/") / started.relative_to(self.root) if inside else started
        for path in (self.config, self.program):
            if not _PLAIN.fullmatch(str(path)):
                raise AgentdError(
                    f"{path} cannot be named in a unit: use a path of letters, digits and /._+@- only"
                )
        self.systemd = any((self.root / one / "systemd/systemd").exists() for one in ("usr/lib", "lib"))
        self.nginx = (self.root / "etc/nginx").is_dir()
        self.left_out: list[str] = []
        if not self.systemd:
            self.left_out.append("units: there is no systemd here")
        if not self.nginx:
            self.left_out.append(
                "what nginx includes: there is no /etc/nginx; install nginx, then run this again"
            )

    def items(self) -> list[Item]:
        """Every file, as it is found now. Raises AgentdError where that cannot be told."""
        return list(self._items())

    def _items(self) -> Iterator[Item]:
        yield self._configuration()
        if self.systemd:
            for name in _UNIT_FILES:
                yield self._item(f"systemd/{name}", _UNITS, name)
            yield self._item("systemd/agentd.tmpfiles", _TMPFILES, "agentd.conf")
        if self.systemd and self.nginx:
            yield self._item("systemd/nginx.service.d/agentd.conf", _UNITS, "nginx.service.d/agentd.conf")
        if self.nginx:
            for name in _INCLUDES:
                yield self._item(f"config/nginx/{name}", (_SNIPPETS,), name)

    def _configuration(self) -> Item:
        """The operator's as soon as there is one, so nobody reads it here."""
        target = self.root / self.config.relative_to("/")
        content = shipped.file("config/agentd.yaml").read_bytes()
        self._check_inside(target.parent)
        return Item(target, content, target, "kept" if os.path.lexists(target) else "missing")

    def _item(self, source: str, places: Sequence[str], name: str) -> Item:
        """One of the others; it may be in any place, and is written to the first."""
        text = _START.sub(f"ExecStart={self.program} ", shipped.file(source).read_text())
        content = text.replace(f"--config {_CONFIG}", f"--config {self.config}").encode()
        target = self.root / places[0] / name
        self._check_inside(target.parent)
        for place in places:
            there = self.root / place / name
            if there.is_symlink() and str(there.readlink()) == os.devnull:
                return Item(target, content, there, "masked")
            if os.path.lexists(there):
                self._check_inside(there)
                found = _content(there)
                same = found == content
                return Item(target, content, there, "there" if same else "differs", None if same else found)
        return Item(target, content, target, "missing")

    def _check_inside(self, path: Path) -> None:
        """A link in the root of an image must not lead to the machine that makes the image."""
        if not path.resolve().is_relative_to(self.root):
            raise AgentdError(f"{path} leads out of {self.root} by a symbolic link: remove that link")

    def write(self, item: Item) -> None:
        """Write it, whole or not at all. Raises TreeError; also if something is there by now."""
        with disk.errors(f"write {item.target}"):
            disk.make_directory(item.target.parent)
            new = item.target.parent / f".{item.target.name}.{secrets.token_hex(4)}"
            try:
                disk.write(new, item.content, _MODE)
                disk.sync([new])
                disk.link(new, item.target, _MODE)
            finally:
                new.unlink(missing_ok=True)
            disk.sync([item.target.parent])


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AgentdError(
            f"cannot read {path}: {error.strerror}; move it away, then run this again"
        ) from error


# ---------------------------------------------------------------- which agentd


def program(typed: str = sys.argv[0], python: str = sys.executable) -> Path:
    """The program that runs now, as a unit can start it. Raises AgentdError if it is none.

    Args:
        typed: what was started: the program, or a module of agentd by `python -m agentd`.
        python: the interpreter; beside it is the program of its environment.
    """
    for one in (Path(typed), Path(python).parent / "agentd"):
        if one.name == "agentd" and one.is_file() and os.access(one, os.X_OK):
            return one.resolve()
    raise AgentdError(f"there is no program `agentd` beside {python} that a unit could start: install agentd")


def untrusted_owner(path: Path, root: Path = Path("/")) -> str:
    """Who but root decides what the unit runs, and what to do; "" if nobody does.

    Args:
        path: the program, as this machine sees it.
        root: of the machine that runs it.
    """
    for one in (path, *path.parents):
        found = one.stat()
        others = stat.S_IWOTH | (stat.S_IWGRP if found.st_gid else 0)
        shared = found.st_mode & others and not found.st_mode & stat.S_ISVTX
        if found.st_uid != 0 or shared:
            who = f"others can write to {one}" if shared else f"{one} belongs to user {found.st_uid}"
            return (
                f"{who}, who can thereby have root run anything: install"
                " agentd where only root may write, such as /opt/agentd, and run this again"
            )
        if one == root:
            break
    return ""


# ---------------------------------------------------------------- what is left to do


def next_steps(installation: Installation, *, written: bool) -> list[str]:
    """The lines to write and the commands to run, in their order.

    Args:
        installation: as it is now.
        written: whether files have just been written, which systemd has not read.
    """
    steps = _for_nginx(installation) if installation.nginx else []
    image = installation.root != Path("/")
    if not installation.systemd:
        steps.append(f"mkdir -p /run/agentd, at each boot, then have it run: {installation.program} run")
    elif image:
        steps.append(f"systemctl --root={installation.root} enable agentd")
    else:
        if written:
            steps += ["systemd-tmpfiles --create agentd.conf", "systemctl daemon-reload"]
        if not (installation.root / "etc/systemd/system/multi-user.target.wants/agentd.service").is_symlink():
            steps.append("systemctl enable --now agentd")
    return [*steps, *([] if image else ["agentd check", "agentd status"])]


def includes(conf: Path, tree: Path) -> bool:
    """Whether nginx's configuration includes the tree where it should."""
    return Written(NginxFiles(conf), tree, os.path.relpath(tree, conf.parent)).in_http


def _for_nginx(installation: Installation) -> list[str]:
    tree = Path(TREE)
    if installation.root == Path("/"):
        with suppress(ConfigError, OSError):  # `agentd check` says what is wrong with it
            tree = read_places(installation.config).tree
        if includes(_CONF, tree):
            return []
    return [
        f"put into http {{}} of {_CONF}:  include {os.path.relpath(tree, _CONF.parent)}/current/agentd.conf;",
        "and into each server {} that refuses blocked clients:  include snippets/agentd-server.conf;",
    ]
