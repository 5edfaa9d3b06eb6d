"""`s3:` and `gs:` references: the signed URL and headers with which one object is requested over HTTP.

The provider's library finds the credentials and signs, in a short-lived process (`signer.py`); the transfer
is the same as for https, with the same limits.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Final

from agentd.deadline import Deadline
from agentd.errors import PermanentError, TemporaryError
from agentd.process import run
from agentd.sources.options import ObjectStoreOptions, S3Options
from agentd.sources.reference import Location
from agentd.sources.signer import LIMITS

_TIMEOUT: Final = 60.0
_ANSWER: Final = 64 * 1024
_MOST: Final = 2**20  # bytes; the library may warn before the answer
_PASSED_ON: Final = ("AWS_", "GOOGLE_", "GCE_", "CLOUDSDK_")
_ALSO: Final = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"})
_KEYS: Final = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"})

Signed = tuple[str, Mapping[str, str]]


def signer(location: Location, options: ObjectStoreOptions) -> Callable[[Deadline], Signed]:
    """Return a function that signs a request for this object, anew at each call.

    It raises PermanentError if the library is not installed, TemporaryError if it finds no credentials or
    does not answer.
    """
    asked = {
        "scheme": location.scheme,
        "bucket": location.authority,
        "key": location.path,
        "endpoint": options.endpoint,
        "region": options.region if isinstance(options, S3Options) else None,
        "credentials_file": str(options.credentials_file) if options.credentials_file else None,
        "anonymous": options.anonymous,
    }
    env = environment(os.environ, own_file=options.credentials_file is not None)

    def sign(deadline: Deadline) -> Signed:
        done = run(
            [sys.executable, "-I", "-m", "agentd.sources.signer"],
            stdin=json.dumps(asked).encode(),
            env=env,
            timeout=min(_TIMEOUT, deadline.left()),
            check=False,
            keep=_ANSWER,
            most=_MOST,
            stop=deadline.stop,
        )
        if exceeded := LIMITS.exceeded(done.returncode):
            raise PermanentError(f"{location}: signing the request takes {exceeded}")
        return _read(str(location), done.output)

    return sign


def environment(inherited: Mapping[str, str], *, own_file: bool) -> dict[str, str]:
    """The variables by which the libraries find credentials; without keys if `credentials_file` is set."""
    return {
        name: value
        for name, value in inherited.items()
        if (name.startswith(_PASSED_ON) or name.upper() in _ALSO) and not (own_file and name in _KEYS)
    }


def _read(source: str, output: bytes) -> Signed:
    """Read the last line; the library's warnings come before it. None of it is ever quoted."""
    try:
        answer = json.loads(output.splitlines()[-1])
        if "error" not in answer:
            return str(answer["url"]), {str(name): str(value) for name, value in answer["headers"].items()}
        reason, temporary = str(answer["error"]), bool(answer["temporary"])
    except (ValueError, IndexError, KeyError, TypeError, AttributeError):
        raise TemporaryError(f"{source}: the signer did not answer") from None
    raise (TemporaryError if temporary else PermanentError)(
        f"{source}: the request cannot be signed: {reason}"
    )
