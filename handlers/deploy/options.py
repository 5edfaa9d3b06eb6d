"""The options of `deploy`: what someone who fires an event may do to this node, and how much of it.

Stretcher's own options, and where they are: -random-delay, -max-bandwidth: `random_delay`, `max_bandwidth`
here; -timeout, -retry, -retry-wait: `timeout` and `retry` of the entry, and `sources.attempts` for one
transfer.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from agentd.handler import Background, Duration, HandlerOptions, LimitOptions, PermanentError, Size
from handlers.deploy.place import Place, open_place
from handlers.deploy.swap import PREFIX

_ANY: Final = "*"
_LONGEST_NAME: Final = 255 - len(PREFIX)
"""Bytes; the directory beside `dest` has to have a name as well (NAME_MAX)."""


def _checked(text: str) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or not path.name or text != str(path):
        raise ValueError("give an absolute path, without `..` and without a trailing slash")
    if _ANY in str(path.parent) or (_ANY in path.name and path.name != _ANY):
        raise ValueError("only the last component may be *, which stands for any one directory")
    return text


class DeployOptions(HandlerOptions):
    """What may be deployed where, which commands may run, and the limits of an archive."""

    dests: tuple[Annotated[str, AfterValidator(_checked)], ...] = Field(
        (),
        description="Directories that a manifest may name as `dest`; /srv/www/* allows any one in /srv/www."
        " Nothing is allowed by default, because whoever may fire the event chooses the manifest.",
    )
    parent_owner: Annotated[int, Field(ge=0)] | str | None = Field(
        None,
        description="A user, by name or number, who may write the parent directories of `dests`, besides root"
        " and agentd's own user. A directory on the way to `dest` that others can write is refused, because"
        " they could redirect the deploy.",
    )
    allow_commands: bool | tuple[str, ...] = Field(
        default=False,
        description="Commands that a manifest may run: all (true), none (false), or exactly these command"
        " lines.",
    )
    command_timeout: Duration = Field(60.0, gt=0, description="Time limit of one command of a manifest.")
    command_limits: LimitOptions = Field(
        LimitOptions(),
        description="Limits on memory and processor time of each command. None by default, since a service"
        " that a command starts would inherit them.",
    )
    background: Background = Field(
        "keep",
        description="What becomes of processes that a command leaves behind when it ends: `keep` or `end`."
        " Either way they are logged.",
    )
    env: dict[str, str] = Field(
        {}, description='The only variables that commands, and {{ env "NAME" }} in manifests, can see.'
    )
    inherit_env: tuple[str, ...] = Field(
        (), description="Names of variables to copy from agentd's own environment to `env`."
    )
    require_digest: bool = Field(
        default=False, description="Refuse a payload without the manifest's digest (sha256:HEX)."
    )
    random_delay: Duration = Field(
        0.0, description="Upper bound of a random wait before a deploy, so that not all nodes fetch at once."
    )
    max_bandwidth: Size | None = Field(
        None, ge=1, description="Bandwidth limit for fetching the archive, per second."
    )
    max_size: Size = Field(2 * 2**30, ge=1, description="Largest archive.")
    max_unpacked: Size = Field(4 * 2**30, ge=1, description="Largest total size of an unpacked archive.")
    max_entries: int = Field(
        400_000,
        ge=1,
        description="Maximum number of files, directories and links in an archive; each extended header, of"
        " which there may be one for each, counts as well.",
    )
    keep_owner: bool = Field(
        default=True, description="Keep the owners recorded in the archive, as tar does when run by root."
    )
    outside_links: bool = Field(
        default=False,
        description="Accept symbolic links that point outside `dest`; nothing is ever written through them.",
    )
    redeploy: bool = Field(default=False, description="Deploy even if the same manifest is already in place.")

    def environment(self) -> dict[str, str]:
        """The variables for manifests and commands."""
        return {name: os.environ[name] for name in self.inherit_env if name in os.environ} | self.env

    def allows(self, lines: tuple[str, ...]) -> bool:
        """Whether a manifest may run these commands."""
        allowed = self.allow_commands
        return allowed if isinstance(allowed, bool) else all(line in allowed for line in lines)

    def place(self, target: str) -> Place:
        """Where `dest` is, to be closed.

        A symbolic link is followed only if it is listed itself; below a `*`, one could point to another.

        Raises:
            PermanentError: it is not listed, or somebody else could redirect a deploy to it.
            FileNotFoundError: its parent directory is missing.
            OSError: a directory on the way cannot be opened.
        """
        path = Path(target)
        listed = target in self.dests
        if path.name == _ANY or not (listed or str(path.parent / _ANY) in self.dests):
            raise PermanentError(f"{target} is not listed in the option `dests`")
        if len(os.fsencode(path.name)) > _LONGEST_NAME:
            raise PermanentError(f"{target:.200} has a name of more than {_LONGEST_NAME} bytes")
        place = open_place(target, self._trusted(), follow=listed)
        if place.name.startswith(PREFIX):
            place.close()
            raise PermanentError(
                f"{target} is not listed in the option `dests`: it is agentd's own directory"
            )
        return place

    def places(self) -> Iterator[tuple[str, Place | OSError | PermanentError]]:
        """Each of `dests` with the place of it, or for a `*` of any name there, to be closed."""
        for target in self.dests:
            try:
                yield target, open_place(target, self._trusted(), follow=Path(target).name != _ANY)
            except (OSError, PermanentError) as error:
                yield target, error

    def _trusted(self) -> frozenset[int]:
        """The users who may write the parent directories."""
        owner = self.parent_owner
        if isinstance(owner, str):
            try:
                owner = pwd.getpwnam(owner).pw_uid
            except (KeyError, ValueError) as error:
                raise PermanentError(
                    f"parent_owner: there is no user {owner!r:.100}; create or correct it"
                ) from error
        return frozenset({0, os.geteuid()} | ({owner} if owner is not None else set()))
