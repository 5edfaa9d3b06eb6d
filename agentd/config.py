"""The YAML file as frozen models, with every problem at once, each with file and line.

Loading imports the classes of the configured handlers (their options are checked too) and does no other I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from agentd.document import Document
from agentd.errors import ConfigError
from agentd.handler import Handler, HandlerOptions
from agentd.options import Duration, NginxOptions, Options, StatusOptions
from agentd.plugins import resolve
from agentd.watch.options import ConsulOptions
from agentd.watch.queries import (
    ChecksQuery,
    EventQuery,
    KeyPrefixQuery,
    KeyQuery,
    NodesQuery,
    Query,
    ServiceQuery,
    ServicesQuery,
)

DEFAULT_PATH: Final = Path("/etc/agentd/agentd.yaml")
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9_.-]{0,62}[a-z0-9])?")


class _On(Options):
    """One item of `on:`. `event` is the name to choose by, or None for a state."""

    event_name: ClassVar[str | None] = None

    def query(self) -> Query:
        """The query that yields the changes."""
        raise NotImplementedError


class OnEvent(_On):
    """User events by name."""

    event: str = Field(min_length=1, description='Name of the user event; "*" takes every event.')

    def query(self) -> Query:
        """All events share one poll, sorted out by name here."""
        return EventQuery()


class OnKey(_On):
    """One key."""

    key: str = Field(min_length=1, pattern="^[^/]", description="Path of a key in Consul's KV store.")

    def query(self) -> Query:
        """A query of its own for each key."""
        return KeyQuery(self.key)


class OnKeyPrefix(_On):
    """All keys below a prefix."""

    keyprefix: str = Field(pattern="^([^/]|$)", description="Prefix of keys in Consul's KV store.")

    def query(self) -> Query:
        """A query of its own for each prefix."""
        return KeyPrefixQuery(self.keyprefix)


class OnService(_On):
    """The instances of a service."""

    service: str = Field(min_length=1, description="Name of a service.")
    tag: str | None = Field(None, description="Only instances with this tag.")
    passing: bool = Field(default=True, description="Only instances all of whose checks pass.")
    near: str | None = Field(None, description="Sort by round trip from this node; `_agent` means this one.")
    filter: str | None = Field(None, description="A filter expression of Consul's.")

    def query(self) -> Query:
        """Equal queries share a poll."""
        return ServiceQuery(
            self.service, tag=self.tag, passing=self.passing, near=self.near, filter=self.filter
        )


class OnServices(_On):
    """The list of services."""

    services: Literal[True] = Field(description="The catalogue's services.")

    def query(self) -> Query:
        """One query for all."""
        return ServicesQuery()


class OnNodes(_On):
    """The list of nodes."""

    nodes: Literal[True] = Field(description="The catalogue's nodes.")

    def query(self) -> Query:
        """One query for all."""
        return NodesQuery()


class WhichChecks(Options):
    """Which checks: those of one service, or those in one state."""

    service: str | None = Field(None, description="Checks of this service.")
    state: Literal["any", "passing", "warning", "critical"] | None = Field(
        None, description="Checks in this state."
    )

    @model_validator(mode="after")
    def _one(self) -> WhichChecks:
        if self.service and self.state:
            raise ValueError("give `service` or `state`, not both")
        return self


class OnChecks(_On):
    """Health checks."""

    checks: WhichChecks = Field(description="The checks of a service, or all in a state (`any` by default).")

    def query(self) -> Query:
        """A query of its own for each choice."""
        return ChecksQuery(service=self.checks.service, state=self.checks.state)


_ON: Final = ("event", "keyprefix", "key", "services", "service", "nodes", "checks")


def _kind_of(value: Any) -> str | None:  # noqa: ANN401 (whatever stands in the file)
    if isinstance(value, _On):
        return next(kind for kind in _ON if kind in type(value).model_fields)
    if isinstance(value, Mapping):
        return next((kind for kind in _ON if kind in value), None)
    return None


On = Annotated[
    Annotated[OnEvent, Tag("event")]
    | Annotated[OnKey, Tag("key")]
    | Annotated[OnKeyPrefix, Tag("keyprefix")]
    | Annotated[OnService, Tag("service")]
    | Annotated[OnServices, Tag("services")]
    | Annotated[OnNodes, Tag("nodes")]
    | Annotated[OnChecks, Tag("checks")],
    Discriminator(
        _kind_of,
        custom_error_type="on",
        custom_error_message=f"an item of `on` needs one of the keys {', '.join(sorted(_ON))}",
    ),
]


class RetryOptions(Options):
    """How often, and how far apart, a change that failed is tried again."""

    attempts: int = Field(
        5, ge=1, le=1000, description="Attempts in all; after the last the change ends as failed."
    )
    first: Duration = Field(1.0, description="Wait before the second attempt; doubled from then on.")
    longest: Duration = Field(60.0, description="The longest wait between attempts.")


class HandlerEntry(Options):
    """One configured handler."""

    use: str = Field(description="Entry-point name of a handler, or package.module:Class.")
    on: tuple[On, ...] = Field((), description="The changes that it handles.")
    notify: tuple[str, ...] = Field(
        (), description="Handlers told when a commit of this one changed something."
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
    status: StatusOptions = Field(StatusOptions(), description="The HTTP endpoints on loopback.")
    log: LogOptions = Field(LogOptions(), description="Logging.")
    drain: Duration = Field(10.0, description="How long SIGTERM waits for work in hand.")
    handlers: dict[str, HandlerEntry] = Field(min_length=1, description="The configured handlers by name.")

    @field_validator("tree")
    @classmethod
    def _absolute(cls, tree: TreeOptions) -> TreeOptions:
        if not tree.path.is_absolute():
            raise ValueError("path must be absolute")
        return tree

    @property
    def prefix(self) -> str:
        """How nginx's configuration names the tree: relative to the directory of its main file.

        Raises:
            ValueError: the tree lies outside that directory.
        """
        return str(self.tree.path.relative_to(self.nginx.conf.parent)) if self.nginx else self.tree.path.name


@dataclass(frozen=True, slots=True)
class ConfiguredHandler:
    """One entry of the handler map with its class found and its options checked."""

    name: str
    entry: HandlerEntry
    type: type[Handler]
    options: HandlerOptions

    def build(self) -> Handler:
        """A new handler object."""
        return self.type(self.options)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be run."""

    path: Path
    config: Config
    handlers: tuple[ConfiguredHandler, ...]


def load(path: Path) -> Loaded:
    """Read, check and resolve the configuration.

    Raises:
        ConfigError: with every problem found, one line each: file, line, place, what is wrong.
    """
    document = Document.read(path)
    if not isinstance(document.data, Mapping):
        raise ConfigError([f"{path}:1: the file must be a map with at least `handlers:`"])
    config, problems = _validate(document)
    handlers = tuple(_configure(document, problems))
    if config is not None:
        problems.extend(_cross_check(document, config))
    if problems or config is None:
        raise ConfigError(sorted(set(problems), key=_by_line))
    return Loaded(path, config, handlers)


def _by_line(problem: str) -> tuple[int, str]:
    found = re.search(r":(\d+): ", problem)
    return (int(found[1]) if found else 0, problem)


def _validate(document: Document) -> tuple[Config | None, list[str]]:
    try:
        return Config.model_validate(document.data), []
    except ValidationError as error:
        return None, list(_problems(document, (), error))


def _problems(document: Document, base: tuple[str | int, ...], error: ValidationError) -> Iterator[str]:
    """One line for each of pydantic's errors; the union tags it puts into paths are left out."""
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        path = base + tuple(
            step
            for at, step in enumerate(detail["loc"])
            if not (step in _ON and at and isinstance(detail["loc"][at - 1], int))
        )
        yield document.problem(path, _message(detail["type"], detail["msg"]))


def _message(kind: str, text: str) -> str:
    if kind == "extra_forbidden":
        return "unknown field"
    if kind == "missing":
        return "this field is required"
    return text.removeprefix("Value error, ")


def _configure(document: Document, problems: list[str]) -> Iterator[ConfiguredHandler]:
    """Each entry of the map whose own fields are right; what is wrong goes to `problems`."""
    entries = document.data.get("handlers")
    for name, raw in entries.items() if isinstance(entries, Mapping) else ():
        place = ("handlers", str(name))
        if not _NAME.fullmatch(str(name)):
            problems.append(
                document.problem(
                    place, "a name has lower-case letters, digits, - _ . and at most 64 characters"
                )
            )
        if not isinstance(raw, Mapping) or not isinstance(raw.get("use"), str):
            continue
        try:
            found = resolve(raw["use"])
            options = found.Options.model_validate(raw.get("options") or {})
            entry = HandlerEntry.model_validate(raw)
        except ConfigError as error:
            problems.extend(document.problem((*place, "use"), text) for text in error.problems)
        except ValidationError as error:
            if error.title != HandlerEntry.__name__:  # the entry's own errors are told once, by _validate
                problems.extend(_problems(document, (*place, "options"), error))
        else:
            yield ConfiguredHandler(str(name), entry, found, options)


def _cross_check(document: Document, config: Config) -> Iterator[str]:
    """What no single field can know."""
    for name, entry in config.handlers.items():
        for at, told in enumerate(entry.notify):
            place = ("handlers", name, "notify", at)
            if told not in config.handlers:
                yield document.problem(place, f"there is no handler named {told!r} in this file")
            elif config.handlers[told].notify:
                yield document.problem(place, f"{told!r} notifies others itself; notifications do not chain")
    try:
        _ = config.prefix
    except ValueError:
        yield document.problem(
            ("tree", "path"),
            f"the tree must lie in the directory of {config.nginx.conf if config.nginx else ''}",
        )
