"""What the pages show for other programs, given to those programs: nginx, HAProxy, nft and Consul."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.pages import Block, of, script, simple_commands
from tests.servers.equipment import NAMESPACE, require
from tests.servers.nginx import temporary_paths
from tests.servers.tls import Certificate

_NGINX = """\
pid {directory}/pid; error_log {directory}/log;
events {{}}
http {{
    {paths}
    {agentd}
    {http}
}}
"""
_TREE = {
    "agentd.conf": "map $remote_addr $agentd_blocked { default 0; }\n",
    "upstreams/api.conf": "upstream api { server 192.0.2.1:80; }\n",
    "maps/hosts.map": "www.example.org web;\n",
}
_CONTEXTS = ("proxy_pass ", "if (", "location ", "return ", "add_header ")
"""What begins the inside of a server."""


def run(*argv: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(argv, input=given, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("block", of("nginx"), ids=str)
def test_nginx_takes_it(block: Block, tmp_path: Path, certificate: Certificate) -> None:
    """In `http {}`, or in a server of it, beside a tree of agentd."""
    require("nginx")
    tree = tmp_path / "agentd" / "current"
    for name, text in _TREE.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    text = re.sub(r"(ssl_certificate) [^;]+", rf"\1 {certificate.certificate}", block.text)
    text = re.sub(r"(ssl_certificate_key) [^;]+", rf"\1 {certificate.key}", text)
    inside = text.lstrip().startswith(_CONTEXTS)
    needed = [
        f"include agentd/current/{name};"
        for name, word in (("agentd.conf", ""), ("upstreams/api.conf", "http://api"))
        if word in text and f"agentd/current/{name}" not in text
    ]
    frame = {
        "directory": tmp_path,
        "paths": temporary_paths(tmp_path),
        "agentd": "\n".join(needed),
        "http": f"server {{ listen 127.0.0.1:8080; {text} }}" if inside else text,
    }
    whole = "events {" in text or text.startswith(("user ", "worker_processes "))
    (tmp_path / "nginx.conf").write_text(text if whole else _NGINX.format(**frame))

    done = run(
        "nginx", "-t", "-p", str(tmp_path), "-e", str(tmp_path / "log"), "-c", str(tmp_path / "nginx.conf")
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", of("haproxy"), ids=str)
def test_haproxy_takes_it(block: Block, tmp_path: Path, certificate: Certificate) -> None:
    """As a configuration, or as lines of a frontend."""
    require("haproxy")
    text = block.text.replace("/run/haproxy", str(tmp_path)).replace(
        "/etc/haproxy/www.pem", f"{tmp_path}/www.pem"
    )
    text = re.sub(r"/etc/nginx/agentd/current/\w+", str(tmp_path), text)
    frontend = "" if "frontend" in text else "frontend www\n    bind 127.0.0.1:8080\n"
    (tmp_path / "www.pem").write_text(certificate.certificate.read_text() + certificate.key.read_text())
    key = run("openssl", "rand", "-base64", "48").stdout
    (tmp_path / "haproxy.keys").write_text(key * 3)
    (tmp_path / "haproxy.acl").write_text("198.51.100.7\n")
    frame = "defaults\n    mode http\n    timeout connect 1s\n    timeout client 1s\n    timeout server 1s\n"
    (tmp_path / "haproxy.cfg").write_text(frame + frontend + text)

    done = run("haproxy", "-c", "-f", str(tmp_path / "haproxy.cfg"))

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", of("nft"), ids=str)
def test_nft_takes_it(block: Block) -> None:
    """As a file of rules, which are checked and not loaded."""
    require("nft")

    done = run(*NAMESPACE, "nft", "-c", "-f", "-", given=block.text)

    assert done.returncode == 0, done.stderr


def test_consul_knows_its_commands() -> None:
    """Every `consul` command of the pages exists, with the options that are given."""
    require("consul")
    unknown = []
    for block in of("sh", "console"):
        for argv in simple_commands(script(block)):
            if argv[0] != "consul":
                continue
            verbs, options = _verbs(argv[1:]), [word for word in argv[1:] if re.match("--?[a-z]", word)]
            unknown += [
                f"{block}: {' '.join(argv)}: {option}"
                for option in options
                if f"-{option.lstrip('-').partition('=')[0]}" not in _help(verbs)
            ]
            if "Usage: consul" not in _help(verbs):
                unknown.append(f"{block}: {' '.join(argv)}")

    assert unknown == []


def _verbs(argv: list[str]) -> tuple[str, ...]:
    """The words that name the command: those that have a help of their own."""
    verbs: list[str] = []
    for word in argv:
        if not re.fullmatch("[a-z][a-z-]*", word) or f"consul {' '.join([*verbs, word])}" not in _help(
            (*verbs, word)
        ):
            break
        verbs.append(word)
    return tuple(verbs)


@cache
def _help(verbs: tuple[str, ...]) -> str:
    done = run("consul", *verbs, "-help")
    return done.stdout + done.stderr


def test_consul_takes_its_configuration(tmp_path: Path) -> None:
    """Services and checks that a page defines."""
    require("consul")
    (tmp_path / "data.json").write_text(f'{{"data_dir": "{tmp_path}/data"}}')
    for block in of("hcl", "json"):
        if not re.search(r'(?m)^\s*"?(services?|checks?)"?\s*[={:]', block.text):
            continue
        file = tmp_path / f"block.{block.language}"
        file.write_text(block.text)

        done = run("consul", "validate", str(tmp_path))

        assert done.returncode == 0, f"{block}: {done.stdout}{done.stderr}"
        file.unlink()
