"""Transfers: what breaks off is taken up again, and what is put together is one file of the server's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.backoff import Backoff
from agentd.deadline import Deadline
from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Known
from agentd.http import ConnectError
from agentd.sources.download import Download
from agentd.sources.options import SourceOptions
from agentd.sources.request import Request
from agentd.sources.transfer import Transfer
from agentd.testing.staging import RecordedLog
from tests.unit.sources.scripted import Scripted, ScriptedRequest

NewDownload = Callable[..., Download]
BODY = bytes(range(256)) * 4
WHOLE = {"Content-Length": str(len(BODY)), "ETag": '"one"'}
OPTIONS = SourceOptions(attempts=4)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two attempts no time passes."""
    monkeypatch.setattr(Backoff, "delay", lambda *_: 0.0)


@pytest.fixture
def run(new_download: NewDownload, deadline: Deadline) -> Callable[..., tuple[Transfer, bool]]:
    """Run a transfer: `run(request, known)`; returns it and whether something was fetched."""

    def run(request: Request, known: Known | None = None, max_size: int = 100_000) -> tuple[Transfer, bool]:
        transfer = Transfer("https://h/a", request, new_download(max_size=max_size), OPTIONS, deadline)
        return transfer, transfer.run(known or Known())

    return run


Run = Callable[..., tuple[Transfer, bool]]


def _half(headers: Mapping[str, str] = WHOLE) -> Scripted:
    return Scripted(body=BODY[:500], headers=headers, breaks=True)


def _rest(start: int, **headers: str) -> Scripted:
    given = {"Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}", "ETag": '"one"'}
    return Scripted(206, BODY[start:], {**given, **headers})


def test_a_whole_answer_is_taken(run: Run) -> None:
    """With what the server says of it."""
    headers = {**WHOLE, "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", "Content-Encoding": "GZIP"}
    transfer, fetched = run(ScriptedRequest([Scripted(body=BODY, headers=headers)]))
    assert fetched
    assert transfer.download.path.read_bytes() == BODY
    assert transfer.known == Known('"one"', "Mon, 01 Jan 2024 00:00:00 GMT")
    assert transfer.encoding == "gzip"


def test_what_breaks_off_is_taken_up_where_it_broke(run: Run) -> None:
    """With a range, and only if the file is still the same."""
    request = ScriptedRequest([_half(), _rest(500)])
    transfer, _ = run(request)
    assert request.asked[1] == {"Range": "bytes=500-", "If-Range": '"one"'}
    assert transfer.download.path.read_bytes() == BODY


def test_a_file_that_changed_meanwhile_comes_from_its_beginning(run: Run) -> None:
    """If-Range makes the server send all of the new one."""
    other = Scripted(body=b"other", headers={"Content-Length": "5", "ETag": '"two"'})
    transfer, _ = run(ScriptedRequest([_half(), other]))
    assert transfer.download.path.read_bytes() == b"other"
    assert transfer.known.etag == '"two"'


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "1024"},
        {"Content-Length": "1024", "ETag": 'W/"weak"'},
        {**WHOLE, "Accept-Ranges": "none"},
        {
            "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT",
            "Date": "Mon, 01 Jan 2024 00:00:00 GMT",
            "Content-Length": "1024",
        },
        {"Last-Modified": "yesterday", "Date": "today", "Content-Length": "1024"},
    ],
)
def test_without_a_strong_validator_it_begins_anew(run: Run, headers: dict[str, str]) -> None:
    """Two halves of two files must never be put together."""
    request = ScriptedRequest([_half(headers), Scripted(body=BODY, headers=WHOLE)])
    transfer, _ = run(request)
    assert "Range" not in request.asked[1]
    assert transfer.download.path.read_bytes() == BODY


def test_a_date_that_is_old_enough_is_a_strong_validator(run: Run) -> None:
    """RFC 9110, 8.8.2.2: a second before the answer."""
    modified = "Mon, 01 Jan 2024 00:00:00 GMT"
    headers = {"Last-Modified": modified, "Date": "Mon, 01 Jan 2024 00:00:01 GMT", "Content-Length": "1024"}
    request = ScriptedRequest([_half(headers), _rest(500, ETag="")])
    run(request)
    assert request.asked[1]["If-Range"] == modified


@pytest.mark.parametrize(
    "wrong",
    [
        _rest(499),
        _rest(500, **{"Content-Range": "bytes 500-1023/1025"}),
        _rest(500, **{"Content-Range": "bytes 500-700/1024"}),
        _rest(500, **{"Content-Range": "500"}),
        _rest(500, ETag='"two"'),
        Scripted(416),
    ],
)
def test_a_range_that_does_not_fit_is_thrown_away(run: Run, wrong: Scripted) -> None:
    """Another place, another length, another file: begin anew."""
    request = ScriptedRequest([_half(), wrong, Scripted(body=BODY, headers=WHOLE)])
    transfer, _ = run(request)
    assert "Range" not in request.asked[2]
    assert transfer.download.path.read_bytes() == BODY


def test_a_body_of_another_length_is_not_believed(run: Run) -> None:
    """What a range leaves over is asked for again."""
    short = Scripted(206, BODY[500:600], _rest(500).headers)
    transfer, _ = run(ScriptedRequest([_half(), short, _rest(600)]))
    assert transfer.download.path.read_bytes() == BODY


def test_it_gives_up_in_the_end(run: Run) -> None:
    """After `attempts`, with where it stands."""
    with pytest.raises(TemporaryError, match="broke off 4 times, last after 500 bytes"):
        run(ScriptedRequest([_half(), *[Scripted(206, b"", _rest(500).headers, breaks=True)] * 3]))


def test_who_does_not_answer_at_all_is_not_asked_again(run: Run) -> None:
    """The worker retries; only what has begun is taken up here."""
    request = ScriptedRequest([ConnectError("nothing is listening there")])
    with pytest.raises(TemporaryError, match="nothing is listening there"):
        run(request)
    assert len(request.asked) == 1


def test_a_payload_that_did_not_change_is_not_fetched(run: Run) -> None:
    """A conditional request, and 304."""
    request = ScriptedRequest([Scripted(304)])
    _, fetched = run(request, Known('"one"', "Mon, 01 Jan 2024 00:00:00 GMT"))
    assert not fetched
    assert request.asked == [{"If-None-Match": '"one"', "If-Modified-Since": "Mon, 01 Jan 2024 00:00:00 GMT"}]


def test_unchanged_is_not_believed_of_something_else(run: Run) -> None:
    """A 304 that names another ETag than was asked about is about another payload: all of it is fetched."""
    request = ScriptedRequest([Scripted(304, headers={"ETag": '"two"'}), Scripted(200, b"all")])
    _, fetched = run(request, Known('"one"'))
    assert fetched
    assert request.asked == [{"If-None-Match": '"one"'}, {}]


def test_unchanged_may_name_the_same_thing_weakly(run: Run) -> None:
    """If-None-Match compares weakly (RFC 9110, 13.1.2)."""
    _, fetched = run(ScriptedRequest([Scripted(304, headers={"ETag": 'W/"one"'})]), Known('"one"'))
    assert not fetched


@pytest.mark.parametrize("status", [204, 206, 304])
def test_an_answer_to_another_question_is_none(run: Run, status: int) -> None:
    """No condition and no range was in what was asked."""
    with pytest.raises(TemporaryError, match=f"answered {status}"):
        run(ScriptedRequest([Scripted(status)]))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_no_is_final(run: Run, status: int) -> None:
    """Asking again does not help."""
    with pytest.raises(PermanentError, match=f"answered {status}"):
        run(ScriptedRequest([Scripted(status)]))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_not_now_is_for_later(run: Run, status: int) -> None:
    """The server's own word on when is passed on."""
    with pytest.raises(TemporaryError, match=f"answered {status}") as caught:
        run(ScriptedRequest([Scripted(status, headers={"Retry-After": "17"})]))
    assert caught.value.retry_after == 17.0


def test_what_is_announced_too_large_is_not_begun(run: Run) -> None:
    """Nothing of it is read."""
    with pytest.raises(PermanentError, match="1024 bytes"):
        run(ScriptedRequest([Scripted(body=BODY, headers=WHOLE)]), max_size=1000)


def test_what_turns_out_too_large_is_cut(run: Run) -> None:
    """Without an announced length the limit holds as well."""
    with pytest.raises(PermanentError, match="at most 1000"):
        run(ScriptedRequest([Scripted(body=BODY)]), max_size=1000)


@given(cuts=st.lists(st.integers(0, len(BODY)), max_size=6), ranges=st.booleans())
def test_however_it_breaks_the_file_is_whole(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], *, ranges: bool
) -> None:
    """Any sequence of broken answers, by a server that knows ranges or not, ends in the same bytes."""

    def serve(cut: int | None) -> Callable[[Mapping[str, str]], Scripted]:
        def answer(headers: Mapping[str, str]) -> Scripted:
            asked = headers.get("Range", "bytes=0-")
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if ranges else 0
            whole = _rest(start) if start else Scripted(body=BODY, headers=WHOLE)
            body = whole.body if cut is None else whole.body[: max(0, cut - start)]
            return Scripted(whole.status, body, whole.headers, breaks=cut is not None)

        return answer

    request = ScriptedRequest([*(serve(cut) for cut in cuts), serve(None)])
    path = tmp_path_factory.mktemp("cuts") / "download"
    with (
        pytest.MonkeyPatch.context() as patch,
        Download(path, "test", max_size=9999, digest=None) as download,
    ):
        patch.setattr(Backoff, "delay", lambda *_: 0.0)
        deadline = Deadline("test", 30.0, log=RecordedLog())
        Transfer("test", request, download, SourceOptions(attempts=9), deadline).run(Known())
    assert path.read_bytes() == BODY
