"""The sections of the YAML file as frozen models; the reference page is made from their descriptions.

Values only: validators do no I/O.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from agentd.on import On
from agentd.options import Duration, NginxOptions, Options, StatusOptions
from agentd.source_options import SourceOptions
from agentd.watch.options import ConsulOptions


def absolute(path: Path) -> Path:
    """A path that does not depend on where agentd was started. Raises ValueError."""
    if not path.is_absolute():
        raise ValueError("the path must be absolute")
    return path


class RetryOptions(Options):
    """How often, and how far apart, a change that failed is tried again."""

    attempts: int = Field(
        5, ge=1, le=1000, description="Attempts in all; after the last the change ends as failed."
    )
    first: Duration = Field(1.0, gt=0, description="Wait before the second attempt; doubled from then on.")
    longest: Duration = Field(60.0, gt=0, description="The longest wait between attempts.")


class HandlerEntry(Options):
    """One configured handler."""

    use: str = Field(description="Entry-point name of a handler, or package.module:Class.")
    on: tuple[On, ...] = Field((), description="The changes that it handles.")
    notify: tuple[str, ...] = Field(
        (),
        description="Handlers told when a commit of this one changed something; by one that proves, such as"
        " nginx_reload: told after each proof that succeeded.",
    )
    timeout: Duration = Field(60.0, gt=0, description="Time limit of one attempt.")
    expire_after: Duration | None = Field(
        None, description="A change that waited longer than this before it was handled ends as expired."
    )
    retry: RetryOptions = Field(RetryOptions(), description="What happens to a change that failed.")
    options: dict[str, Any] = Field({}, description="The handler's own options.")


class TreeOptions(Options):
    """The directory that nginx includes."""

    path: Path = Field(
        Path("/etc/nginx/agentd"), description="Where the generations lie, inside nginx's directory."
    )
    keep: int = Field(10, ge=2, le=10_000, description="How many generations are kept.")

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return absolute(path)


class JournalOptions(Options):
    """The node's memory."""

    keep: Duration = Field(30 * 86400.0, description="How long the history is kept.")
    replayable: Duration = Field(
        86400.0, description="How long payloads are kept for `agentd replay`; then they are wiped."
    )


class LogOptions(Options):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least level that is logged."
    )
    format: Literal["auto", "json", "text"] = Field(
        "auto", description="auto: text on a terminal, else JSON."
    )


class Config(Options):
    """The whole file."""

    consul: ConsulOptions = Field(ConsulOptions(), description="The local Consul agent.")
    nginx: NginxOptions | None = Field(
        NginxOptions(),
        description="The nginx on this node; null where there is none, then nothing is checked.",
    )
    tree: TreeOptions = Field(TreeOptions(), description="The tree of generations.")
    state: Path = Field(
        Path("/var/lib/agentd"), description="Directory of the journal; only for agentd's user."
    )
    journal: JournalOptions = Field(JournalOptions(), description="How long the journal remembers.")
    sources: SourceOptions = Field(SourceOptions(), description="What a reference in a change may name.")
    status: StatusOptions = Field(StatusOptions(), description="The HTTP endpoints on loopback.")
    log: LogOptions = Field(LogOptions(), description="Logging.")
    drain: Duration = Field(10.0, description="How long SIGTERM waits for work in hand.")
    handlers: dict[str, HandlerEntry] = Field(min_length=1, description="The configured handlers by name.")

    @field_validator("state")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return absolute(path)

    @property
    def prefix(self) -> str:
        """How nginx's configuration names the tree: relative to the directory of its main file.

        Raises:
            ValueError: the tree does not lie below that directory.
        """
        if self.nginx is None:
            return self.tree.path.name
        below = self.tree.path.relative_to(self.nginx.conf.parent)
        if ".." in below.parts or not below.parts:
            raise ValueError("the tree does not lie below the directory of nginx's configuration")
        return str(below)
