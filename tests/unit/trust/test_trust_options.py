"""The section `trust:` of the YAML file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agentd.config.sections import read_document, read_section
from agentd.errors import ConfigError
from agentd.trust.options import TrustOptions
from tests.unit.trust.samples import FLEET, OPS, OTHER


def read(tmp_path: Path, text: str) -> TrustOptions:
    """The section with this text."""
    path = tmp_path / "agentd.yaml"
    path.write_text(text)
    return read_section(read_document(path), "trust", TrustOptions)


def test_the_whole_section_is_read(tmp_path: Path) -> None:
    """A single key or name need not be a list."""
    found = read(
        tmp_path,
        f"""
trust:
  require: signed
  publishers:
    ops: {{key: {OPS.public.text}, may: deploy}}
    rotation: {{key: [{OTHER.public.text}], may: [tickets, blacklist-*]}}
  seal: [tickets]
  fleet_keys: [/etc/agentd/keys/fleet.key, credential:fleet-2]
  signing_key: /etc/agentd/keys/ops.key
""",
    )
    assert found.publishers["ops"].key == (OPS.public.text,)
    assert found.publishers["ops"].may == ("deploy",)
    assert found.publishers["rotation"].may == ("tickets", "blacklist-*")
    assert found.fleet_keys == ("/etc/agentd/keys/fleet.key", "credential:fleet-2")


def test_nothing_is_trusted_by_default(tmp_path: Path) -> None:
    """And nothing is required."""
    found = read(tmp_path, "trust: {}")
    assert (found.publishers, found.require, found.seal, found.signing_key) == ({}, None, (), None)


_OPS = f"publishers: {{ops: {{key: {OPS.public.text}, may: deploy}}}}"


@pytest.mark.parametrize(
    "text,problem",
    [
        ("publishers: {ops: {key: k4.public.x, may: deploy}}", "is not a public key"),
        (f"publishers: {{ops: {{key: {OPS.text}, may: deploy}}}}", "generate a new one"),
        (f"publishers: {{ops: {{key: {OPS.public.text}}}}}", "this field is required"),
        (f"publishers: {{ops: {{key: {OPS.public.text}, may: []}}}}", "this must not be empty"),
        ("publishers: {ops: {key: [], may: deploy}}", "this must not be empty"),
        (f"publishers: {{ops: {{key: {OPS.public.text}, may: '*deploy'}}}}", "must be a name that is kept"),
        (f"publishers: {{ops: {{key: {OPS.public.text}, may: 'a/b'}}}}", "must be a name that is kept"),
        (f"publishers: {{a b: {{key: {OPS.public.text}, may: deploy}}}}", "must have 1 to 64 letters"),
        (
            f"publishers: {{a: {{key: {OPS.public.text}, may: x}}, b: {{key: {OPS.public.text}, may: y}}}}",
            "two publishers have the same key",
        ),
        ("require: signed", "nobody could send anything"),
        ("require: everything", "signed"),
        (f"{_OPS}\n  seal: deploy", "`seal` needs `fleet_keys`"),
        (f"{_OPS}\n  fleet_keys: [/a]\n  seal: [deploy, tickets-*]", "`seal` has 'tickets-*'"),
        (f"{_OPS}\n  fleet_keys: [/a]\n  seal: deploys", "no publisher may send"),
        (f"{_OPS}\n  fleet_keys: [fleet.key]", "must be an absolute path"),
        (f"{_OPS}\n  fleet_keys: [/a, /a]", "the same file is there twice"),
        (f"{_OPS}\n  fleet_keys: [{FLEET.text}]", "must be an absolute path"),
        (f"{_OPS}\n  signing_key: {OPS.text}", "must be an absolute path"),
        ("publisher: {}", "unknown field"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    """No key is quoted, since it may be a secret one."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"trust:\n  {text}\n")
    said = str(caught.value)
    assert problem in said
    assert "agentd.yaml:" in said
    for secret in (OPS.text, FLEET.text):
        assert secret not in said


def output_of(*lines: str) -> str:
    """What these lines print, in a process of their own."""
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    ).stdout


def test_reading_the_section_costs_no_libsodium() -> None:
    """Whoever verifies nothing does not pay for it, though it parses messages."""
    found = output_of(
        "import sys, agentd.trust.message, agentd.trust.keyring, agentd.trust.key_files",
        "from agentd.trust.options import TrustOptions",
        f"ops = {{'key': '{OPS.public.text}', 'may': '*'}}",
        "TrustOptions.model_validate({'publishers': {'ops': ops}})",
        "print(*{name.partition('.')[0] for name in sys.modules} & {'nacl', 'cffi', '_cffi_backend'})",
    )
    assert found.split() == []


def test_without_pynacl_the_error_says_what_to_install() -> None:
    """Where a key is needed first."""
    found = output_of(
        "import sys",
        "sys.modules['nacl'] = None",
        "from agentd.errors import BadKey",
        "from agentd.trust.keys import new_secret_key",
        "try: new_secret_key()",
        "except BadKey as error: print(error)",
    )
    assert "install what config/requirements/trust.txt lists" in found
