"""Object stores on loopback: moto's S3 server, and an emulator of Google Cloud Storage."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from urllib.parse import quote

import urllib3

from tests.servers.ports import free_port
from tests.servers.process import ServerProcess


class ObjectStore:
    """One store.

    Args:
        directory: for its log.
        argv: the module and its arguments; {port} is filled in.
        scheme: "s3" or "gs", the way of speaking to it.
    """

    def __init__(self, directory: Path, scheme: str, *argv: str) -> None:
        self.port = free_port()
        self.scheme = scheme
        program = [sys.executable, "-m", *(word.format(port=self.port) for word in argv)]
        self.process = ServerProcess(program, directory / f"{scheme}.log")

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> ObjectStore:
        """Start it and wait until it answers."""
        self.process.start(lambda: self._ask("GET", "/")[0] > 0)
        return self

    def stop(self) -> None:
        """Stop it."""
        self.process.stop()

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket."""
        if self.scheme == "s3":
            status, _ = self._ask("PUT", f"/{bucket}")
        else:
            status, _ = self._ask(
                "POST",
                "/storage/v1/b?project=test",
                json.dumps({"name": bucket}).encode(),
                "application/json",
            )
        assert status == 200, status

    def put(self, bucket: str, key: str, body: bytes) -> None:
        """Store an object."""
        if self.scheme == "s3":
            status, _ = self._ask("PUT", f"/{bucket}/{quote(key)}", body)
        else:
            name = quote(key, safe="")
            status, _ = self._ask(
                "POST", f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}", body
            )
        assert status == 200, status

    def _ask(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/octet-stream"
    ) -> tuple[int, bytes]:
        try:
            with urllib3.HTTPConnectionPool("127.0.0.1", self.port, timeout=30, retries=False) as pool:
                answer = pool.request(method, path, body=body, headers={"Content-Type": kind})
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(str(error)) from error
        return answer.status, answer.data


def s3_server(directory: Path) -> ObjectStore:
    """Moto's server, with no bucket yet."""
    return ObjectStore(directory, "s3", "moto.server", "-H", "127.0.0.1", "-p", "{port}")


def gcs_server(directory: Path) -> ObjectStore:
    """An emulator that forgets everything, with no bucket yet."""
    return ObjectStore(
        directory,
        "gs",
        *("gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", "{port}", "--in-memory"),
    )
