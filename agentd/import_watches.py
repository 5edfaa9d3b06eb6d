"""Turns the `watches` of a Consul agent's JSON configuration into the handlers of an agentd.yaml.

Owns that translation, from text to text: no I/O, and no secret in the input reaches the output. What cannot
be translated is never dropped silently: a comment in the output names the watch and the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import yaml

from agentd.errors import ConfigError
from agentd.printable import printable_lines

_STATES: Final = ("any", "passing", "warning", "critical")
_NAME_LENGTH: Final = 64
_LISTED: Final = 80


class _Untranslatable(Exception):  # noqa: N818 (not an error of the program: it ends one watch's translation)
    """Why a watch cannot be translated; the text becomes a comment."""


def import_watches(text: str) -> str:
    """Translate an agent's configuration, a bare list of watches, or a single watch.

    Args:
        text: JSON (https://developer.hashicorp.com/consul/docs/automate/watch).

    Returns:
        YAML with the `handlers:` map, one entry per watch, and comments for what could not be translated.

    Raises:
        ConfigError: not JSON, or no watches in it.
    """
    try:
        return _handlers(_watches(text))
    except RecursionError as error:
        raise ConfigError(["this is nested too deeply to be a configuration of Consul"]) from error


def _handlers(watches: list[Any]) -> str:
    lines: list[str] = []
    handlers = 0
    for number, watch in enumerate(watches, start=1):
        lines.append("")
        try:
            on, options = _translated(watch)
        except _Untranslatable as reason:
            lines.append(_comment(f"watch {number} ({_label(watch)}) is NOT imported: {reason}"))
            continue
        if watch.get("token"):
            note = "it has a token of its own (not copied); agentd uses the one in consul.token_file for all"
            lines.append(_comment(f"watch {number}: {note}"))
        lines.append(f"  {_name(number, watch)}:\n    use: command\n    on: {_yaml([on], flow=True)}")
        lines.append(f"    {_yaml({'options': options}, flow=False)}")
        handlers += 1
    return "\n".join(["handlers:" if handlers else "handlers: {}", *lines]) + "\n"


def _watches(text: str) -> list[Any]:
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate is no text
    except ValueError as error:
        told = str(error).partition(";")[0]  # without advice to programmers
        raise ConfigError([f"this is not JSON: {told}; convert an HCL file to JSON first"]) from error
    if isinstance(found, Mapping):
        found = [found] if "type" in found else found.get("watches")
    if not isinstance(found, list) or not found:
        raise ConfigError(["there are no watches: give an agent's configuration with `watches`, or a list"])
    return found


def _translated(watch: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """The item of `on:`, and the options of `command`."""
    if not isinstance(watch, Mapping):
        raise _Untranslatable("it is not an object")
    if any("\0" in text for text in _texts(watch)):
        raise _Untranslatable("it has a NUL character, which no argument or name can hold")
    if watch.get("datacenter"):
        raise _Untranslatable("it names a datacenter, and agentd watches only its agent's own")
    return _on(watch), _options(watch)


def _texts(value: object) -> Iterator[str]:
    """All text in a JSON value."""
    match value:
        case str():
            yield value
        case list() | dict():
            for item in value if isinstance(value, list) else [*value.keys(), *value.values()]:
                yield from _texts(item)


def _on(watch: Mapping[str, Any]) -> dict[str, Any]:
    """The item of `on:` that brings the same changes."""
    match watch.get("type"):
        case "event":
            return {"event": _text(watch, "name", default="*")}
        case "key":
            return {"key": _text(watch, "key").removeprefix("/")}  # as Consul's own client does
        case "keyprefix":
            return {"keyprefix": _text(watch, "prefix").removeprefix("/")}
        case "service":
            return _service(watch)
        case "services" | "nodes" as kind:
            if watch.get("node_meta"):
                raise _Untranslatable("agentd does not select by node_meta")
            return {kind: True}
        case "checks":
            return {"checks": _which_checks(watch)}
        case None:
            raise _Untranslatable("it has no type")
        case other:
            raise _Untranslatable(f"agentd has no watch of type {other!r:.{_LISTED}}")


def _service(watch: Mapping[str, Any]) -> dict[str, Any]:
    tags = watch.get("tag") or []
    tags = [tags] if isinstance(tags, str) else tags
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise _Untranslatable("`tag` must be a string or a list of strings")
    if len(tags) > 1:
        raise _Untranslatable("it selects by several tags, and agentd by one; use a `filter`")
    passing = watch.get("passingonly", False)
    if passing not in (True, False, "true", "false"):
        raise _Untranslatable("`passingonly` must be true or false")
    # Written out even when false: agentd's own default is true.
    return {
        "service": _text(watch, "service"),
        **({"tag": tags[0]} if tags else {}),
        "passing": passing in (True, "true"),
    }


def _which_checks(watch: Mapping[str, Any]) -> dict[str, str]:
    if watch.get("service"):
        return {"service": _text(watch, "service")}
    state = _text(watch, "state", default="any")
    if state not in _STATES:
        raise _Untranslatable(f"`state` must be one of {', '.join(_STATES)}")
    return {"state": state}


def _text(watch: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = watch.get(name) or default
    if not isinstance(value, str):
        raise _Untranslatable(f"`{name}` is missing or is not a string")
    return value


def _options(watch: Mapping[str, Any]) -> dict[str, Any]:
    """How the program is started: `args` without a shell, the older `handler` string with one."""
    if watch.get("handler_type", "script") != "script":
        raise _Untranslatable(
            "its handler is an HTTP request, which `command` does not send; have it run curl, for example"
        )
    args, handler = watch.get("args"), watch.get("handler")
    if isinstance(args, Sequence) and args and all(isinstance(word, str) for word in args):
        return {"shell": args} if isinstance(args, str) else {"argv": list(args)}
    if isinstance(handler, str) and handler:
        return {"shell": handler}
    raise _Untranslatable("it has neither `args` nor `handler`")


def _name(number: int, watch: Mapping[str, Any]) -> str:
    """A name such as "watch-1-event-deploy"; the number makes it unique."""
    words = (
        str(watch.get(field) or "") for field in ("type", "name", "key", "prefix", "service", "tag", "state")
    )
    plain = re.sub("[^a-z0-9]+", "-", "-".join(word for word in words if word).lower()).strip("-")
    return f"watch-{number}-{plain}"[:_NAME_LENGTH].rstrip("-")


def _label(watch: object) -> str:
    if not isinstance(watch, Mapping):
        return "not an object"
    fields = (
        f"{name}={watch[name]!r:.{_LISTED}}"
        for name in ("type", "name", "key", "prefix", "service")
        if watch.get(name)
    )
    return " ".join(fields) or "no type"


def _comment(text: str) -> str:
    return f"  # {text}"


class _Dumper(yaml.SafeDumper):
    """Writes text that has line breaks on one line, escaped."""


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent)


def _yaml(value: object, *, flow: bool) -> str:
    """Indented to fit inside an entry, except for the first line."""
    dumped = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100_000, default_flow_style=flow
    )
    # A text with such a character is in double quotes, where YAML reads the same escapes.
    return printable_lines(dumped.rstrip("\n")).replace("\n", "\n    ")
