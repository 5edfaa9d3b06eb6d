"""The balancing method, wherever it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.nginx_upstream.balancing import Balancing


@pytest.mark.parametrize(
    "text, method",
    [
        ("upstream api {\n    zone api 1m;\n    ip_hash;\n    server 10.0.0.1:80;\n}\n", "ip_hash"),
        ("upstream api { hash $request_uri consistent; server 10.0.0.1:80; }", "hash"),
        ("upstream api {\n  random two least_conn;\n}", "random"),
        ("upstream api {\n  random;\n}", "random"),
        ("ip_hash;\nserver 10.0.0.1:80;\n", "ip_hash"),
        ("upstream api {\n    least_conn;\n    server 10.0.0.1:80;\n}\n", ""),
        ("upstream api {\n    # ip_hash;\n    server 10.0.0.1:80; # hash x;\n}\n", ""),
        ("upstream other { ip_hash; }\nupstream api { server hash.example:80; }", ""),
        ("upstream api { server 10.0.0.1:80; }\nupstream other { ip_hash; }", ""),
        ("", ""),
    ],
)
def test_the_method_is_read_from_the_block(text: str, method: str, tmp_path: Path) -> None:
    """However it came into the file; another upstream's does not count."""
    assert Balancing("api").method(text.encode(), tmp_path / "nginx.conf") == method


def test_the_method_is_read_from_the_block_that_includes_the_servers(tmp_path: Path) -> None:
    """It is in a file of the operator's, and read again once that has changed."""
    conf = tmp_path / "nginx.conf"
    servers = b"server 10.0.0.1:80;\n"
    text = "http { upstream other { random; } upstream api { %s include servers; } }\n"
    (tmp_path / "servers").write_bytes(servers)
    balancing = Balancing("api")

    methods = []
    for method in ("ip_hash;", "hash $request_uri consistent;", "least_conn;"):
        conf.write_text(text % method)
        methods.append(balancing.method(servers, conf))

    assert methods == ["ip_hash", "hash", ""]
