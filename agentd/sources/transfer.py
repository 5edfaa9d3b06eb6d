"""Fills a download over HTTP; a transfer that breaks off resumes where it broke, if the server allows.

RFC 9110 is the source: 14.2 (Range), 13.1.5 (If-Range), 14.4 (Content-Range), 8.8 (validators).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, NoReturn

from agentd.backoff import Backoff
from agentd.deadline import Deadline
from agentd.errors import TemporaryError
from agentd.handler import Known
from agentd.http import Body, ExchangeError
from agentd.sources import validators
from agentd.sources.download import Download
from agentd.sources.options import SourceOptions
from agentd.sources.request import Request, refusal, unanswered

_CHUNK: Final = 256 * 1024
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


class _MismatchError(ExchangeError):
    """The answer does not continue where the one before broke off."""


@dataclass
class Transfer:
    """The transfer of one payload.

    Attributes:
        encoding: the Content-Encoding of what came, "" for none.
        known: the validators that came with it.
    """

    source: str
    request: Request
    download: Download
    options: SourceOptions
    deadline: Deadline
    encoding: str = ""
    known: Known = field(default_factory=Known)
    _began: bool = False
    _total: int | None = None
    _validator: str = ""

    def run(self, known: Known) -> bool:
        """Fetch all of it into the download.

        Returns:
            False if the payload has not changed since it was `known`; then nothing was fetched.

        Raises:
            PermanentError: a status that refuses, a redirect that may not be followed, too many bytes.
            TemporaryError: no answer, a 5xx, a body that broke off too often, no time left.
        """
        backoff, attempt = Backoff(0.25, 10.0), 0
        while True:
            attempt += 1
            try:
                return self._try(known)
            except ExchangeError as error:
                self.deadline.left()  # it names the fetch's own time limit, and a stop
                if not self._began:
                    raise unanswered(self.source, error) from error
                if attempt >= self.options.attempts:
                    raise TemporaryError(
                        f"{self.source}: broke off {attempt} times, "
                        f"last after {self.download.size} bytes ({error})"
                    ) from error
            self.deadline.pause(backoff.delay(attempt))

    def _try(self, known: Known) -> bool:
        resumes = bool(self.download.size and self._validator)
        headers = self._range() if resumes else _conditions(known)
        with self.request.send(headers, self.options, self.deadline) as answer:
            if answer.status == HTTPStatus.NOT_MODIFIED and headers and not resumes:
                return self._unchanged(known, answer)
            if answer.status == HTTPStatus.PARTIAL_CONTENT and resumes:
                self._check_range(answer)
            elif answer.status == HTTPStatus.OK:
                self._begin(answer)
            elif answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and resumes:
                self._start_over("the server no longer has such a range")
            elif HTTPStatus.OK <= answer.status < HTTPStatus.BAD_REQUEST:
                raise TemporaryError(f"{self.source}: the server answered {answer.status} instead of 200")
            else:
                raise refusal(self.source, answer.status, answer.headers)
            self._take(answer)
        return True

    def _unchanged(self, known: Known, answer: Body) -> bool:
        """A 304 must be about what is known; one that names something else is not believed."""
        etag = answer.headers.get("ETag", "")
        if etag and known.etag and etag.removeprefix("W/") != known.etag.removeprefix("W/"):
            return self._try(Known())
        return False

    # ------------------------------------------------------------------ a new answer

    def _begin(self, answer: Body) -> None:
        """Start from the first byte."""
        self.download.restart()
        self._began = True
        headers = answer.headers
        self._total = answer.length
        self.encoding = headers.get("Content-Encoding", "").strip().lower()
        self.known = validators.known(headers)
        self._validator = validators.for_ranges(headers)
        if self._total is not None:
            self.download.expect(self._total)

    def _take(self, answer: Body) -> None:
        chunk = self.deadline.chunk(_CHUNK)
        while data := answer.read(chunk):
            self.download.write(data)
            self.deadline.received(len(data), self._total)
        if self._total is not None and self.download.size != self._total:
            raise _MismatchError("the body is not as long as was announced")

    # ------------------------------------------------------------------ resuming

    def _range(self) -> dict[str, str]:
        return {"Range": f"bytes={self.download.size}-", "If-Range": self._validator}

    def _check_range(self, answer: Body) -> None:
        """Check that a 206 continues exactly where we are, in the same file."""
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        same = answer.headers.get("ETag", self.known.etag) == self.known.etag
        if not found or int(found[1]) != self.download.size or not same:
            self._start_over("the server continues elsewhere")
        total = self._total if found[3] == "*" else int(found[3])
        if total != (self._total or total) or int(found[2]) + 1 != (total or int(found[2]) + 1):
            self._start_over("the file's length has changed, or only a part of the rest arrived")
        self._total = total

    def _start_over(self, why: str) -> NoReturn:
        self.download.restart()
        self._validator, self._total = "", None
        raise _MismatchError(why)


def _conditions(known: Known) -> dict[str, str]:
    headers = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
    return {name: value for name, value in headers.items() if value}
