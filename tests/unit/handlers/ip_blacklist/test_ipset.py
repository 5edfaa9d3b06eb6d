"""What `ipset list -t` prints, taken apart."""

from __future__ import annotations

from typing import Any, cast

from agentd.handler import Completed, Context
from handlers.ip_blacklist import ipset

PRINTED = """\
Name: agentd4
Type: hash:net
Revision: 7
Header: family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0xe4d3bcdc
Size in memory: 456
References: 1
Number of entries: 0

Name: all
Type: list:set
Revision: 3
Header: size 8
Size in memory: 128
References: 0
Number of entries: 1

"""


class Printing:
    """A context whose programs print one text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def run(self, *_: object, **__: object) -> Completed:
        """`Context.run`."""
        return Completed(0, self._text.encode(), 0.1)


def listed(text: str) -> dict[str, tuple[str, int]]:
    """What is made of it."""
    return ipset._listed("ipset", cast("Context", cast("Any", Printing(text))))


def test_every_set_is_listed_with_its_kind_and_use() -> None:
    """Those without a family, too."""
    assert listed(PRINTED) == {"agentd4": ("hash:net inet", 1), "all": ("list:set", 0)}


def test_a_set_without_a_header_hides_no_other() -> None:
    """As of a version that prints less."""
    assert listed("Name: odd\nType: hash:ip\n\n" + PRINTED) == listed(PRINTED)
    assert listed("") == {}
