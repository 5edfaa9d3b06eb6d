"""Object stores: who signs, with what, and what of it may be told."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from agentd.deadline import Deadline
from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Completed
from agentd.limits import OUT_OF_MEMORY
from agentd.process import run
from agentd.sources import object_store
from agentd.sources.object_store import environment, signer
from agentd.sources.options import S3Options
from agentd.sources.reference import parse_location

OBJECT = parse_location("s3://bucket/a/b.txt")


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Let the signing program print `answer.output`; `answer.asked` is what it was given."""
    said = SimpleNamespace(output=b"", asked={}, argv=[], env={})

    def fake(argv: list[str], *, stdin: bytes, env: dict[str, str], **_: object) -> Completed:
        said.argv, said.asked, said.env = argv, json.loads(stdin), env
        return Completed(0, said.output, 0.0)

    monkeypatch.setattr(object_store, "run", fake)
    return said


def test_the_answer_is_the_last_line(answer: SimpleNamespace, deadline: Deadline) -> None:
    """What stands before it are warnings of the library's."""
    answer.output = b'a warning\n{"url": "https://s/b?sig", "headers": {"A": "b"}}\n'
    assert signer(OBJECT, S3Options(region="eu"))(deadline) == ("https://s/b?sig", {"A": "b"})
    assert answer.asked["bucket"] == "bucket"
    assert answer.asked["key"] == "a/b.txt"
    assert answer.asked["region"] == "eu"
    assert not any("bucket" in word for word in answer.argv)


@pytest.mark.parametrize("temporary, raised", [(True, TemporaryError), (False, PermanentError)])
def test_an_error_is_passed_on(
    answer: SimpleNamespace, deadline: Deadline, raised: type[Exception], *, temporary: bool
) -> None:
    """As what the program says it is."""
    answer.output = json.dumps({"error": "NoCredentialsError", "temporary": temporary}).encode()
    with pytest.raises(raised, match=r"txt: the request cannot be signed: NoCredentialsError"):
        signer(OBJECT, S3Options())(deadline)


def test_a_signer_that_needs_too_much_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, deadline: Deadline
) -> None:
    """To sign is a refusal once it hits a limit."""
    monkeypatch.setattr(object_store, "run", lambda *_, **__: Completed(OUT_OF_MEMORY, b"", 0.0))
    with pytest.raises(PermanentError, match="signing the request takes more than 1024 MB of memory"):
        signer(OBJECT, S3Options())(deadline)


@pytest.mark.parametrize("output", [b"", b"SECRET", b"[]", b"{}", b'{"url": "SECRET"}', b'"SECRET"', b"\xff"])
def test_nonsense_is_not_quoted(answer: SimpleNamespace, deadline: Deadline, output: bytes) -> None:
    """It may be half a token."""
    answer.output = output
    with pytest.raises(TemporaryError, match="did not answer") as caught:
        signer(OBJECT, S3Options())(deadline)
    assert "SECRET" not in str(caught.value)


def test_only_what_finds_credentials_is_passed_on() -> None:
    """The daemon's other variables are none of the library's business."""
    inherited = {
        "AWS_PROFILE": "p",
        "AWS_SECRET_ACCESS_KEY": "k",
        "GOOGLE_APPLICATION_CREDENTIALS": "f",
        "https_proxy": "x",
        "CONSUL_HTTP_TOKEN": "t",
    }
    assert set(environment(inherited, own_file=False)) == set(inherited) - {"CONSUL_HTTP_TOKEN"}


def test_a_credentials_file_of_ours_wins() -> None:
    """Keys in the environment would take precedence in the library."""
    inherited = {
        "AWS_PROFILE": "p",
        "AWS_SECRET_ACCESS_KEY": "k",
        "AWS_ACCESS_KEY_ID": "i",
        "AWS_SESSION_TOKEN": "t",
    }
    assert environment(inherited, own_file=True) == {"AWS_PROFILE": "p"}


def test_the_program_runs_as_installed() -> None:
    """`-I`: whatever lies in the working directory is not imported."""
    asked = {
        "scheme": "gs",
        "bucket": "b",
        "key": "a b",
        "endpoint": None,
        "credentials_file": None,
        "anonymous": True,
    }
    done = run(
        [sys.executable, "-I", "-m", "agentd.sources.signer"], stdin=json.dumps(asked).encode(), timeout=120
    )
    assert json.loads(done.output) == {
        "url": "https://storage.googleapis.com/download/storage/v1/b/b/o/a%20b?alt=media",
        "headers": {},
    }
