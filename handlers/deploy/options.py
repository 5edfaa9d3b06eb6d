"""The options of `deploy`: what whoever fires an event may bring about on this node, and how much of it.

Stretcher's own options, and where they are: -random-delay, -max-bandwidth: `random_delay`, `max_bandwidth`
here; -timeout, -retry, -retry-wait: `timeout` and `retry` of the entry, and `sources.attempts` for one
transfer.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from agentd.handler import Duration, HandlerOptions, Size
from handlers.deploy.staging import PREFIX

_ANY: Final = "*"


def _checked(text: str) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or not path.name or text != str(path):
        raise ValueError("an absolute path is needed, without `..` and without a slash at its end")
    if _ANY in str(path.parent) or (_ANY in path.name and path.name != _ANY):
        raise ValueError("only the last component may be *, for any one directory there")
    return text


class DeployOptions(HandlerOptions):
    """The options of one entry."""

    dests: tuple[Annotated[str, AfterValidator(_checked)], ...] = Field(
        (),
        description="Directories that a manifest may name as `dest`; /srv/www/* is any one in /srv/www. "
        "Nothing by default: whoever may fire the event chooses the manifest.",
    )
    allow_commands: bool | tuple[str, ...] = Field(
        default=False,
        description="Whether a manifest may run commands: all (true), none (false), or these lines.",
    )
    command_timeout: Duration = Field(60.0, gt=0, description="Time limit of one command of a manifest.")
    env: dict[str, str] = Field(
        {}, description='Variables for commands, and for {{ env "NAME" }} in manifests; they see no others.'
    )
    inherit_env: tuple[str, ...] = Field(
        (), description="Names of variables of agentd's own environment to add to `env`."
    )
    require_digest: bool = Field(
        default=False, description="Refuse a payload that does not name the manifest's digest (sha256:HEX)."
    )
    random_delay: Duration = Field(
        0.0, description="Wait for up to this long before a deploy, so that not all nodes fetch at once."
    )
    max_bandwidth: Size | None = Field(
        None, ge=1, description="Most bytes a second that the archive is fetched at."
    )
    max_size: Size = Field(2 * 2**30, ge=1, description="Largest archive, in bytes.")
    max_unpacked: Size = Field(4 * 2**30, ge=1, description="Most bytes that come out of an archive.")
    max_entries: int = Field(200_000, ge=1, description="Most files, directories and links in an archive.")
    keep_owner: bool = Field(
        default=True, description="Give files the owner that the archive names, as tar does for root."
    )
    outside_links: bool = Field(
        default=False,
        description="Let symbolic links lead out of `dest`; nothing is ever written through them.",
    )
    redeploy: bool = Field(
        default=False, description="Deploy again what is in place already, in place of leaving it as it is."
    )

    def environment(self) -> dict[str, str]:
        """The variables for manifests and commands."""
        return {name: os.environ[name] for name in self.inherit_env if name in os.environ} | self.env

    def parents(self) -> set[Path]:
        """The directories in which a `dest` may lie."""
        found = set()
        for place in map(Path, self.dests):
            real = os.path.realpath(place.parent if place.name == _ANY else place)
            found.add(Path(real) if place.name == _ANY else Path(real).parent)
        return found

    def resolve(self, target: str) -> Path | None:
        """Where `dest` really lies, or None if it may not be deployed to.

        A symbolic link is followed if it is listed itself; below a `*` it would let one `dest` be another's.
        """
        path, real = Path(target), Path(os.path.realpath(target))
        if path.name == _ANY or path.name.startswith(PREFIX):
            return None
        if target in self.dests:
            return real
        listed = str(path.parent / _ANY) in self.dests
        return real if listed and real == Path(os.path.realpath(path.parent), path.name) else None
