"""nginx: its configuration is valid, includes the tree in `http {}`, and uses what the tree provides.

nginx itself is asked what only it can know: whether the configuration is valid, and whether the include takes
effect. Where something is written, and what is missing, is read from the files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Final

from agentd.commands.checks.finding import Finding, Level
from agentd.config.load import Loaded
from agentd.config.sections import read_document
from agentd.errors import ConfigError, HandlerError, TreeError
from agentd.nginx.check import NginxCheck
from agentd.nginx.files import Directive, NginxFiles
from agentd.nginx.include import NAME
from agentd.nginx.probe import Probe
from agentd.nginx.tls_listeners import Question, questions
from agentd.options import NginxOptions
from agentd.process import run

_QUOTED: Final = 200  # characters of an output without an error line
_ERROR: Final = re.compile(r"\[(?:emerg|alert|crit|error)\] (?:\d+#\d+: )?(.+)")
_MOST: Final = 10  # findings of one kind; the rest are counted
# nginx takes these as a duplicate once it has read a `map`, and the tree may contain one.
_BEFORE_MAPS: Final = ("map_hash_bucket_size", "map_hash_max_size")
_VARIABLE: Final = re.compile(r"\$\{?(\w+)")


def findings(loaded: Loaded, nginx: NginxOptions) -> Iterator[Finding]:
    """The configuration first; while nginx refuses it, little else can be known."""
    if not nginx.canary.parent.is_dir():
        text = f"{nginx.canary.parent} is missing, so nginx cannot create the socket {nginx.canary}"
        yield Finding("warn", "nginx socket", text, "run `systemd-tmpfiles --create`, or create it")
    fresh = not nginx.pid.exists()
    check = NginxCheck(nginx, loaded.config.tree.path)
    try:
        done = run(check.command(nginx.conf), timeout=nginx.timeout, check=False)
    except HandlerError as error:
        yield Finding("FAIL", "nginx", str(error), "install nginx, or correct nginx.binary")
        return
    finally:
        _remove_empty_pid(nginx, fresh=fresh)
    written = Written(NginxFiles(nginx.conf), loaded.config.tree.path, loaded.config.prefix)
    if done.returncode:
        yield _broken(done.output.decode(errors="replace"), loaded, nginx)
        if (loaded.config.tree.path / "current" / NAME).exists() and not written.in_http:
            yield written.not_included()  # perhaps nginx only misses a variable of the tree
        yield from written.order()
        return
    yield Finding("ok", "nginx -t", f"{nginx.conf} is valid")
    yield from _deadlines(loaded, done.duration)
    yield from written.problems()
    yield _included(loaded, nginx, written)
    yield from written.order()
    yield from written.ticket_keys(_probe(loaded))
    yield from written.unused_variables()
    yield from written.paths(nginx)
    yield written.shutdown()


def _broken(output: str, loaded: Loaded, nginx: NginxOptions) -> Finding:
    """Before the daemon's first start there is nothing to include yet; that is as it should be."""
    found = _ERROR.search(output)
    said = found[1] if found else output.strip()[-_QUOTED:]
    if f"/current/{NAME}" in said and not (loaded.config.tree.path / "current").exists():
        text = "nginx includes the tree, which the daemon creates when it first starts"
        return Finding("warn", "nginx include", text, "start agentd, then nginx unless it runs")
    return Finding("FAIL", "nginx -t", said, f"correct {nginx.conf}")


def _deadlines(loaded: Loaded, took: float) -> Iterator[Finding]:
    """Whether a reload may take as long as the configuration needs."""
    document = read_document(loaded.path)
    for handler in loaded.handlers:
        deadline = getattr(handler.options, "deadline", None)
        if handler.type.proves and isinstance(deadline, float) and deadline < took:
            text = f"{deadline:g} s is shorter than `nginx -t` takes ({took:.1f} s), so each reload is late"
            yield Finding(
                "warn",
                "nginx deadline",
                document.problem(("handlers", handler.name, "options", "deadline"), text),
                f"set it to {math.ceil(4 * took)}s",
            )


def _remove_empty_pid(nginx: NginxOptions, *, fresh: bool) -> None:
    """`nginx -t` leaves an empty one if there was none."""
    if fresh and nginx.pid.exists() and not nginx.pid.stat().st_size:
        nginx.pid.unlink()


def _included(loaded: Loaded, nginx: NginxOptions, written: Written) -> Finding:
    """Whether it takes effect, by nginx's word; where it is, or what is wrong with it, by the files."""
    try:
        # Where there is no tree there is no generation, and an include of one would have been an error.
        included = loaded.config.tree.path.exists() and NginxCheck(nginx, loaded.config.tree.path).included()
    except (HandlerError, TreeError, ConfigError) as error:
        return Finding("warn", "nginx include", f"unknown: {error}", written.not_included().advice)
    if included:
        place = next((one.place for one in written.includes if one.context == "http"), str(nginx.conf))
        return Finding("ok", "nginx include", f"{place}: {written.line} is in http {{}}")
    return written.not_included()


class Written:
    """What the files say, both the operator's and the tree's."""

    def __init__(self, files: NginxFiles, tree: Path, prefix: str) -> None:
        self.line = f"include {prefix}/current/{NAME};"
        self._files = files
        self._tree = tree
        self.includes = [
            one
            for one in files.named("include")
            if self._tree / "current" / NAME in files.included_by(one) and not self._ours(one)
        ]
        self._named_servers: dict[int, list[Directive]] = {}
        for one in files.named("server_name", "listen"):
            if one.blocks:
                self._named_servers.setdefault(id(one.blocks[-1]), []).append(one)

    def problems(self) -> Iterator[Finding]:
        """Files that could not be read: the findings below do not know what is in them."""
        advice = "ignore this if nginx accepts the file; the findings below leave it out"
        return _limited("nginx files", ((problem, advice) for problem in self._files.problems))

    @property
    def in_http(self) -> bool:
        """Whether the tree is included where it should be."""
        return any(one.context == "http" for one in self.includes)

    def not_included(self) -> Finding:
        """That the include is missing, or what is wrong with it, and what to write where."""
        wrong = self.misplaced()
        text = wrong or "nginx does not include the tree in http {}"
        advice = f"put `{self.line}` into http {{}}" + (" instead" if wrong else "")
        return Finding("FAIL", "nginx include", text, advice)

    def misplaced(self) -> str:
        """Why an include that is there does not count; "" if there is none."""
        for one in self.includes:
            if one.context != "http":
                return f"{one.place}: includes the tree in {one.context} {{}}, not in http {{}}"
            if Path(one.arguments[0]).is_absolute():
                return f"{one.place}: the path is absolute, so a new generation cannot be checked through it"
            return f"{one.place}: includes the tree by another path"
        for one in self._files.named("include"):
            if one.arguments and one.arguments[0].endswith(f"/current/{NAME}"):
                return f"{one.place}: includes another tree than tree.path ({self._tree})"
        return ""

    def order(self) -> Iterator[Finding]:
        """Directives that nginx will not take after the tree's maps."""
        if not self.includes:
            return iter(())
        include = self.includes[0]
        after = self._files.directives[self._files.directives.index(include) :]
        late = [one for one in after if one.name in _BEFORE_MAPS and not self._ours(one)]
        why = f"is refused after a map, and the tree, included at {include.place}, may contain one"
        found = ((f"{one.place}: {one.name} {why}", "move it above the include") for one in late)
        return _limited("nginx include", found)

    def ticket_keys(self, probe: Probe | None) -> Iterator[Finding]:
        """Whether the servers use the tree's keys, as far as the files say.

        Args:
            probe: which listeners count, if a handler of ticket keys is configured; the tree need not have
                keys yet then.
        """
        has_keys = any(self._ours(one) for one in self._files.named("ssl_session_ticket_key"))
        if probe is None and not has_keys:
            return
        servers = {
            id(one.server)
            for one in self._files.named("listen")
            if {"ssl", "quic"} & set(one.arguments) and one.blocks[0].name == "http"
        }
        asked = (probe or Probe(None)).select(self.questions)
        if not servers and not asked:
            text = "there are session ticket keys, and no server in http {} listens with ssl"
            yield Finding("warn", "nginx tickets", text, "add `ssl` to the `listen` of the TLS servers")
            return
        wrong = list(_ticket_overrides(one for one in asked if has_keys or one.off))
        yield from _limited("nginx tickets", wrong, "FAIL")
        yield from _limited("nginx tickets", self._ignored_keys())
        if has_keys and not wrong:
            text = f"the tree's ticket keys are used by all servers with TLS ({len(servers)})"
            yield Finding("ok", "nginx tickets", text)

    @cached_property
    def questions(self) -> list[Question]:
        """The handshakes that show which key encrypts."""
        return questions(self._files, self._tree / "current")

    def _ignored_keys(self) -> Iterator[tuple[str, str]]:
        """Keys of servers that are not the default server of any socket."""
        counting = {one.own.partition(": ")[0] for one in self.questions}
        for one in self._files.named("ssl_session_ticket_key"):
            if (
                one.server
                and one.blocks[0].name == "http"
                and not self._ours(one)
                and one.place not in counting
            ):
                text = f"{one.place}: {self._server(one)} has its own ticket key, which nginx ignores:"
                yield f"{text} it uses the keys of the socket's default server", "remove that line"

    def _server(self, one: Directive) -> str:
        server = one.server
        if server is None:
            return f"{one.context} {{}}"
        inside = self._named_servers.get(id(server), [])
        names = next((" ".join(each.arguments) for each in inside if each.name == "server_name"), "")
        listens = ", ".join(" ".join(each.arguments) for each in inside if each.name == "listen")
        return f"server {names or 'without a name'} ({listens or 'port 80'})"

    def unused_variables(self) -> Iterator[Finding]:
        """Variables that the tree defines for the operator's configuration, such as $agentd_blocked."""
        defined = {
            one.arguments[-1]: one
            for one in self._files.named("map", "geo")
            if self._ours(one) and one.arguments and one.arguments[-1].startswith("$")
        }
        used = {
            f"${name}"
            for one in self._files.directives
            for text in (one.name, *(one.arguments[:-1] if one.name in ("map", "geo") else one.arguments))
            for name in _VARIABLE.findall(text)
        }
        for name in sorted(defined.keys() - used):
            text = f"{name} is not used anywhere, so it has no effect"
            yield Finding(
                "warn", "nginx variables", text, f"put `if ({name}) {{ return 403; }}` into server {{}}"
            )

    def paths(self, nginx: NginxOptions) -> Iterator[Finding]:
        """Files of nginx's that the daemon looks for in another place."""
        looks: tuple[tuple[str, Level, str], ...] = (
            ("pid", "warn", "agentd finds nginx without it only if its command line tells what it reads"),
            ("error_log", "warn", "agentd would not learn why nginx refuses a reload"),
        )
        for name, level, lost in looks:
            looked: Path = getattr(nginx, name)
            written = [
                one
                for one in self._files.named(name)
                if not one.blocks and one.arguments and one.arguments[0].startswith("/")
            ]
            if written and all(Path(one.arguments[0]).resolve() != looked.resolve() for one in written):
                last = written[-1]
                text = f"{last.place}: {name} {last.arguments[0]}, but nginx.{name} is {looked}: {lost}"
                yield Finding(level, f"nginx {name}", text, f"set nginx.{name} to {last.arguments[0]}")

    def shutdown(self) -> Finding:
        """Whether old workers end in time."""
        for one in self._files.named("worker_shutdown_timeout"):
            return Finding("ok", "nginx drain", f"{one.place}: {one.name} {' '.join(one.arguments)}")
        return Finding(
            "warn",
            "nginx drain",
            "worker_shutdown_timeout is not set: old workers may drain indefinitely, and reloads wait",
            "put `worker_shutdown_timeout 60s;` at the top of nginx.conf",
        )

    def _ours(self, one: Directive) -> bool:
        return one.file.is_relative_to(self._tree)


def _ticket_overrides(asked: Iterable[Question]) -> Iterator[tuple[str, str]]:
    """Why listeners do not encrypt with the tree's key, each reason once."""
    exclude = "or exclude it in `probe`: except"
    reasons: dict[str, list[Question]] = {}
    for one in asked:
        if reason := one.off or one.own:
            reasons.setdefault(reason, []).append(one)
    for reason, those in reasons.items():
        parts = ", ".join(one.part for one in those[:_MOST]) + (", ..." if those[_MOST:] else "")
        if those[0].off:
            yield f"{reason}: no session tickets on {parts}", f"remove that line, {exclude} {those[0].item}"
        else:
            text = f"{reason}: the tree's key does not encrypt on {parts}"
            yield text, f"remove that line, {exclude} {those[0].item}"


def _probe(loaded: Loaded) -> Probe | None:
    """Which listeners the handlers of ticket keys ask; None if there is no such handler."""
    those = [one for one in loaded.config.handlers.values() if one.use == "tls_ticket_keys"]
    given = [one.options["probe"] for one in those if one.options.get("probe") is not None]
    if not those:
        return None
    return Probe([item for probe in given for item in probe] if given else None)


def _limited(subject: str, found: Iterable[tuple[str, str]], level: Level = "warn") -> Iterator[Finding]:
    """Findings, each a text and an advice, but not a thousand of one kind."""
    rest = iter(found)
    for text, advice in islice(rest, _MOST):
        yield Finding(level, subject, text, advice)
    if more := sum(1 for _ in rest):
        yield Finding(level, subject, f"and {more} more like these")
