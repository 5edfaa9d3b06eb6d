"""Writes constraints.txt and config/requirements/: each package that agentd needs, pinned, with its hashes.

The versions are those installed in the environment that runs it; the hashes are what pip's index lists for
them: the source and every wheel for a Linux that agentd runs on. pip is asked, as it is configured here, so
that no index is named in the project. Installs nothing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

ROOT: Final = Path(__file__).resolve().parents[1]
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
_MACHINES: Final = "x86_64|aarch64"
_HEADER: Final = """\
# {what}
# Written by scripts/pin; see there how to upgrade or add a package.
"""
_DAEMON: Final = """\
What agentd itself needs, and the setuptools that builds it. Install it first, then agentd alone:
#     pip install --require-hashes -r config/requirements/agentd.txt
#     pip install --no-deps --no-build-isolation ."""
_EXTRA: Final = """\
What agentd needs in addition for its extra `{extra}`:
#     pip install --require-hashes -r config/requirements/{extra}.txt"""
_DEVELOPMENT: Final = """\
What the extra `dev` needs, and so all that scripts/bootstrap installs: agentd's own packages, those of the
# extras that `dev` names, and the tools. Any other extra has its file in config/requirements/ alone, so that
# packages that some platform cannot install stay out of here."""

Pins = dict[str, str]  # the project's own spelling of the name, by its canonical one
Markers = dict[str, str]  # by name, of what only some Pythons need


def closure(requirements: Iterable[str]) -> tuple[Pins, Markers]:
    """The names of these requirements and of all that they need in turn, on every Python in PYTHONS."""
    texts = list(requirements)
    each = [_closure(texts, python) for python in PYTHONS]
    found = {name: spelt for pins in each for name, spelt in pins.items()}
    needed = {name: [name in pins for pins in each] for name in found}
    return found, {name: _marker(where) for name, where in needed.items() if not all(where)}


def _marker(needed: list[bool]) -> str:
    """On which of PYTHONS something is needed: up to one of them, or from one on."""
    change = PYTHONS[needed.index(not needed[0])]
    return f' ; python_version {"<" if needed[0] else ">="} "{change}"'


def _closure(requirements: Iterable[str], python: str) -> Pins:
    found: Pins = {}
    seen = set()
    open_ = [Requirement(text) for text in requirements]
    while open_:
        one = open_.pop()
        if not _applies(one, python, {""}):
            continue
        name = canonicalize_name(one.name)
        for extra in one.extras or {""}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                package = distribution(one.name)
            except PackageNotFoundError:  # of an extra that the development environment does not need
                found[name] = one.name
                continue
            if name != "agentd":
                found[name] = package.metadata["Name"]
            needs = [Requirement(text) for text in package.requires or ()]
            wanted = [need for need in needs if _applies(need, python, {"", *one.extras})]
            for need in wanted:
                need.marker = None  # it holds
            open_ += wanted
    return found


def _applies(need: Requirement, python: str, extras: set[str]) -> bool:
    def on(extra: str) -> bool:
        here: Mapping[str, str] = default_environment() | {  # type: ignore[operator]
            "python_version": python,
            "python_full_version": f"{python}.0",
            "extra": extra,
        }
        return need.marker is None or need.marker.evaluate(dict(here))

    return any(map(on, extras))


def files() -> dict[Path, tuple[str, Pins, Markers]]:
    """What each file is for, the packages in it, and the markers of those that only some Pythons need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    daemon = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    result = {ROOT / "config" / "requirements" / "agentd.txt": (_DAEMON, *closure(daemon))}
    for extra in sorted(set(extras) - {"dev"}):
        result[ROOT / "config" / "requirements" / f"{extra}.txt"] = (
            _EXTRA.format(extra=extra),
            *closure(extras[extra]),
        )
    result[ROOT / "constraints.txt"] = (_DEVELOPMENT, *closure([*daemon, *extras["dev"]]))
    return result


def fits(filename: str) -> bool:
    """Whether a Linux that agentd runs on could install it: the source, or a wheel for one of its Pythons."""
    if not filename.endswith(".whl"):
        return filename.endswith((".tar.gz", ".zip"))
    pythons = {f"cp{python.replace('.', '')}" for python in PYTHONS}
    return any(
        (tag.interpreter in pythons or re.fullmatch(r"py3|cp3\d*", tag.interpreter))
        and tag.abi in {"none", "abi3", *pythons}
        and (tag.platform == "any" or re.match(rf"\w*linux\w*_({_MACHINES})$", tag.platform))
        for tag in parse_wheel_filename(filename)[3]
    )


def pinned(pins: Pins) -> dict[str, list[str]]:
    """By name, the pin of the installed version and the hash of each file of it in pip's index that fits."""
    from pip._internal.commands import create_command  # noqa: PLC0415 - the one place that reaches into pip
    from pip._internal.index.collector import LinkCollector, parse_links  # noqa: PLC0415
    from pip._internal.models.link import Link  # noqa: PLC0415

    command = create_command("download")
    options, _ = command.parse_args([])
    result: dict[str, list[str]] = {}
    with command.main_context():
        collector = LinkCollector.create(command.get_default_session(options), options=options)
        for name, spelt in pins.items():
            try:
                version = distribution(spelt).version
            except PackageNotFoundError:
                raise SystemExit(f"{spelt} is not installed here: scripts/pin '{spelt}'") from None
            urls = collector.search_scope.get_index_urls_locations(name)
            pages = [page for url in urls if (page := collector.fetch_response(Link(url)))]
            links = [link for page in pages for link in parse_links(page)]
            found = {
                f"--hash=sha256:{link.hash}"
                for link in links
                if link.hash_name == "sha256" and _is_of(link.filename, name, version) and fits(link.filename)
            }
            if not found:
                raise SystemExit(f"the index that pip uses here lists no file of {name} {version}")
            result[name] = [f"{spelt}=={version}", *sorted(found)]
    return result


def _is_of(filename: str, name: str, version: str) -> bool:
    parse = parse_wheel_filename if filename.endswith(".whl") else parse_sdist_filename
    try:
        of, its_version = parse(filename)[:2]
    except ValueError:
        return False
    return of == canonicalize_name(name) and str(its_version) == version


def _line(pin: list[str], marker: str) -> str:
    return " \\\n    ".join([pin[0] + marker, *pin[1:]]) + "\n"


def main() -> None:
    """Write the files; those of extras that are gone are removed."""
    wanted = files()
    pins = pinned({name: spelt for _, some, _ in wanted.values() for name, spelt in some.items()})
    for path, (what, some, markers) in wanted.items():
        path.parent.mkdir(exist_ok=True)
        lines = (_line(pins[name], markers.get(name, "")) for name in sorted(some))
        path.write_text(_HEADER.format(what=what) + "".join(lines))
    for path in {*(ROOT / "config" / "requirements").glob("*.txt")} - {*wanted}:
        path.unlink()


if __name__ == "__main__":
    main()
