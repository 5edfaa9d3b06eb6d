"""`agentd import-watches`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from agentd.cli import main

WATCHES = {"watches": [{"type": "event", "name": "deploy", "args": ["/bin/deploy", "now"]}]}


def test_prints_yaml_of_the_handlers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of the Consul agent becomes the handlers map."""
    file = tmp_path / "consul.json"
    file.write_text(json.dumps(WATCHES))
    assert main(["import-watches", str(file)]) == 0
    assert capsys.readouterr().out.startswith("handlers:\n")


def test_reads_standard_input_and_prints_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --json the same comes as one document, `on` as a key and not as a boolean."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(WATCHES)))
    assert main(["import-watches", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    (entry,) = told["handlers"].values()
    assert entry == {
        "use": "command",
        "on": [{"event": "deploy"}],
        "options": {"argv": ["/bin/deploy", "now"]},
    }
    assert told["notes"] == []


def test_what_cannot_be_taken_over_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A watch without a program is named in a note, and the status tells a script."""
    file = tmp_path / "consul.json"
    file.write_text(json.dumps([{"type": "nodes"}]))
    assert main(["import-watches", "--json", str(file)]) == 1
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert "NOT imported" in note


@pytest.mark.parametrize(
    "content, said", [(None, "cannot be read"), (b"\xff", "not UTF-8"), (b"{", "not JSON")]
)
def test_unusable_file_is_one_clear_line(
    content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Absent, binary or cut-off files are told apart."""
    file = tmp_path / "consul.json"
    if content is not None:
        file.write_bytes(content)
    assert main(["import-watches", str(file)]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
