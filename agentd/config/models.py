"""The sections of the YAML file as frozen models; the reference page is made from their descriptions.

Values only: validators do no I/O.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from agentd.config.triggers import On, OnEvent
from agentd.fleet.options import FleetOptions
from agentd.options import AbsolutePath, NginxOptions, Options, Size, StatusOptions
from agentd.section import Duration
from agentd.sources.options import SourceOptions
from agentd.trust.options import TrustOptions
from agentd.values import KEEP, STATE, TREE
from agentd.watch.changes import LOG
from agentd.watch.options import ConsulOptions


class RetryOptions(Options):
    """How often, and at what intervals, a failed change is retried."""

    attempts: int = Field(
        5,
        ge=1,
        le=1000,
        description="Number of attempts in all; after the last one the change ends as failed.",
    )
    first: Duration = Field(
        1.0, gt=0, description="Wait before the second attempt; doubled after each further one."
    )
    longest: Duration = Field(60.0, gt=0, description="Longest wait between two attempts.")


class HandlerEntry(Options):
    """One configured handler: which plug-in it is, what it is given, and which handlers it notifies."""

    use: str = Field(
        description="The handler: the name of an entry point, such as ip_blacklist, or package.module:Class."
    )
    on: tuple[On, ...] = Field((), description="The changes that it is given; see `on` below.")
    notify: tuple[str, ...] = Field(
        (),
        description="Configured handlers to notify when a commit of this one changed a file. A handler that"
        " proves reloads, such as nginx_reload, notifies after each successful proof instead.",
    )
    timeout: Duration = Field(60.0, gt=0, description="Time limit of one attempt.")
    expire_after: Duration | None = Field(
        None,
        description="A change that has waited longer than this is not handled any more and ends as expired,"
        " as does an event of unknown age. Unset: never.",
    )
    retry: RetryOptions = Field(RetryOptions(), description="Retries of a failed change.")
    options: dict[str, Any] = Field({}, description="Options of the handler itself; see the handlers below.")

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of the fleet's log that it takes, sorted."""
        return tuple(sorted({on.event for on in self.on if isinstance(on, OnEvent) and on.keep}))

    @property
    def sources(self) -> frozenset[str]:
        """The identities of the queries that its changes come from, and of the logs of kept names."""
        return frozenset({str(on.query()) for on in self.on} | {f"{LOG}{name}" for name in self.kept})


class TreeOptions(Options):
    """The directory that nginx includes, with its generations."""

    path: AbsolutePath = Field(
        Path(TREE),
        description="Directory of the tree. It must be below the directory of nginx.conf.",
    )
    keep: int = Field(
        10, ge=KEEP[0], le=KEEP[1], description="Number of generations to keep, for `agentd rollback`."
    )
    secrets: AbsolutePath | None = Field(
        None,
        description="Directory in memory (a tmpfs), such as /run/agentd/secrets, for the contents of secret"
        " files; the generations then have links to them. For this tree alone. Unset: they are on the disk.",
    )

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.secrets and (
            self.secrets.is_relative_to(self.path) or self.path.is_relative_to(self.secrets)
        ):
            raise ValueError(f"secrets: {self.secrets} must be outside the tree, in memory")
        return self


class JournalOptions(Options):
    """The journal of this node: every change and what became of it."""

    keep: Duration = Field(30 * 86400.0, description="How long `agentd history` goes back.")
    replayable: Duration = Field(
        86400.0,
        description="How long payloads are kept for `agentd replay`; after that they are wiped. The payload"
        " of a state is wiped once a newer state has replaced it.",
    )
    max_size: Size = Field(
        256 << 20,
        ge=8 << 20,
        description="The most space that the journal takes on the disk. Near it, the oldest history is"
        " dropped; if what waits is too much by itself, the oldest events that wait end as expired.",
    )


class LogOptions(Options):
    """What is logged, and in which format."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level to log.")
    format: Literal["auto", "json", "text"] = Field(
        "auto", description="auto: text on a terminal, otherwise JSON."
    )


class Sections(Options):
    """The whole configuration file, without the handlers."""

    consul: ConsulOptions = Field(ConsulOptions(), description="The local Consul agent.")
    nginx: NginxOptions | None = Field(
        NginxOptions(),
        description="The nginx on this node; null if there is none, in which case no file is checked.",
    )
    tree: TreeOptions = Field(TreeOptions(), description="The directory that nginx includes.")
    state: AbsolutePath = Field(
        Path(STATE),
        description="Directory of the journal; it contains payloads, so only root may read it.",
    )
    journal: JournalOptions = Field(
        JournalOptions(), description="How long changes and payloads are kept, and how many."
    )
    sources: SourceOptions = Field(
        SourceOptions(), description="Payloads by reference: what may be fetched, and how."
    )
    status: StatusOptions = Field(StatusOptions(), description="The HTTP endpoints.")
    fleet: FleetOptions | None = Field(
        None, description="The fleet that this node belongs to, for kept events; null for none."
    )
    trust: TrustOptions | None = Field(
        None,
        description="Who may send messages of the fleet, and which of them are encrypted; null: whoever may"
        " write to the log, and none.",
    )
    drift: Literal["mend", "report"] = Field(
        "mend",
        description="What to do when files in the tree, nginx, kernel sets, or servers set at run time are no"
        " longer as they were committed. mend: restore them. report: only report it; the next change, or a"
        " restart or reload of agentd, restores them.",
    )
    log: LogOptions = Field(LogOptions(), description="Logging.")
    drain: Duration = Field(10.0, description="How long SIGTERM waits for work in progress.")
    handlers_path: tuple[AbsolutePath, ...] = Field(
        (),
        description="Directories of handlers that are not installed as packages; only root and agentd's user"
        " may be able to write there.",
    )

    @property
    def prefix(self) -> str:
        """How nginx's configuration names the tree: relative to the directory of its main file.

        Raises:
            ValueError: the tree is not below that directory.
        """
        if self.nginx is None:
            return self.tree.path.name
        below = self.tree.path.relative_to(self.nginx.conf.parent)
        if ".." in below.parts or not below.parts:
            raise ValueError("the tree is not below the directory of nginx's configuration")
        return str(below)


class Config(Sections):
    """The whole configuration file."""

    handlers: dict[str, HandlerEntry] = Field(min_length=1, description="The configured handlers, by name.")
