"""What `agentd handlers NAME` shows of a command line, and what it does not."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.commands.set_options import set_options

_WORDS = st.text(f"{string.ascii_letters}{string.digits}+/_.", min_size=12, max_size=40)


@pytest.mark.parametrize(
    "line",
    [
        "run --token {}",
        "run --token={} --verbose",
        "curl -H 'Authorization: Bearer {}' https://api.example/",
        "curl -u deploy:{} https://api.example/",
        "curl https://deploy:{}@api.example/",
        "curl https://api.example/?api_key={}&a=1",
        "API_TOKEN={} run",
        "mysql --password {} -e x",
    ],
)
@given(secret=_WORDS)
def test_a_secret_in_a_command_line_is_not_shown(line: str, secret: str) -> None:
    """As one line for a shell, or as a list of words."""
    whole = line.format(secret)

    assert secret not in set_options({"shell": whole})["shell"]
    assert secret not in set_options({"argv": [word.strip("'") for word in whole.split(" ")]})["argv"] or (
        "Bearer" in whole  # a header is one word of a list
    )
    assert secret not in set_options({"argv": ["-H", f"Authorization: Bearer {secret}"]})["argv"]


@pytest.mark.parametrize(
    "options",
    [
        {"argv": ["/usr/local/bin/tell", "--user", "me", "-v", "--file=a.txt", "https://example.com/a?b=1"]},
        {"shell": "systemctl reload haproxy && logger -t agentd 'done: ok'"},
        {"never_block": ["192.0.2.0/24", "2001:db8::/32"], "limits": {"memory": "1G"}, "keep": 12},
    ],
)
def test_all_else_is_shown_as_it_is(options: dict[str, Any]) -> None:
    """It is what the page is for."""
    assert {name: json.loads(text) for name, text in set_options(options).items()} == options


@pytest.mark.parametrize("options", [None, [], "text", 3])
def test_what_is_no_map_has_no_options(options: object) -> None:
    """The configuration may be wrong there."""
    assert set_options(options) == {}
