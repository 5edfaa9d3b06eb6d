"""The texts in the Debian package that are made while it is built: control, changelog, copyright, md5sums."""

from __future__ import annotations

import csv
import hashlib
import re
import textwrap
from collections.abc import Iterator, Sequence
from email.parser import HeaderParser
from email.utils import formatdate
from pathlib import Path
from typing import Final

MAINTAINER: Final = "the agentd authors <agentd@localhost>"
_HEAD: Final = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: agentd
Comment: Compiled modules contain libraries: nacl libsodium (ISC), yaml libyaml
 (MIT), backports.zstd Zstandard (BSD-3-Clause), pydantic_core the Rust crates
 that the file in its directory sboms lists.
"""
_WIDTH: Final = 79
_HOLDER: Final = re.compile(r"(?im)^[^\w\n]*(copyright\s+(?:\(c\)|©|\d).*)$")
_SECTION: Final = re.compile(r"(?m)^## \[(.+?)\](?: - (\S+))?$")


def control(template: Path, *, version: str, architecture: str, size: int) -> str:
    """The control file; `size` in KiB."""
    values = {"VERSION": version, "ARCHITECTURE": architecture, "SIZE": str(size), "MAINTAINER": MAINTAINER}
    return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], template.read_text())


def changelog(version: str, markdown: str, seconds: int) -> str:
    """CHANGELOG.md in Debian's form: one entry for each release, headed by the one that is built.

    Args:
        version: the one that is built.
        markdown: in the form of Keep a Changelog.
        seconds: when it was built, since 1970; also for older releases, of which only the day is known.
    """
    parts = _SECTION.split(markdown)[1:]
    sections = {parts[at]: parts[at + 2] for at in range(0, len(parts), 3)}
    newest = sections.pop("Unreleased", "")
    releases = sections if version in sections else {version: newest} | sections
    stamp = formatdate(seconds)
    return "\n".join(_entry(name, text, stamp) for name, text in releases.items())


def _entry(version: str, text: str, stamp: str) -> str:
    items = re.findall(r"(?m)^- (.+(?:\n  .+)*)", text) or ["No change but the version."]
    lines = [
        textwrap.fill(
            " ".join(item.split()),
            _WIDTH,
            initial_indent="  * ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for item in items
    ]
    return (
        f"agentd ({version}) stable; urgency=medium\n\n{chr(10).join(lines)}\n\n -- {MAINTAINER}  {stamp}\n"
    )


def copyright_file(licence: Path, packages: Path, installed: Path) -> str:
    """Who holds the rights in agentd and in each Python package with it, and their licences in full.

    Args:
        licence: agentd's own.
        packages: the directory with the Python packages.
        installed: where it will be, relative to /.
    """
    own = licence.read_text()
    stanzas = [
        _HEAD,
        _stanza("*", own, "MIT", "agentd"),
    ]
    for information in sorted(packages.glob("*.dist-info")):
        metadata = HeaderParser().parsestr((information / "METADATA").read_text())
        name = metadata["Name"]
        if name == "agentd":
            continue
        text = "\n\n".join(map(_text, _licences(information)))
        if not text:
            raise ValueError(
                f"{name} comes without the text of its licence: leave it out, or add the text here"
            )
        files = " ".join(sorted(_paths(packages, information, installed)))
        stanzas.append(_stanza(files, text, f"{name}-licence", name))
    return "\n".join(stanzas)


def _licences(information: Path) -> Iterator[Path]:
    for path in sorted(information.rglob("*")):
        if path.is_file() and re.match(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)", path.name, re.IGNORECASE):
            yield path


def _text(licence: Path) -> str:
    """The text, without what Debian has a copy of."""
    text = licence.read_text()
    if "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" not in text:
        return text
    holders = "\n".join(_HOLDER.findall(text))
    return f"{holders}\n\nApache License 2.0: /usr/share/common-licenses/Apache-2.0\n".lstrip()


def _paths(packages: Path, information: Path, installed: Path) -> Iterator[str]:
    """What its RECORD lists, as the topmost names."""
    with (information / "RECORD").open(newline="") as lines:
        names = {Path(row[0]).parts[0] for row in csv.reader(lines) if row}
    for name in names - {"..", "bin"}:
        if (packages / name).is_dir():
            yield f"{installed}/{name}/*"
        elif (packages / name).exists():
            yield f"{installed}/{name}"


def _stanza(files: str, text: str, short: str, name: str) -> str:
    holders = [" ".join(holder.split()) for holder in _HOLDER.findall(text)]
    lines = list(dict.fromkeys(holders)) or [f"the authors of {name}"]
    body = "\n".join(f" {line.rstrip()}" if line.strip() else " ." for line in text.strip().splitlines())
    return f"Files: {files}\nCopyright: {f'{chr(10)}           '.join(lines)}\nLicense: {short}\n{body}\n"


def md5sums(tree: Path, files: Sequence[Path]) -> str:
    """What `dpkg --verify` compares: the digest of each file that is not a configuration file."""
    return "".join(
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(tree)}\n"
        for path in files
        if tree / "etc" not in path.parents
    )
