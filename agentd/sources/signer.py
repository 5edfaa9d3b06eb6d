"""A program that has an object store's own library sign the request for one object.

    python -m agentd.sources.signer   {"scheme": "s3", "bucket": ...} in, {"url": ..., "headers": {...}} out

It finds the credentials and signs; it fetches nothing. It is a separate program because the libraries take 9
to 26 MB that the daemon would never give back, and up to a second; and under limits, since what they read
comes from outside. Secrets pass only through pipes.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final
from urllib.parse import quote

from agentd.limits import Limits

LIMITS: Final = Limits(memory=2**30, cpu=30)
"""Not for a program that the library starts, such as AWS' `credential_process`: that is the operator's."""
_LIFETIME: Final = 300
"""Seconds for which a signature is valid; it is checked when the transfer begins, not while it lasts."""
_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_only"
_EXTRAS: Final = {"s3": "s3.txt", "gs": "gcs.txt"}


def main() -> int:
    """Sign one request; an error is an answer too: {"error": TEXT, "temporary": BOOL}."""
    asked = json.load(sys.stdin)
    try:
        url, headers = (_s3 if asked["scheme"] == "s3" else _gs)(asked)
        answer: dict[str, Any] = {"url": url, "headers": headers}
    except ImportError:
        listed = f"config/requirements/{_EXTRAS[asked['scheme']]}"
        answer = {"error": f"install what {listed} lists (docs/installing.md)", "temporary": False}
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever the library raises; its text holds no secret)
        answer = {"error": f"{type(error).__name__}: {str(error)[:300]}", "temporary": True}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _s3(asked: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Presign a GetObject request."""
    import botocore  # noqa: PLC0415 (only where it is used; it is an extra)
    import botocore.session  # noqa: PLC0415 (as above)
    from botocore.config import Config  # noqa: PLC0415 (as above)

    session = botocore.session.get_session()
    if asked["credentials_file"]:
        session.set_config_variable("credentials_file", asked["credentials_file"])
    region = asked["region"] or session.get_config_variable("region") or "us-east-1"
    config = Config(
        region_name=region, signature_version=botocore.UNSIGNED if asked["anonymous"] else "s3v4",
        s3={"addressing_style": "path" if asked["endpoint"] else "auto"},
    )  # fmt: skip
    client = session.create_client("s3", endpoint_url=asked["endpoint"], config=config)
    what = {"Bucket": asked["bucket"], "Key": asked["key"]}
    return client.generate_presigned_url("get_object", Params=what, ExpiresIn=_LIFETIME), {}


def _gs(asked: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """The URL of the object's contents, and a token for it."""
    endpoint = (asked["endpoint"] or "https://storage.googleapis.com").rstrip("/")
    url = f"{endpoint}/download/storage/v1/b/{asked['bucket']}/o/{quote(asked['key'], safe='')}?alt=media"
    if asked["anonymous"]:
        return url, {}
    import google.auth  # noqa: PLC0415 (only where it is used; it is an extra)
    import google.auth.transport.urllib3  # noqa: PLC0415 (as above)
    import urllib3  # noqa: PLC0415 (as above)

    if asked["credentials_file"]:
        found, _ = google.auth.load_credentials_from_file(asked["credentials_file"], scopes=[_SCOPE])
    else:
        found, _ = google.auth.default(scopes=[_SCOPE])
    with urllib3.PoolManager() as pool:
        found.refresh(google.auth.transport.urllib3.Request(pool))
    return url, {"Authorization": f"Bearer {found.token}"}


if __name__ == "__main__":
    with LIMITS.applied():
        sys.exit(main())
