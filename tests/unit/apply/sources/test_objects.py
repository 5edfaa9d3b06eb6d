"""Object stores: who signs, with what, and what of it may be told."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from agentd.apply.process import run
from agentd.apply.sources import objects
from agentd.apply.sources.allowance import Allowance
from agentd.apply.sources.objects import environment, signer
from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Completed
from agentd.reference import parse_location
from agentd.source_options import S3Options

OBJECT = parse_location("s3://bucket/a/b.txt")


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Let the signing program print `answer.output`; `answer.asked` is what it was given."""
    said = SimpleNamespace(output=b"", asked={}, argv=[], env={})

    def fake(argv: list[str], *, stdin: bytes, env: dict[str, str], **_: object) -> Completed:
        said.argv, said.asked, said.env = argv, json.loads(stdin), env
        return Completed(0, said.output, 0.0)

    monkeypatch.setattr(objects, "run", fake)
    return said


def test_the_answer_is_the_last_line(answer: SimpleNamespace, allowance: Allowance) -> None:
    """What stands before it are warnings of the library's."""
    answer.output = b'a warning\n{"url": "https://s/b?sig", "headers": {"A": "b"}}\n'
    assert signer(OBJECT, S3Options(region="eu"))(allowance) == ("https://s/b?sig", {"A": "b"})
    assert answer.asked["bucket"] == "bucket"
    assert answer.asked["key"] == "a/b.txt"
    assert answer.asked["region"] == "eu"
    assert not any("bucket" in word for word in answer.argv)


@pytest.mark.parametrize("temporary, raised", [(True, TemporaryError), (False, PermanentError)])
def test_an_error_is_passed_on(
    answer: SimpleNamespace, allowance: Allowance, raised: type[Exception], *, temporary: bool
) -> None:
    """As what the program says it is."""
    answer.output = json.dumps({"error": "NoCredentialsError", "temporary": temporary}).encode()
    with pytest.raises(raised, match=r"s3://bucket/a/b\.txt: cannot be signed for: NoCredentialsError"):
        signer(OBJECT, S3Options())(allowance)


@pytest.mark.parametrize("output", [b"", b"SECRET", b"[]", b"{}", b'{"url": "SECRET"}', b'"SECRET"', b"\xff"])
def test_nonsense_is_not_quoted(answer: SimpleNamespace, allowance: Allowance, output: bytes) -> None:
    """It may be half a token."""
    answer.output = output
    with pytest.raises(TemporaryError, match="did not answer") as caught:
        signer(OBJECT, S3Options())(allowance)
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
    done = run([sys.executable, "-I", "-m", "agentd.signer"], stdin=json.dumps(asked).encode(), timeout=30)
    assert json.loads(done.output) == {
        "url": "https://storage.googleapis.com/download/storage/v1/b/b/o/a%20b?alt=media",
        "headers": {},
    }
