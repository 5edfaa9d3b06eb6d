"""The filters and tests that templates have beside Jinja2's own.

All are pure functions of what they are given. What takes too long, or too much memory, ends the program that
renders (see `renderer`), so nothing is measured here.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, Final

from jinja2 import Environment, pass_environment
from jinja2.filters import make_attrgetter

from agentd.watch.changes import packed_ipv4
from handlers.template.escaping import Joined, map_key, quote, raw
from handlers.template.values import Binary, Pair, ServiceInstance, TemplateError

_PORTS: Final = range(1, 65536)


def with_tag(found: Iterable[Any], tag: str) -> list[Any]:
    """Those that have a tag."""
    return [one for one in found if tag in one.tags]


def with_meta(found: Iterable[Any], name: str, value: str | None = None) -> list[Any]:
    """Those that have a meta entry, or one of this value."""
    return [one for one in found if name in one.meta and value in (None, one.meta[name])]


def by_tag(found: Iterable[Any]) -> dict[str, list[Any]]:
    """Grouped by tag, sorted; one with several tags is in several groups."""
    return _grouped((tag, one) for one in found for tag in one.tags)


def by_meta(found: Iterable[Any], name: str) -> dict[str, list[Any]]:
    """Grouped by the value of a meta entry, sorted; "" for those without."""
    return _grouped((one.meta.get(name, ""), one) for one in found)


def by_key(found: Iterable[Pair]) -> dict[str, list[Pair]]:
    """Pairs grouped by the first part of their keys, which are then relative to that; others are left out."""
    split = ((one, *one.key.partition("/")) for one in found)
    return _grouped((first, Pair(one.path, rest, one.value)) for one, first, _, rest in split if rest)


def _grouped(found: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for name, one in found:
        groups.setdefault(name, []).append(one)
    return dict(sorted(groups.items()))


def explode(found: Iterable[Pair]) -> dict[str, Any]:
    """Pairs as nested maps, by the parts of their keys."""
    tree: dict[str, Any] = {}
    for one in found:
        *folders, last = one.key.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
            if not isinstance(place, dict):
                raise TemplateError(f"{one.path} is below a key that has a value itself")
        if isinstance(place.get(last), dict):
            raise TemplateError(f"{one.path} has a value, and keys below it")
        place[last] = one.value
    return tree


def base64_encode(value: str | Binary, *, urlsafe: bool = False) -> str:
    """In base64."""
    return (base64.urlsafe_b64encode if urlsafe else base64.b64encode)(_bytes(value)).decode()


def base64_decode(value: str, *, urlsafe: bool = False) -> str:
    """Text from base64."""
    try:
        return base64.b64decode(value.strip(), altchars=b"-_" if urlsafe else None, validate=True).decode()
    except ValueError as error:
        raise TemplateError("base64_decode: the value is not base64 of UTF-8 text") from error


def sha256(value: str | Binary) -> str:
    """SHA-256, as 64 hex digits."""
    return hashlib.sha256(_bytes(value)).hexdigest()


def _bytes(value: str | Binary) -> bytes:
    return bytes(value) if isinstance(value, Binary) else str(value).encode()


def from_json(value: str) -> Any:  # noqa: ANN401 (JSON)
    """Parse JSON."""
    try:
        return json.loads(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise TemplateError("from_json: the value is not JSON") from error


def to_json(value: Any, indent: int | None = None) -> str:  # noqa: ANN401 (whatever the template has)
    """As JSON, with sorted keys; on several lines with `indent`."""
    try:
        return json.dumps(
            value, indent=indent, sort_keys=True, ensure_ascii=False, default=_plain, allow_nan=False
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise TemplateError("to_json: the value cannot be written as JSON") from error


def from_yaml(value: str) -> Any:  # noqa: ANN401 (YAML)
    """Parse YAML, of plain types only."""
    import yaml  # noqa: PLC0415 (few templates need it)

    try:
        return yaml.load(value, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 (it is the safe one)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TemplateError("from_yaml: the value is not YAML") from error


def to_yaml(value: Any) -> str:  # noqa: ANN401 (as above)
    """As YAML, with sorted keys."""
    import yaml  # noqa: PLC0415 (as above)

    plain = json.loads(to_json(value))
    return str(yaml.dump(plain, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), allow_unicode=True))


def _plain(value: Any) -> Any:  # noqa: ANN401 (as above)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Binary):
        return str(value)  # which says what is wrong
    raise TypeError


def split(value: str, separator: str | None = None, most: int = -1) -> list[str]:
    """The parts of a text; without a separator, its words."""
    return value.split(separator, most)


@pass_environment
def join(
    environment: Environment, found: Iterable[Any], separator: str = "", attribute: str | None = None
) -> str:
    """The parts as one text; printed, each of them is checked by itself."""
    chosen = found if attribute is None else map(make_attrgetter(environment, attribute), found)
    return Joined.of(chosen, separator)


def trim_prefix(value: str, prefix: str) -> str:
    """Without the prefix."""
    return value.removeprefix(prefix)


def trim_suffix(value: str, suffix: str) -> str:
    """Without the suffix."""
    return value.removesuffix(suffix)


def regex_replace(value: str, pattern: str, replacement: str = "") -> str:
    r"""Each match replaced; \1 is the first group."""
    return _pattern(pattern).sub(replacement, value)


def regex_search(value: str, pattern: str) -> str:
    """The first match, or its first group; "" if there is none."""
    found = _pattern(pattern).search(value)
    return "" if found is None else str(found[found.re.groups and 1] or "")


def regex_escape(value: str) -> str:
    """For use within a regular expression: each character means itself."""
    return re.escape(str(value))


def matches(value: str, pattern: str) -> bool:
    """Whether the whole text matches."""
    return _pattern(pattern).fullmatch(value) is not None


def _pattern(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise TemplateError(f"the regular expression is wrong: {error.msg}") from error


def ip(value: str) -> str:
    """The value if it is an IP address, as it is usually written; otherwise an error."""
    if packed_ipv4(value) is not None:
        return str(value)
    try:
        return str(ipaddress.ip_address(value))
    except ValueError as error:
        raise TemplateError("ip: the value is not an IP address") from error


def is_ip(value: object) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(str(value))
    except ValueError:
        return False
    return True


def host_port(found: ServiceInstance, port: str = "") -> str:
    """Address and port of an instance, such as 10.0.0.1:80 or [2001:db8::1]:80; an error without an IP."""
    number = found.ports.get(port, 0) if port else found.port
    if number not in _PORTS:
        raise TemplateError(f"host_port: an instance of {found.name} has no port{f' {port}' if port else ''}")
    address = ip(found.address)
    return f"[{address}]:{number}" if ":" in address else f"{address}:{number}"


def contains(found: Sequence[Any] | Mapping[str, Any], one: Any) -> bool:  # noqa: ANN401 (as above)
    """Whether it is among them."""
    return one in found


def dirname(value: str) -> str:
    """What is before the last slash."""
    return value.rpartition("/")[0]


def basename(value: str) -> str:
    """What is behind the last slash."""
    return value.rpartition("/")[2]


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    one.__name__: one
    for one in (
        with_tag, with_meta, by_tag, by_meta, by_key, explode, base64_encode, base64_decode, sha256,
        from_json, to_json, from_yaml, to_yaml, split, trim_prefix, trim_suffix, regex_replace, regex_search,
        regex_escape, join, ip, host_port, dirname, basename, quote, raw, map_key,
    )
}  # fmt: skip
TESTS: Final[dict[str, Callable[..., bool]]] = {"ip": is_ip, "matches": matches, "contains": contains}
