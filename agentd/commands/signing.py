"""Who signs what `agentd publish` and `agentd keys resign` write, and which earlier messages are believed.

Owns what is refused before anything is written: a message that this host's own section `trust:` would not
accept. Keys are read from their files, and never shown.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from agentd.errors import AgentdError, ConfigError, Untrusted

if TYPE_CHECKING:
    from agentd.commands.to_fleet import ReachedFleet
    from agentd.fleet.envelope import Envelope
    from agentd.fleet.log import Log
    from agentd.trust.keyring import Keyring, Signer, Verified
    from agentd.trust.options import TrustOptions


class Signing(NamedTuple):
    """What the section `trust:` makes of messages on this host.

    Attributes:
        options: the section; None if there is none for this fleet.
        signer: signs with `signing_key`; None without one.
        keyring: verifies and opens messages; None without the section.
    """

    options: TrustOptions | None = None
    signer: Signer | None = None
    keyring: Keyring | None = None

    @property
    def publisher(self) -> str | None:
        """The publisher to whom `signing_key` belongs; None if it is none that this host knows."""
        if self.options is None or self.signer is None:
            return None
        public = self.signer.key.public.text
        return next((name for name, one in self.options.publishers.items() if public in one.key), None)

    def seals(self, name: str) -> bool:
        """Whether the payloads of this name are encrypted."""
        return self.options is not None and self.options.seals(name)

    def must_sign(self, name: str) -> bool:
        """Whether nodes with this section refuse messages of this name that nobody signed."""
        return self.options is not None and self.options.must_be_signed(name)

    def may_send(self, name: str) -> bool:
        """Whether the publisher to whom `signing_key` belongs may send this name."""
        if self.options is None or self.publisher is None:
            return False
        return self.options.publishers[self.publisher].may_send(name)

    def check(self, name: str) -> None:
        """Raises AgentdError if nodes with this section would refuse what this host sends under this name."""
        if self.options is None:
            return
        if self.signer is None:
            if self.must_sign(name):
                rule = "trust.seal" if self.seals(name) else "trust.require"
                raise AgentdError(
                    f"not published: nodes accept {name!r} only if a publisher signs it (`{rule}`): publish"
                    " it on a host that has the key of one, or set `trust.signing_key` here"
                )
            return
        if not self.options.publishers:  # this host knows none, and the nodes may
            return
        publisher = self.require_publisher()
        if not self.may_send(name):
            raise AgentdError(
                f"the publisher {publisher!r} may not send {name!r}: add it to"
                f" `trust.publishers.{publisher}.may`, on every node"
            )

    def require_publisher(self) -> str:
        """The publisher to whom `signing_key` belongs. Raises AgentdError if there is none."""
        if self.options is None or self.signer is None:
            raise AgentdError(
                "there is no `trust.signing_key` here: run it where the key of a publisher is, as root"
            )
        if self.publisher is None:
            raise AgentdError(
                f"`trust.signing_key` has the key {self.signer.key.kid}, and no publisher has it: add its"
                " public key to `trust.publishers`, on every node (`agentd keys show`)"
            )
        return self.publisher

    def check_newest(self, newest: Envelope | None, name: str) -> str:
        """Compare with the newest message of the name. Returns what to warn of; "" if nothing.

        Raises:
            AgentdError: that one is sealed, and this host would publish a payload that everybody can read.
        """
        if newest is None or newest.signed is None:
            return ""
        if newest.is_sealed and not self.seals(name):
            raise AgentdError(
                f"not published: the newest message of {name!r} is sealed, and this one would not be: add the"
                " name to `trust.seal` here, as on the nodes"
            )
        if self.signer is None:
            return (
                f"the newest message of {name!r} is signed, and this one will not be: nodes with"
                " `trust.require: signed` will refuse it"
            )
        return ""

    def body(self, message: Envelope, log: Log) -> bytes | None:
        """The payload of an earlier message, opened if it is sealed; None if it is no longer in Consul.

        Raises:
            Untrusted: nodes with this section would not accept the message.
            NoFleetKey: it is sealed with a key that this host lacks.
            BadDocument: it is damaged.
        """
        verified = self.verify(message)
        if not message.is_sealed:
            return log.payload(message)
        if verified is None or self.keyring is None:
            raise Untrusted("it is sealed, and there is no section `trust:` here", "sealed")
        return self.keyring.body(verified)

    def verify(self, message: Envelope) -> Verified | None:
        """A message as nodes with this section accept it; None if they do so without a publisher.

        Raises:
            Untrusted: they do not.
        """
        if message.signed is None and self.must_sign(message.name):
            raise Untrusted("nobody signed it", "unsigned")
        return self.keyring.verify(message.signed) if message.signed and self.keyring else None

    def believes(self, message: Envelope) -> bool:
        """Whether nodes with this section accept it."""
        try:
            self.verify(message)
        except Untrusted:
            return False
        return True

    def admit(self, message: Envelope) -> Envelope:
        """The message, with its publisher in `signed_by` if that can be verified here. Raises Untrusted."""
        verified = self.verify(message)
        return message if verified is None else replace(message, signed_by=verified.publisher)


def read_signing(reached: ReachedFleet) -> Signing:
    """What the configuration file says, with the keys that it names.

    Raises:
        ConfigError: the section `trust:` is wrong.
        BadKey: a key cannot be used.
    """
    options = reached.trust()
    if options is None:
        return Signing()
    from agentd.trust.configured import make_keyring, read_fleet_keys, read_signer  # noqa: PLC0415 (only here)

    return Signing(options, read_signer(options), make_keyring(options, read_fleet_keys(options)))


def read_trust(reached: ReachedFleet) -> Signing:
    """What the configuration file says without the secret keys: enough to know whom nodes believe.

    Raises:
        ConfigError: the section `trust:` is wrong.
    """
    options = reached.trust()
    if options is None:
        return Signing()
    from agentd.trust.configured import make_keyring  # noqa: PLC0415 (only here)

    return Signing(options, None, make_keyring(options, ()))


def check_typed(name: str, payload: str | None) -> None:
    """Raises ConfigError if the payload of a sealed name was typed."""
    if payload is not None and payload != "-":
        problem = (
            f"the payloads of {name!r} are secret (`trust.seal`), and anyone on this host can see this one"
            " in the process list: use --file, or - for standard input"
        )
        raise ConfigError([problem])
