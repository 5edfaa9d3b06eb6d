"""The grammar of a payload, and what it may not block."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.handler import PermanentError
from handlers.ip_blacklist.exemptions import Exemptions
from handlers.ip_blacklist.payload import ListOperation, Operation, parse_payload
from handlers.ip_blacklist.ranges import parse_cidr

EXEMPTIONS = Exemptions(["198.51.100.0/24", "2001:db8:feed::/48"])


def parse(payload: str | bytes) -> list[Operation | ListOperation]:
    """Parse with the exemptions above."""
    return parse_payload(payload.encode() if isinstance(payload, str) else payload, EXEMPTIONS.refuses)


def test_every_form() -> None:
    """Each form of a line gives its operation, in order."""
    payload = (
        "add 192.0.2.1 10m # scanner\r\n\n# a note\n192.0.2.0/24\n  add\t2001:db9::/32 \nremove 192.0.2.9\n"
    )

    assert parse(payload) == [
        Operation("add", parse_cidr("192.0.2.1"), 600.0, "scanner"),
        Operation("add", parse_cidr("192.0.2.0/24")),
        Operation("add", parse_cidr("2001:db9::/32")),
        Operation("remove", parse_cidr("192.0.2.9")),
    ]


@pytest.mark.parametrize(
    "line,reason",
    [
        ("nonsense", "not an address"),
        ("add", "write `add CIDR"),
        ("remove", "write `add CIDR"),
        ("remove 192.0.2.1 10m", "write `add CIDR"),
        ("block 192.0.2.1", "just a CIDR"),
        ("192.0.2.1 10m", "just a CIDR"),
        ("add 192.0.2.1/ 8", "not an address"),
        ("add 192.0.2.1 8", "a TTL needs a unit"),
        ("add 192.0.2.1 ٣", "a TTL needs a unit"),
        ("add 192.0.2.1 soon", "a TTL must be a duration"),
        ("add 192.0.2.1 -5m", "a TTL must be a duration"),
        ("add 192.0.2.1 0s", "more than 0"),
        ("add 192.0.2.1 4000d", "at most 10 years"),
        (f"add 192.0.2.1 {'9' * 400}d", "a TTL must be"),
        ("192.0.2.1\u00a0", "not an address"),
        ("+8", "not an address"),
        ("fe80::1%eth0", "not an address"),
        ("10.1.2.3", "private addresses"),
        ("fd00::/64", "private addresses"),
        ("load", "write `load"),
        ("load Default x:y", "write `load"),
        ("load a b:c sha256:00 more", "write `load"),
        ("clear", "write `load"),
        ("clear A", "write `load"),
        ("0.0.0.0/0", "every address"),
        ("::/0", "every address"),
        ("::ffff:0:0/96", "every address"),
        ("10.0.0.0/7", "shorter than /8"),
        ("2000::/18", "shorter than /19"),
        ("127.0.0.1", "loopback"),
        ("127.0.0.0/8", "loopback"),
        ("::1", "loopback"),
        ("::/19", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("255.255.255.255", "the broadcast address"),
        ("255.0.0.0/8", "the broadcast address"),
        ("::fff0:0:0/92", "IPv4-mapped"),
        ("198.51.100.7", "198.51.100.0/24, which is listed in never_block"),
        ("198.51.0.0/16", "198.51.100.0/24, which is listed in never_block"),
        ("2001:db8::/32", "2001:db8:feed::/48, which is listed in never_block"),
    ],
)
def test_refused_lines(line: str, reason: str) -> None:
    """A bad line refuses the payload, and the message has its number and the reason."""
    payload = f"203.0.113.1\n{line}"

    with pytest.raises(PermanentError, match=reason) as refused:
        parse(payload)

    assert str(refused.value).startswith("line 2 ")


@pytest.mark.parametrize("line", ["8.0.0.0/8", "2000::/19", "192.0.2.1/32", "::ffff:192.0.2.1"])
def test_just_within_the_guards(line: str) -> None:
    """The shortest prefixes allowed are allowed."""
    assert len(parse(line)) == 1


@pytest.mark.parametrize(
    "line,operation",
    [
        ("load drop", ListOperation("load", "drop")),
        ("load https://h/p", ListOperation("load", None, "https://h/p")),
        ("load drop kv:lists/drop sha256:00 # why", ListOperation("load", "drop", "kv:lists/drop sha256:00")),
        ("clear drop", ListOperation("clear", "drop")),
    ],
)
def test_lines_about_lists(line: str, operation: ListOperation) -> None:
    """A list is loaded from its own reference or another one, or emptied."""
    assert parse(line) == [operation]


def test_removing_is_not_guarded() -> None:
    """Whatever is blocked can be unblocked, all of it at once if need be."""
    assert [operation.verb for operation in parse("remove 0.0.0.0/0\nremove 127.0.0.1")] == [
        "remove",
        "remove",
    ]


@pytest.mark.parametrize("payload", [b"", b"\n \r\n", b"# only a note"])
def test_no_operation(payload: bytes) -> None:
    """A payload without an operation is refused rather than applied as nothing."""
    with pytest.raises(PermanentError, match="no operation"):
        parse(payload)


def test_quotes_are_bounded_and_escaped() -> None:
    """What is quoted of a payload cannot fill or garble a terminal or a log."""
    payload = b"\x1b[2J\xff\xfe\n" + b"\xe2\x80\xae" * 500 + b"\n" + b"x\n" * 1000

    with pytest.raises(PermanentError) as refused:
        parse(payload)

    message = str(refused.value)
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 1000
    assert "line 1 '\\x1b[2J\\\\xff\\\\xfe': not UTF-8" in message
    assert message.endswith("and 997 more lines")


def test_reasons_are_printable_and_bounded() -> None:
    """A reason is one printable line of at most 100 characters."""
    [operation] = parse("192.0.2.1 # a\tb\x1b[2J\u2028c" + "é" * 200)

    assert isinstance(operation, Operation)
    assert operation.reason.startswith("a?b?[2J?cé")
    assert len(operation.reason) == 100


words = st.sampled_from(
    ["add", "remove", "192.0.2.1", "10.0.0.0/8", "::1", "10m", "#", "\n", "\r", "\t", "٣", "/"]
)


@given(st.one_of(st.binary(max_size=512), st.lists(words, max_size=30).map(lambda w: " ".join(w).encode())))
def test_any_payload_is_operations_or_refused(payload: bytes) -> None:
    """No payload raises anything but a refusal, and what is accepted passes the guards."""
    try:
        operations = parse(payload)
    except PermanentError:
        return
    assert operations
    added = [op.block for op in operations if isinstance(op, Operation) and op.verb == "add"]
    assert all(EXEMPTIONS.refuses(block) is None for block in added)
