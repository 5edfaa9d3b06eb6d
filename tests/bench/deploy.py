"""1 GiB archive over HTTP: fetch, verify, unpack, sync; against a script of curl, sha256sum, tar, rsync."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

import yaml

from tests.bench.memory import Peak
from tests.bench.rows import Row, p50, spread
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import Node
from tests.servers.tls import make_certificate
from tests.servers.waiting import wait_until

SIZE = 2**30
ROUNDS = 3
SIZES = (2_000, 20_000, 100_000, 1_000_000, 5_000_000)  # bytes of a file, each as often as the others
_SCRIPT = """\
#!/bin/bash
set -euo pipefail
tmp=$(mktemp -d -p {place})
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/tree"
curl -fsS -o "$tmp/app.tar" {url}
echo "{digest}  $tmp/app.tar" | sha256sum --check --quiet
tar -C "$tmp/tree" -xf "$tmp/app.tar"
rsync -a --delete "$tmp/tree/" {dest}/
"""


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Deploy on each side in turn, to a place where nothing is yet."""
    consul = ConsulAgent(directory)
    stack.callback(consul.stop)
    consul.start()
    node = Node(directory / "n", make_certificate(directory), number=1, consul=consul, handlers={})
    stack.callback(node.stop)
    shelf, dest = directory / "shelf", directory / "srv" / "app"
    shelf.mkdir()
    dest.parent.mkdir()
    directory.chmod(0o755)  # nginx's workers are not root
    digest = _make_archive(shelf / "app.tar")
    payload = _configure(node, shelf, dest, digest)
    node.start()
    script = directory / "deploy.sh"
    url = payload.replace("app.yml", "app.tar")
    theirs = directory / "srv" / "theirs"
    script.write_text(_SCRIPT.format(place=directory, url=url, digest=digest, dest=theirs))
    took: dict[str, list[float]] = {"ours": [], "theirs": []}
    with Peak(node.agentd.process.pid) as peak:
        for _ in range(ROUNDS):
            took["ours"].append(_ours(node, payload, dest))
            took["theirs"].append(_theirs(script, theirs))
    yield Row(
        f"1 GiB archive over HTTP: fetch, verify, unpack, sync, p50 of {ROUNDS}", "s", p50(took["ours"]),
        "curl + sha256sum + tar + rsync", p50(took["theirs"]), 1.1, spread(took["ours"]),
    )  # fmt: skip
    yield Row(
        "1 GiB archive over HTTP: resident memory, children included", "MB", peak.megabytes, "", None, 100
    )


def _make_archive(path: Path) -> str:
    """An archive of files of all sizes that do not compress; returns its SHA-256."""
    chance, number, left = random.Random(20141117), 0, SIZE
    blob = chance.randbytes(8_000_000)
    with tarfile.open(path, "w") as archive:
        while left > 0:
            info = tarfile.TarInfo(f"d{number % 40}/e{number % 7}/{number}")
            info.size, info.mtime = min(left, chance.choice(SIZES)), 1_700_000_000
            at = chance.randrange(len(blob) - info.size)
            archive.addfile(info, BytesIO(blob[at : at + info.size]))
            left, number = left - info.size, number + 1
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _configure(node: Node, shelf: Path, dest: Path, digest: str) -> str:
    """Have the node deploy what its nginx serves from `shelf`; returns the payload."""
    url = f"http://{node.nginx.address}:{node.nginx.port}/shelf"
    node.nginx.configure(server=f"location /shelf/ {{ alias {shelf}/; }}")
    entry = {
        "use": "deploy", "on": [{"event": "bench-deploy"}], "timeout": "5m",
        "options": {"dests": [str(dest)], "redeploy": True},
    }  # fmt: skip
    node.config |= {"handlers": {"deploy": entry}, "sources": {"allow": [f"{url}/"]}}
    node.configure()
    manifest = {"src": f"{url}/app.tar", "checksum": digest, "dest": str(dest)}
    (shelf / "app.yml").write_text(yaml.safe_dump(manifest))
    return f"{url}/app.yml"


def _ours(node: Node, payload: str, dest: Path) -> float:
    """From the event to its outcome."""
    shutil.rmtree(dest, ignore_errors=True)
    _quiet()
    began = time.monotonic()
    fired = node.fire("bench-deploy", payload.encode())
    entry = wait_until(lambda: _ended(node, fired), "the deploy", seconds=120, pause=0.02)
    took = time.monotonic() - began
    if entry != "applied":
        raise RuntimeError(f"the deploy ended as {entry}: {node.entry(fired)}")
    return took


def _ended(node: Node, fired: str) -> str | None:
    entry = node.entry(fired)
    return entry["outcome"] if entry else None


def _theirs(script: Path, dest: Path) -> float:
    shutil.rmtree(dest, ignore_errors=True)
    _quiet()
    began = time.monotonic()
    subprocess.run(["bash", str(script)], check=True, timeout=120)
    return time.monotonic() - began


def _quiet() -> None:
    """Have the disk finish what the other side left to it."""
    subprocess.run(["sync"], check=True, timeout=120)
