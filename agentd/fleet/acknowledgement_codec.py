"""The acknowledgement as a JSON document in Consul's KV store (`nodes/NODE`): rendered and parsed.

Owns the form and its limits, in both directions: anybody with write access may have written anything. Does no
I/O.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from agentd.errors import AgentdError
from agentd.fleet.acknowledgement import FORMAT, MOST_FAILED, Acknowledgement, HandlerReport, Name, Tried
from agentd.printable import printable

T = TypeVar("T")
LARGEST: Final = 32 * 1024
"""Most bytes of a document."""
_TEXT: Final = 400  # characters of a reason
_SHORT: Final = 80  # characters of one of many
_NAME: Final = 128  # characters of a name, digest or version
_PAST: Final = 640  # characters of a handler's states
_MOST: Final = 256  # names, handlers and the like
_REPORT: Final = 2048  # bytes of what one handler reports, as JSON
_NONE: Final[Mapping[str, Any]] = {}
_DEEPEST: Final = 6  # levels of what a handler reports
_HIGHEST: Final = 9_000_000_000_000_000  # a higher number cannot be a time in milliseconds
_LATEST: Final = 1e11  # unix seconds


class DocumentError(AgentdError):
    """A malformed acknowledgement; the text names the malformed part, but quotes nothing of it."""


# ---------------------------------------------------------------- to bytes


def render(document: Acknowledgement) -> bytes:
    """Render as JSON of at most `LARGEST` bytes: cut long texts and, if need be, drop reports and details.

    Raises:
        DocumentError: it is too large even then.
    """
    data = _compact(_body(document, lean=False))
    if len(data) > LARGEST:
        data = _compact(_body(document, lean=True))
    if len(data) <= LARGEST:
        return data
    raise DocumentError(
        f"the acknowledgement has {len(data)} bytes, more than {LARGEST}: the node takes too many names"
    )


def _body(document: Acknowledgement, *, lean: bool) -> dict[str, Any]:
    return _given(
        format=document.format,
        agentd=document.agentd[:_NAME],
        node_id=document.node_id[:_NAME],
        boot=document.boot[:_NAME],
        written=round(document.written, 3),
        instance=document.instance[:_NAME],
        datacenter=document.datacenter[:_NAME],
        generation=document.generation,
        names={name: _name(one, lean=lean) for name, one in document.names.items()},
        handlers={name: _handler(one, lean=lean) for name, one in document.handlers.items()},
        options=dict(document.options),
        drift={name: _cut(text) for name, text in document.drift.items()},
        not_served=_cut(document.not_served),
        stopped=None if document.stopped is None else round(document.stopped, 3),
        paused=_cut(document.paused),
    )


def _name(one: Name, *, lean: bool) -> dict[str, Any]:
    since = one.incomplete_since
    return {
        "live": one.live,
        **_given(
            tried=one.tried and _tried(one.tried, _SHORT if lean else _TEXT),
            provisional=one.provisional,
            failed=[] if lean else [_tried(each, _SHORT) for each in one.failed[:MOST_FAILED]],
            waits=_cut(one.waits, _SHORT if lean else _TEXT),
            held=one.held,
        ),
        **({} if since is None else {"incomplete_since": since}),
    }


def _tried(one: Tried, most: int) -> dict[str, Any]:
    return _given(num=one.num, outcome=one.outcome, reason=_cut(one.reason, most))


def _handler(one: HandlerReport, *, lean: bool) -> dict[str, Any]:
    small = not lean and len(_compact(dict(one.report))) <= _REPORT
    return _given(
        names=list(one.names),
        fingerprint=one.fingerprint and one.fingerprint[:_NAME],
        past="" if lean else one.past[:_PAST],
        outcome=one.outcome,
        at=None if one.at is None else round(one.at, 3),
        drift=_cut(one.drift, _SHORT if lean else _TEXT),
        report=dict(one.report) if small else {},
    )


def _given(**values: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
    """The values that are not empty."""
    return {name: value for name, value in values.items() if value not in (None, "", 0, [], {})}


def _cut(text: str, most: int = _TEXT) -> str:
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def _compact(value: Any) -> bytes:  # noqa: ANN401 (JSON)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


# ---------------------------------------------------------------- from bytes


def parse(data: bytes) -> Acknowledgement:
    """Parse a document that anybody may have written; control characters in its texts are escaped.

    Of a document in a newer format, the known parts are read; parts that have changed there are left out, and
    listed in `unread`.

    Raises:
        DocumentError: it is not a document, or a part of it is malformed.
    """
    if len(data) > LARGEST:
        raise DocumentError(f"it has {len(data)} bytes, more than {LARGEST}")
    try:
        body = json.loads(data, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise DocumentError("it is not JSON") from error
    return _Reader().document(body)


class _Reader:
    """Parses one document; in a newer format, malformed parts count as missing."""

    def __init__(self) -> None:
        self._newer = False
        self._unread: list[str] = []

    def document(self, top: object) -> Acknowledgement:
        if not isinstance(top, dict):
            raise DocumentError("it is not an object")
        form = self._get(top, "", "format", _number, 0)
        if not form:
            raise DocumentError("it has no format")
        self._newer = form > FORMAT
        return Acknowledgement(
            agentd=self._get(top, "", "agentd", _word, ""),
            node_id=self._get(top, "", "node_id", _word, ""),
            boot=self._get(top, "", "boot", _word, ""),
            written=self._get(top, "", "written", _time, 0.0),
            instance=self._get(top, "", "instance", _word, ""),
            datacenter=self._get(top, "", "datacenter", _word, ""),
            generation=self._get(top, "", "generation", _number, 0),
            names=self._each(top, "names", self._name),
            handlers=self._each(top, "handlers", self._handler),
            options=self._each(top, "options", self._leaf(_word, "")),
            drift=self._each(top, "drift", self._leaf(_text, "")),
            not_served=self._get(top, "", "not_served", _text, ""),
            stopped=self._get(top, "", "stopped", _maybe(_time), None),
            paused=self._get(top, "", "paused", _text, ""),
            format=form,
            unread=tuple(self._unread),
        )

    def _name(self, holder: Mapping[str, Any], path: str, key: str) -> Name:
        place, body = f"{path}.{key}", self._get(holder, path, key, _object, _NONE)
        tried = self._get(body, place, "tried", _maybe(_object), None)
        return Name(
            live=self._get(body, place, "live", _maybe(_number), None),
            tried=None if tried is None else self._tried(tried, f"{place}.tried"),
            provisional=self._get(body, place, "provisional", _number, 0),
            incomplete_since=self._get(body, place, "incomplete_since", _maybe(_number), None),
            failed=self._failed(body, place) if "failed" in body else (),
            waits=self._get(body, place, "waits", _text, ""),
            held=self._get(body, place, "held", _truth, False),  # noqa: FBT003 (the default)
        )

    def _failed(self, body: Mapping[str, Any], place: str) -> tuple[Tried, ...]:
        nothing: tuple[Mapping[str, Any], ...] = ()
        found = self._get(body, place, "failed", _objects, nothing)
        read = [self._tried(one, f"{place}.failed[{at}]") for at, one in enumerate(found[:MOST_FAILED])]
        return tuple(one for one in read if one)

    def _tried(self, body: Mapping[str, Any], place: str) -> Tried | None:
        num = self._get(body, place, "num", _number, 0)
        if not num:
            return None
        outcome = self._get(body, place, "outcome", _word, "")
        return Tried(num, outcome, self._get(body, place, "reason", _text, ""))

    def _handler(self, holder: Mapping[str, Any], path: str, key: str) -> HandlerReport:
        place, body = f"{path}.{key}", self._get(holder, path, key, _object, _NONE)
        return HandlerReport(
            names=self._get(body, place, "names", _words, ()),
            fingerprint=self._get(body, place, "fingerprint", _maybe(_word), None),
            past=self._get(body, place, "past", _past, ""),
            outcome=self._get(body, place, "outcome", _word, ""),
            at=self._get(body, place, "at", _maybe(_time), None),
            drift=self._get(body, place, "drift", _text, ""),
            report=self._get(body, place, "report", _report, _NONE),
        )

    def _leaf(self, form: Callable[[object], T], default: T) -> Callable[[Mapping[str, Any], str, str], T]:
        return lambda holder, path, key: self._get(holder, path, key, form, default)

    def _each(
        self, top: Mapping[str, Any], name: str, read: Callable[[Mapping[str, Any], str, str], T]
    ) -> dict[str, T]:
        holder = self._get(top, "", name, _object, _NONE)
        return {_word(key): read(holder, name, key) for key in holder}

    def _get(
        self, holder: Mapping[str, Any], path: str, name: str, form: Callable[[object], T], default: T
    ) -> T:
        if name not in holder:
            return default
        try:
            return form(holder[name])
        except ValueError as error:
            place = printable(f"{path}.{name}" if path else name)
            if not self._newer:
                raise DocumentError(f"{place} cannot be read: {error}") from error
            self._unread.append(place)
            return default


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict) or len(value) > _MOST:
        raise ValueError("not a small object")
    return value


def _word(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")  # noqa: TRY004 (one kind of error for all that is wrong)
    return printable(value[:_NAME])[:_NAME]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")  # noqa: TRY004 (likewise)
    return printable(value[:_TEXT])[:_TEXT]


def _past(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")  # noqa: TRY004 (likewise)
    return printable(value[:_PAST])[:_PAST]


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("neither true nor false")  # noqa: TRY004 (likewise)
    return value


def _report(value: object) -> Mapping[str, Any]:
    plain: Mapping[str, Any] = _plain(_object(value))
    return plain


def _objects(value: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise ValueError("not a short list")
    return tuple(map(_object, value))


def _words(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise ValueError("not a short list")
    return tuple(map(_word, value))


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < _HIGHEST:
        raise ValueError("not a number in its range")
    return value


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        raise ValueError("not a time")
    return float(value)


def _maybe(form: Callable[[object], T]) -> Callable[[object], T | None]:
    """`form`, but `null` is allowed."""
    return lambda value: None if value is None else form(value)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:20]} is not JSON")
    return value


def _plain(value: object, depth: int = _DEEPEST) -> Any:  # noqa: ANN401 (JSON)
    """What a handler reports, with control characters escaped."""
    if depth < 0:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return [_plain(one, depth - 1) for one in value[:_MOST]]
    if isinstance(value, dict):
        return {_word(key): _plain(one, depth - 1) for key, one in _object(value).items()}
    return value
