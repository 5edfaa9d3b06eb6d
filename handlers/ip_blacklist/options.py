"""The options of `ip_blacklist`, as the YAML file has them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from agentd.handler import HandlerOptions
from handlers.ip_blacklist.limits import NAME, ListOptions
from handlers.ip_blacklist.ranges import parse_cidr
from handlers.ip_blacklist.union import Output

DEFAULT = "default"
"""The list that `load` means if it names none; it is there without being configured."""
ENTRIES = "entries"
"""What `clear` calls all that was added."""


def _checked(text: str) -> str:
    parse_cidr(text)
    return text


def _free(name: str) -> str:
    if name == ENTRIES:
        raise ValueError("`entries` is how what was added is called; choose another name")
    return name


ListName = Annotated[str, Field(pattern=f"^{NAME}$"), AfterValidator(_free)]


class BlacklistOptions(HandlerOptions):
    """What is never blocked, which lists there are, and what is written besides nginx's files."""

    never_block: tuple[Annotated[str, AfterValidator(_checked)], ...] = Field(
        (),
        description="Addresses and CIDRs that no event can block, such as your own.",
    )
    never_block_private: bool = Field(
        True,  # noqa: FBT003 (pydantic's own signature)
        description="Never block private, shared and link-local addresses (RFC 1918, 6598, 3927, 4193).",
    )
    never_block_node: bool = Field(
        True,  # noqa: FBT003 (as above)
        description="Never block an address of this node itself; the kernel is asked at every change.",
    )
    lists: dict[ListName, ListOptions] = Field(
        {},
        description="Named lists, each replaced as a whole by `load` or by schedule, with guards of its own.",
    )
    outputs: tuple[Output, ...] = Field(
        (),
        description="What is written besides nginx's `geo` files: deny, nftables, ipset, haproxy.",
    )
    most_deny: int = Field(
        20_000, ge=1, description="Most `deny` lines: nginx compares each of them with every request."
    )
    prefix: str = Field(
        "agentd",
        pattern=r"^[a-z][a-z0-9_]{0,30}$",
        description="How the nginx variables' names begin: $PREFIX_blocked is 1 for a blocked client.",
    )

    @property
    def every_list(self) -> dict[str, ListOptions]:
        """The lists that there are, the one without a configuration included."""
        return {DEFAULT: ListOptions()} | dict(self.lists)
