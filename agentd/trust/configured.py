"""The keys that the configuration names: read from their files, and put to use.

The fleet keys are read when the configuration is loaded, so that a wrong one is noticed then. What verifies
messages is made later, where the first one has to be: it takes longer to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentd.errors import BadKey
from agentd.trust.key_files import read_key
from agentd.trust.keys import FleetKey, SecretKey, parse_public_key
from agentd.trust.options import TrustOptions

if TYPE_CHECKING:
    from agentd.trust.keyring import Keyring, Signer


def read_fleet_keys(options: TrustOptions) -> tuple[FleetKey, ...]:
    """Those of `fleet_keys`, in their order: the first one seals.

    Raises:
        BadKey: one cannot be used, is the key of a publisher, or is there twice.
    """
    keys: list[FleetKey] = []
    for place in options.fleet_keys:
        key = read_key(place)
        if not isinstance(key, FleetKey):
            raise BadKey(f"fleet_keys: {place} is the key of a publisher, not of a fleet")
        if key in keys:
            raise BadKey(f"fleet_keys: {place} is the same key as another one of them")
        keys.append(key)
    return tuple(keys)


def read_signer(options: TrustOptions) -> Signer | None:
    """What signs, and seals, as `signing_key` and `fleet_keys` say; None without a `signing_key`.

    Raises:
        BadKey: a key cannot be used, or is of the other kind.
    """
    from agentd.trust.keyring import Signer  # noqa: PLC0415 (as said)

    if options.signing_key is None:
        return None
    key = read_key(options.signing_key)
    if not isinstance(key, SecretKey):
        raise BadKey(f"signing_key: {options.signing_key} is the key of a fleet, not of a publisher")
    return Signer(key, next(iter(read_fleet_keys(options)), None), make_keyring(options, ()))


def make_keyring(options: TrustOptions, fleet_keys: Sequence[FleetKey]) -> Keyring:
    """What is believed, and what can be opened.

    Args:
        options: who may send what.
        fleet_keys: as they were read.
    """
    from agentd.trust.keyring import Keyring, Publisher  # noqa: PLC0415 (as said)

    publishers = [
        Publisher(name, tuple(map(parse_public_key, one.key)), one.may)
        for name, one in options.publishers.items()
    ]
    return Keyring(publishers, fleet_keys)
