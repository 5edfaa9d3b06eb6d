"""Fills a sink from a route: what breaks off is taken up again where it broke, if the server allows.

RFC 9110 is the source: 14.2 (Range), 13.1.5 (If-Range), 14.4 (Content-Range), 8.8 (validators).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, NoReturn

from agentd.apply.sources.allowance import Allowance
from agentd.apply.sources.route import Route
from agentd.apply.sources.sink import Sink
from agentd.apply.sources.web import BREAKAGES, Answer, explain, refusal
from agentd.backoff import Backoff
from agentd.errors import TemporaryError
from agentd.handler import Known
from agentd.source_options import SourceOptions

_CHUNK: Final = 256 * 1024
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_STRONG_AGE: Final = 1.0


class _BrokenOffError(OSError):
    """An answer does not go on where the one before broke off."""


@dataclass
class Transfer:
    """One payload on its way.

    Attributes:
        encoding: the Content-Encoding of what came, "" for none.
        known: what the server said of it.
    """

    source: str
    route: Route
    sink: Sink
    options: SourceOptions
    allowance: Allowance
    encoding: str = ""
    known: Known = field(default_factory=Known)
    _began: bool = False
    _total: int | None = None
    _validator: str = ""

    def run(self, known: Known) -> bool:
        """Fetch all of it into the sink.

        Returns:
            False if the payload is still the one that was known; then nothing was fetched.

        Raises:
            PermanentError: a status that says no, a redirect that may not be followed, too many bytes.
            TemporaryError: no answer, a 5xx, a body that broke off too often, no time left.
        """
        backoff, attempt = Backoff(0.25, 10.0), 0
        while True:
            attempt += 1
            try:
                return self._try(known)
            except BREAKAGES as error:
                self.allowance.left()  # the guard that cuts the connection at the end looks like a breakage
                if not self._began:
                    raise explain(self.source, error) from error
                if attempt >= self.options.attempts:
                    raise TemporaryError(
                        f"{self.source}: broke off {attempt} times, the last after {self.sink.size} bytes"
                    ) from error
            self.allowance.pause(backoff.delay(attempt))

    def _try(self, known: Known) -> bool:
        resumes = bool(self.sink.size and self._validator)
        headers = self._range() if resumes else _conditions(known)
        with self.route.ask(headers, self.options, self.allowance) as answer:
            if answer.status == HTTPStatus.NOT_MODIFIED and headers and not resumes:
                return False
            if answer.status == HTTPStatus.PARTIAL_CONTENT and resumes:
                self._check_range(answer)
            elif answer.status == HTTPStatus.OK:
                self._begin(answer)
            elif answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and resumes:
                self._start_over("the server has no such range any more")
            elif HTTPStatus.OK <= answer.status < HTTPStatus.BAD_REQUEST:
                raise TemporaryError(f"{self.source}: the server answered {answer.status} where 200 belongs")
            else:
                raise refusal(self.source, answer)
            self._take(answer)
        return True

    # -- a new answer

    def _begin(self, answer: Answer) -> None:
        """Take note of what comes from its first byte on."""
        self.sink.restart()
        self._began = True
        headers = answer.headers
        self._total = answer.number("Content-Length")
        self.encoding = headers.get("Content-Encoding", "").strip().lower()
        self.known = Known(headers.get("ETag", ""), headers.get("Last-Modified", ""))
        self._validator = "" if headers.get("Accept-Ranges") == "none" else _validator(headers)
        if self._total is not None:
            self.sink.expect(self._total)

    def _take(self, answer: Answer) -> None:
        chunk = self.allowance.chunk(_CHUNK)
        while data := answer.read(chunk):
            self.sink.write(data)
            self.allowance.received(len(data), self._total)
        self.allowance.left()  # a body without a length ends where the guard cuts the connection
        if self._total is not None and self.sink.size != self._total:
            raise _BrokenOffError("the body has another length than was announced")

    # -- going on

    def _range(self) -> dict[str, str]:
        return {"Range": f"bytes={self.sink.size}-", "If-Range": self._validator}

    def _check_range(self, answer: Answer) -> None:
        """See that a 206 goes on exactly where we are, in the same file."""
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        same = answer.headers.get("ETag", self.known.etag) == self.known.etag
        if not found or int(found[1]) != self.sink.size or not same:
            self._start_over("the server goes on elsewhere")
        total = self._total if found[3] == "*" else int(found[3])
        if total != (self._total or total) or int(found[2]) + 1 != (total or int(found[2]) + 1):
            self._start_over("the file's length has changed, or a part of what is left came")
        self._total = total

    def _start_over(self, why: str) -> NoReturn:
        self.sink.restart()
        self._validator, self._total = "", None
        raise _BrokenOffError(why)


def _conditions(known: Known) -> dict[str, str]:
    headers = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
    return {name: value for name, value in headers.items() if value}


def _validator(headers: Mapping[str, str]) -> str:
    """What If-Range may carry: a strong ETag, or a date a second older than the answer; "" for neither."""
    etag = headers.get("ETag", "")
    if etag:
        return "" if etag.startswith("W/") else etag
    modified = headers.get("Last-Modified", "")
    try:
        age = parsedate_to_datetime(headers.get("Date", "")) - parsedate_to_datetime(modified)
    except (ValueError, TypeError):
        return ""
    return modified if age.total_seconds() >= _STRONG_AGE else ""
