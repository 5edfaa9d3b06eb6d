"""The options of `ip_blacklist`, as they appear in the YAML file."""

from __future__ import annotations

import math
from typing import Annotated, Final

from pydantic import AfterValidator, Field, model_validator

from agentd.handler import Duration, HandlerOptions, Size
from agentd.limits import Limits
from handlers.ip_blacklist.formats import Format
from handlers.ip_blacklist.outputs import Output
from handlers.ip_blacklist.ranges import parse_cidr

DEFAULT: Final = "default"
"""The list that `load` replaces if it names none; it exists without being configured."""
ENTRIES: Final = "entries"
"""What `clear` calls everything that was added by `add`."""
LIST_NAME: Final = r"[a-z][a-z0-9_]{0,30}"
"""What a list may be called: the name becomes part of a file name and of an nginx variable."""


def _cidr(text: str) -> str:
    parse_cidr(text)
    return text


def _not_reserved(name: str) -> str:
    if name == ENTRIES:
        raise ValueError("`entries` already means what was added by `add`; choose another name")
    return name


ListName = Annotated[str, Field(pattern=f"^{LIST_NAME}$"), AfterValidator(_not_reserved)]


class ProgramLimits(HandlerOptions):
    """What agentd's own program that reads lists and writes outputs may use."""

    memory: Annotated[Size, Field(ge=128 * 2**20)] = Field(
        2**30, description="Memory; 1G is enough for some 5 million plain lines, or 100 MB of JSON."
    )
    cpu: Annotated[Duration, Field(ge=1)] = Field(
        60.0, description="Processor time; a million lines take 3 to 15 s."
    )

    @property
    def limits(self) -> Limits:
        """As the program is told."""
        return Limits(memory=self.memory, cpu=math.ceil(self.cpu))


class ComparisonLimits(ProgramLimits):
    """What agentd's own program that compares what is loaded with the generation may use."""

    memory: Annotated[Size, Field(ge=128 * 2**20)] = Field(
        2**32, description="Memory; a million elements of nftables take 1.5G."
    )


class ListOptions(HandlerOptions):
    """One named list: where it comes from, and the guards that decide whether a new version is accepted."""

    reference: str | None = Field(
        None,
        description="Where the list is fetched from, as https://HOST/PATH; sources.allow must permit it.",
    )
    every: Annotated[Duration, Field(ge=1)] | None = Field(
        None, description="How often the list is fetched. Unset: only when a `load` line asks for it."
    )
    format: Format | None = Field(
        None,
        description="plain, firehol, spamhaus or crowdsec. Unset: detected from the content. `plain` is any"
        " list of one address, CIDR, range or netmask per line, CSV and DShield's table included.",
    )
    shortest_ipv4: int = Field(8, ge=0, le=32, description="Shortest prefix length of an IPv4 entry.")
    shortest_ipv6: int = Field(19, ge=0, le=64, description="Shortest prefix length of an IPv6 entry.")
    most_entries: int = Field(
        2_000_000,
        ge=1,
        description="Maximum number of entries, and of CIDRs that its ranges of IPv6 addresses become; a list"
        " is not read beyond it.",
    )
    most_addresses: int = Field(
        2**29 + 2**28,
        ge=1,
        description="Maximum number of IPv4 addresses covered; exempt addresses do not count.",
    )
    most_networks: int = Field(2**46, ge=1, description="Maximum number of IPv6 /64 networks covered.")
    growth: float = Field(
        10.0,
        ge=1,
        description="How many times larger than the previous version the list may become; one of fewer than"
        " 100 entries counts as 100.",
    )
    shrinkage: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Smallest fraction of the previous version's entries that must remain. Not checked if the"
        " previous version had fewer than 100 entries.",
    )
    rejected: float = Field(
        0.05, ge=0, le=1, description="Largest fraction of lines that may be something other than an address."
    )
    empty: bool = Field(
        default=False,
        description="Accept an empty list, including one that itself declares 0 entries. `shrinkage`"
        " applies all the same.",
    )

    @model_validator(mode="after")
    def _has_reference(self) -> ListOptions:
        if self.every is not None and self.reference is None:
            raise ValueError("`every` needs a `reference` to fetch")
        return self


class BlacklistOptions(HandlerOptions):
    """What is never blocked, which lists exist, and which outputs are written besides nginx's own files."""

    never_block: tuple[Annotated[str, AfterValidator(_cidr)], ...] = Field(
        (), description="Addresses and CIDRs that are never blocked, such as your office and your monitoring."
    )
    never_block_private: bool = Field(
        default=True,
        description="Never block private, shared and link-local addresses (RFC 1918, 6598, 3927, 4193).",
    )
    never_block_node: bool = Field(
        default=True,
        description="Never block an address of this node; the kernel is asked at every change and"
        " each minute.",
    )
    lists: dict[ListName, ListOptions] = Field(
        {}, description="Named lists, each replaced as a whole by a `load` line or on a schedule."
    )
    most_entries: int = Field(
        50_000,
        ge=1,
        description="Maximum number of entries that events add; with 50,000 one more takes half a second.",
    )
    most_addresses: int = Field(
        2**30,
        ge=1,
        description="Maximum number of IPv4 addresses that entries and lists cover together, by default a"
        " quarter of all; exempt addresses do not count.",
    )
    most_networks: int = Field(
        2**47, ge=1, description="Maximum number of IPv6 /64 networks that entries and lists cover together."
    )
    shortest_ipv4: int = Field(8, ge=8, le=32, description="Shortest prefix length that an event may add.")
    shortest_ipv6: int = Field(19, ge=19, le=128, description="Shortest prefix length that an event may add.")
    outputs: tuple[Output, ...] = Field(
        (), description="What is written besides nginx's `geo` files: deny, nftables, ipset, haproxy."
    )
    most_deny: int = Field(
        20_000,
        ge=1,
        description="Maximum number of `deny` lines: nginx tests each of them on every request.",
    )
    limits: ProgramLimits = Field(
        ProgramLimits(),
        description="What the program that reads lists and writes outputs may use; a list that needs more"
        " is refused.",
    )
    prefix: str = Field(
        "agentd",
        pattern=r"^[a-z][a-z0-9_]{0,30}$",
        description="Prefix of the nginx variables: $PREFIX_blocked is 1 for a blocked client, otherwise 0.",
    )

    @property
    def every_list(self) -> dict[str, ListOptions]:
        """All lists by name, including the default one."""
        return {DEFAULT: ListOptions()} | dict(self.lists)
