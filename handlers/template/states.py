"""The functions by which a template asks for states, and which item of `on` each call means.

A call says of an item what tells it apart: `service("api")` is enough where `on` has one item for that
service. A call that `on` does not answer is an error that says what to add.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from handlers.template import values
from handlers.template.values import Json, TemplateError

KINDS: Final = ("service", "key", "keyprefix", "nodes", "services", "checks")
_NAMED: Final = {
    "service": ("service",), "key": ("key",), "key_or_default": ("key",), "keyprefix": ("keyprefix",),
    "nodes": (), "services": (), "checks": (),
}  # fmt: skip
FUNCTIONS: Final = tuple(_NAMED)
_MISSING: Final = object()


@dataclass(frozen=True)
class State:
    """One item of `on:` and what Consul answered to it.

    Attributes:
        on: the item, its defaults filled in, such as {"key": "site/motd"}.
        come: whether the answer is there.
        raw: the answer.
    """

    on: Mapping[str, Any]
    come: bool = False
    raw: Json = field(default=None, repr=False)

    @property
    def kind(self) -> str:
        """Which of `KINDS` it is."""
        return next(kind for kind in KINDS if kind in self.on)


class States:
    """All states of one handler, by the functions that templates call."""

    def __init__(self, states: Sequence[State]) -> None:
        self._states = states
        self._made: dict[int, Any] = {}

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """By name."""
        return {name: getattr(self, name) for name in FUNCTIONS}

    def service(self, name: str, **which: Any) -> list[values.ServiceInstance]:  # noqa: ANN401 (of the template)
        """The instances of a service."""
        found: list[values.ServiceInstance]
        found = self._get("service", (name,), which, lambda raw: values.instances(name, raw))
        return found

    def key(self, path: str) -> str | values.Binary:
        """The value of a key; one that is not there is an error."""
        found = self._value(path)
        if found is None:
            raise TemplateError(f"there is no key {path} in Consul: create it, or use key_or_default")
        return found

    def key_or_default(self, path: str, default: Any) -> Any:  # noqa: ANN401 (as above)
        """The value of a key; the default if it is not there."""
        found = self._value(path)
        return default if found is None else found

    def _value(self, path: str) -> str | values.Binary | None:
        found: str | values.Binary | None
        found = self._get("key", (path,), {}, lambda raw: raw and values.text_of(path, raw.get("Value")))
        return found

    def keyprefix(self, prefix: str, *, nested: bool = True) -> list[values.Pair]:
        """The keys below a prefix: all of them, or those directly below it."""
        found: list[values.Pair] = self._get(
            "keyprefix", (prefix,), {}, lambda raw: values.pairs(prefix, raw)
        )
        return found if nested else [one for one in found if "/" not in one.key]

    def nodes(self) -> list[values.Node]:
        """The nodes of the catalogue."""
        found: list[values.Node] = self._get("nodes", (), {}, values.nodes)
        return found

    def services(self) -> list[values.Service]:
        """The services of the catalogue."""
        found: list[values.Service] = self._get("services", (), {}, values.services)
        return found

    def checks(self, **which: Any) -> list[values.Check]:  # noqa: ANN401 (as above)
        """The health checks of one service, or in one state."""
        found: list[values.Check] = self._get("checks", (), which, values.checks)
        return found

    def _get(
        self, function: str, given: tuple[Any, ...], which: Mapping[str, Any], make: Callable[[Json], Any]
    ) -> Any:  # noqa: ANN401 (as above)
        at = find([state.on for state in self._states], function, given, which)
        state = self._states[at]
        if not state.come:
            raise TemplateError(
                f"Consul's answer for {written(state.on)} is not here: reload agentd, which asks again"
            )
        if at not in self._made:
            self._made[at] = make(state.raw)
        made = self._made[at]
        return list(made) if isinstance(made, list) else made


def find(
    on: Sequence[Mapping[str, Any]], function: str, given: Sequence[Any], which: Mapping[str, Any]
) -> int:
    """Which item of `on` a call means.

    Args:
        on: the items, their defaults filled in.
        function: its name.
        given: its positional arguments; what an item does not know is ignored.
        which: its keyword arguments.

    Raises:
        TemplateError: none, or more than one; the text says what to add.
    """
    kind = "key" if function == "key_or_default" else function
    wanted = dict(zip(_NAMED[function], given, strict=False)) | dict(which)
    mine = [(at, _asked(item)) for at, item in enumerate(on) if kind in item]
    fitting = [
        (at, asked) for at, asked in mine if all(_same(name, asked, one) for name, one in wanted.items())
    ]
    if len(fitting) > 1:  # the one that says no more than the call does
        fitting = [one for one in fitting if not _beyond(one[1], wanted)] or fitting
    if len(fitting) == 1:
        return fitting[0][0]
    call, silent = _call(function, given, which), f"{function}(...)"
    if fitting:
        listed = ", ".join(written(on[at]) for at, _ in fitting)
        several = f'could mean several items of `on` ({listed}): say which, as in tag="v2"'
        raise TemplateError(f"{call} {several}", f"{silent} {several}")
    added = written(
        {kind: True} if kind in ("nodes", "services") else {kind: wanted} if kind == "checks" else wanted
    )
    beyond = "asks for what `on` does not name"
    raise TemplateError(
        f"{call} {beyond}: add {added} to `on`",
        f"{silent} {beyond}; with what it was called is not shown, as that may be secret",
    )


_DEFAULTS: Final[Mapping[str, Any]] = {"passing": True}


def _asked(item: Mapping[str, Any]) -> dict[str, Any]:
    """The item as a call names it: checks by what is in them."""
    inner = item.get("checks")
    return dict(inner) if isinstance(inner, Mapping) else dict(item)


def _same(name: str, asked: Mapping[str, Any], one: object) -> bool:
    found = asked.get(name, _MISSING)
    if name == "keyprefix":  # a folder, with or without the slash at its end
        return str(found).rstrip("/") == str(one).rstrip("/")
    return bool(found == one)


def _beyond(asked: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return any(value != _DEFAULTS.get(name) for name, value in asked.items() if name not in wanted)


def _call(function: str, given: Iterable[Any], which: Mapping[str, Any]) -> str:
    shown = [*map(_shown, given), *(f"{name}={_shown(one)}" for name, one in which.items())]
    return f"{function}({', '.join(shown)})"


def _shown(value: object) -> str:
    return ascii(value)[:80] if not isinstance(value, str) else '"' + ascii(value)[1:-1][:80] + '"'


def written(item: Mapping[str, Any]) -> str:
    """An item of `on` as one writes it in YAML, without its defaults: {key: site/motd}."""
    told = {name: one for name, one in item.items() if one is not None and one != _DEFAULTS.get(name)}
    return "{" + ", ".join(f"{name}: {_yaml(one)}" for name, one in told.items()) + "}"


def _yaml(value: object) -> str:
    if isinstance(value, Mapping):
        return written(value)
    return (
        str(value).lower()
        if isinstance(value, bool)
        else ascii(value)[1:-1]
        if isinstance(value, str)
        else str(value)
    )
