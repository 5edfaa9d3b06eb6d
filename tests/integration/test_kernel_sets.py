"""The kernel's sets, in a network of the test's own: loaded, replaced, compared and restored."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.handler import Drift, TemporaryError
from agentd.testing import HandlerHarness, event, notification
from handlers.ip_blacklist import acl, ipset, nftables
from handlers.ip_blacklist.handler import IPBlacklist
from handlers.ip_blacklist.kernel import KERNEL
from handlers.ip_blacklist.loader import BlacklistLoader
from handlers.ip_blacklist.outputs import FILES, Output
from handlers.ip_blacklist.ranges import parse_cidr
from tests.integration.kernel_sets import loader
from tests.servers.equipment import require
from tests.servers.network import Network, new_network
from tests.servers.restricted import SOCKET

OUTPUTS: tuple[Output, ...] = ("ipset", "nftables")
MEMBERS = (
    ["192.0.2.0/24", "198.51.100.0/30", "198.51.100.4/31", "198.51.100.6"],
    ["2001:db8::/64", "2001:db9::1"],
)
RULES = {
    "ipset": [["iptables", "-A", "INPUT", "-m", "set", "--match-set", "agentd4", "src", "-j", "DROP"]],
    "nftables": [
        ["nft", "add chain inet agentd input { type filter hook input priority 0; }"],
        ["nft", "add rule inet agentd input ip saddr @blocked4 drop"],
    ],
}
LISTED = {"ipset": ["iptables", "-S", "INPUT"], "nftables": ["nft", "list chain inet agentd input"]}
FOURTH = {"ipset": "ipset agentd4", "nftables": "nftables blocked4"}
SIXTH = {"ipset": "ipset agentd6", "nftables": "nftables blocked6"}


@pytest.fixture
def network() -> Iterator[Network]:
    """This test's network, without sets and rules."""
    for program in ("ipset", "nft", "iptables"):
        require(program)
    with new_network() as made:
        yield made


class Node:
    """What stands in the kernel of one network, and a loader for it."""

    def __init__(self, network: Network, output: Output) -> None:
        self.network = network
        self.output = output

    def generation(self, ipv4: list[str], ipv6: list[str]) -> HandlerHarness:
        """A loader, and a generation with these members."""
        lines = (ipset if self.output == "ipset" else nftables).batch(ipv4, ipv6)
        return loader({self.output: "".join(lines).encode()})

    def load(self, ipv4: list[str], ipv6: list[str]) -> HandlerHarness:
        """The same, loaded."""
        made = self.generation(ipv4, ipv6)
        made.handle(notification(2, "blacklist"))
        return made

    def members(self) -> list[set[str] | None]:
        """What the kernel has, IPv4 and IPv6."""
        sets = KERNEL[self.output]
        program = "ipset" if self.output == "ipset" else "nft"
        return [sets.present(program, name) for name in sets.SETS]

    def use(self) -> None:
        """Have a rule drop the members of the IPv4 set."""
        for rule in RULES[self.output]:
            self.network.run(*rule)

    def rule(self) -> str:
        """The rule as the kernel shows it."""
        return self.network.run(*LISTED[self.output])


@pytest.fixture(params=OUTPUTS)
def node(network: Network, request: pytest.FixtureRequest) -> Node:
    """The same for either output."""
    return Node(network, request.param)


def many(count: int, first: int = 9) -> list[str]:
    """Addresses no two of which merge."""
    begin = first << 24
    return [f"{v >> 24}.{v >> 16 & 255}.{v >> 8 & 255}.{v & 255}" for v in range(begin, begin + 2 * count, 2)]


def parts(drifts: tuple[Drift, ...]) -> list[str]:
    """What they are about."""
    return [one.part for one in drifts]


# ---------------------------------------------------------------- loading


def test_what_is_loaded_is_there(node: Node) -> None:
    """Both sets have what the generation says, and a verdict finds nothing."""
    made = node.load(*MEMBERS)

    assert node.members() == [set(MEMBERS[0]), set(MEMBERS[1])]
    found = made.verify()
    assert (found.drift, found.mended) == ((), ())
    assert found.gauges == {
        f"blacklist_{node.output}_entries": 6,
        "blacklist_verified_timestamp_seconds": made.now,
    }


def test_the_blacklist_and_the_kernel_agree(node: Node) -> None:
    """What the blacklist writes is read back from the kernel as the same, whatever it was made of."""
    blacklist = HandlerHarness(IPBlacklist, {"never_block_node": False, "outputs": [node.output]})
    blacklist.initial()
    lines = [
        "198.51.100.0/25",
        "198.51.100.128",
        "203.0.113.7",
        "192.0.0.0/9",
        "2001:db8::/63",
        "2001:db8:9::1",
    ]
    blacklist.handle(event("block", "\n".join(lines)))
    data = blacklist.files[FILES[node.output]]
    made = loader({node.output: data})

    made.handle(notification(2, "blacklist"))

    assert made.verify().drift == ()
    assert made.verify().mended == ()


def test_a_set_grows_and_shrinks_again(node: Node) -> None:
    """Neither the size that a set was made with nor what it had before limits the next generation."""
    node.load(*MEMBERS)
    node.use()
    rule = node.rule()
    most = 66_000 if node.output == "ipset" else 2_000  # above 65,536, the size that an ipset begins with

    for addresses in (many(most), many(3, first=11), many(2 * most, first=12), []):
        node.load(addresses, [])
        assert node.members() == [set(addresses), set()]

    assert node.rule() == rule


def test_wider_and_narrower_entries_over_the_old_ones(node: Node) -> None:
    """New entries that overlap with the old ones replace them, while a rule uses the set."""
    node.load(["198.51.100.0/24", "203.0.113.7"], ["2001:db8::/64"])
    node.use()

    node.load(["198.51.0.0/16", "203.0.113.0/25"], ["2001:db8::/32"])
    wider = node.members()
    node.load(["198.51.100.7"], ["2001:db8::7"])

    assert wider == [{"198.51.0.0/16", "203.0.113.0/25"}, {"2001:db8::/32"}]
    assert node.members() == [{"198.51.100.7"}, {"2001:db8::7"}]


@pytest.mark.parametrize("left", ["create agentd4_new hash:ip", "create agentd6_new hash:net family inet"])
def test_what_a_failed_attempt_left(network: Network, left: str) -> None:
    """A set that an interrupted load left, of whatever kind, is no obstacle."""
    node = Node(network, "ipset")
    network.run("ipset", "restore", stdin=f"{left}\n")

    node.load(*MEMBERS)

    assert node.members() == [set(MEMBERS[0]), set(MEMBERS[1])]
    assert network.run("ipset", "list", "-n").split() == ["agentd4", "agentd6"]


@pytest.mark.parametrize(
    "made",
    [
        "create agentd4 hash:ip",
        "create agentd4 hash:net family inet6",
        "create agentd4 hash:net,port",
        "create agentd4 bitmap:ip range 10.0.0.0/16",
        "create agentd4 list:set",
        "create agentd4 hash:net family inet maxelem 4 timeout 30 counters",
    ],
)
def test_a_set_of_another_kind_makes_way(network: Network, made: str) -> None:
    """A set that somebody made under our name is replaced, as long as no rule uses it."""
    node = Node(network, "ipset")
    network.run("ipset", "restore", stdin=f"{made}\n")

    node.load(*MEMBERS)

    assert node.members() == [set(MEMBERS[0]), set(MEMBERS[1])]


def test_a_set_of_another_kind_in_use(network: Network) -> None:
    """One that a rule uses stays, and the error says which rules to delete; then it is replaced."""
    node = Node(network, "ipset")
    network.run("ipset", "create", "agentd4", "hash:ip")
    node.use()

    with pytest.raises(TemporaryError, match=r"agentd4 is in use .* as hash:ip inet,.* delete the rules"):
        node.load(*MEMBERS)
    network.run("iptables", "-F")
    node.load(*MEMBERS)

    assert node.members() == [set(MEMBERS[0]), set(MEMBERS[1])]


@pytest.mark.parametrize(
    "made",
    [
        "add set inet agentd blocked4 { type ipv6_addr; flags interval; }",
        "add set inet agentd blocked4 { type ipv4_addr; }",
        "add set inet agentd blocked4 { type ipv4_addr; flags interval, timeout; timeout 5m; }",
        "add set inet agentd blocked4 { type ipv4_addr . inet_service; flags interval; }",
        "add set inet agentd blocked4 { type ipv4_addr; flags interval; counter; }",
        "add map inet agentd blocked4 { type ipv4_addr : verdict; flags interval; }",
    ],
)
def test_an_nftables_set_of_another_kind_makes_way(network: Network, made: str) -> None:
    """A set or map that somebody made under our name is replaced, as long as no rule uses it."""
    node = Node(network, "nftables")
    network.run("nft", f"add table inet agentd; {made}")

    node.load(*MEMBERS)

    assert node.members() == [set(MEMBERS[0]), set(MEMBERS[1])]


def test_an_nftables_set_of_another_kind_in_use(network: Network) -> None:
    """One that a rule uses stays, and the error says which rules to delete."""
    node = Node(network, "nftables")
    network.run("nft", "add table inet agentd; add set inet agentd blocked4 { type ipv4_addr; }")
    node.use()

    with pytest.raises(
        TemporaryError, match=r"blocked4 is in use .* ipv4_addr, flags none,.* delete the rules"
    ):
        node.load(*MEMBERS)


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize("in_use", [False, True])
@pytest.mark.parametrize("harm", ["flushed", "lacking", "foreign"])
def test_altered_sets_are_restored(node: Node, harm: str, *, in_use: bool) -> None:
    """What was flushed, deleted from or added to comes back, is told with what was found, and stays."""
    made = node.load(*MEMBERS)
    if in_use:
        node.use()
    harms = {
        "ipset": {
            "flushed": "flush agentd4",
            "lacking": "del agentd4 198.51.100.6",
            "foreign": "add agentd4 203.0.113.9",
        },
        "nftables": {
            "flushed": "flush set inet agentd blocked4",
            "lacking": "delete element inet agentd blocked4 { 198.51.100.6 }",
            "foreign": "add element inet agentd blocked4 { 203.0.113.9 }",
        },
    }
    node.network.run("ipset" if node.output == "ipset" else "nft", *harms[node.output][harm].split())

    found = made.verify()

    said = {
        "flushed": "4 of 4 entries are missing, such as 192.0.2.0/24",
        "lacking": "1 of 4 entries are missing, such as 198.51.100.6",
        "foreign": "1 entries are not the generation's, such as 203.0.113.9",
    }
    assert found.drift == ()
    assert found.mended == (Drift(FOURTH[node.output], said[harm]),)
    assert node.members() == [set(MEMBERS[0]), set(MEMBERS[1])]
    assert made.verify().mended == ()


def test_where_drift_is_only_told_the_sets_stay_as_they_are(node: Node) -> None:
    """Until the next generation is loaded."""
    made = node.load(*MEMBERS)
    node.network.run(*(["ipset", "destroy"] if node.output == "ipset" else ["nft", "flush", "ruleset"]))
    made.mend = False

    found = made.verify()
    again = made.verify()

    assert (parts(found.drift), found.mended) == ([FOURTH[node.output], SIXTH[node.output]], ())
    assert found.drift == again.drift


def test_deleted_sets_are_made_again(node: Node) -> None:
    """After `ipset destroy` or `nft flush ruleset` both sets are back."""
    made = node.load(*MEMBERS)
    node.network.run(*(["ipset", "destroy"] if node.output == "ipset" else ["nft", "flush", "ruleset"]))

    found = made.verify()

    assert (found.drift, parts(found.mended)) == ((), [FOURTH[node.output], SIXTH[node.output]])
    assert node.members() == [set(MEMBERS[0]), set(MEMBERS[1])]


@pytest.mark.parametrize(
    "commands",
    [
        ["ipset del agentd4 192.0.2.0/24", "ipset add agentd4 192.0.2.0/24 nomatch"],
        ["ipset create other hash:net", "ipset swap other agentd4"],
        ["ipset destroy agentd6", "ipset create agentd6 hash:ip family inet6"],
    ],
)
def test_same_count_and_other_content(network: Network, commands: list[str]) -> None:
    """Contents are compared, not counts: an exception, another set under the name, one of another kind."""
    node = Node(network, "ipset")
    made = node.load(*MEMBERS)
    for command in commands:
        network.run(*command.split())

    assert len(made.verify().mended) == 1
    assert node.members() == [set(MEMBERS[0]), set(MEMBERS[1])]


def test_the_same_addresses_in_other_intervals(network: Network) -> None:
    """A set of nftables that merges its intervals holds the same, and is left alone."""
    node = Node(network, "nftables")
    kinds = (("blocked4", "ipv4_addr"), ("blocked6", "ipv6_addr"))
    network.run("nft", "add table inet agentd")
    for name, kind in kinds:
        options = f"type {kind}; flags interval; auto-merge;"
        network.run("nft", f"add set inet agentd {name} {{ {options} }}")
    made = node.load(["198.51.100.0/30", "198.51.100.4/31", "198.51.100.6"], [])

    assert (made.verify().drift, made.verify().mended) == ((), ())


def test_an_unchanged_ruleset_is_not_read_again(network: Network) -> None:
    """As long as the kernel says that no table changed, the sets are not read; any change makes it look."""
    node = Node(network, "nftables")
    made = node.load(*MEMBERS)
    before = nftables.revision()
    assert made.verify().mended == ()

    made.handler.options = made.handler.options.model_copy(update={"nft": "/no/such/nft"})
    unread = made.verify()
    network.run("nft", "add table inet another")

    assert (unread.drift, unread.mended) == ((), ())
    assert parts(made.verify().drift) == ["nftables"]
    assert nftables.revision() != before


def test_drift_that_stays(network: Network) -> None:
    """What cannot be restored is drift, with what was found and why it cannot; the other output is served."""
    node, other = Node(network, "ipset"), Node(network, "nftables")
    node.load(*MEMBERS)
    files: dict[Output, bytes] = {
        "ipset": "".join(ipset.batch(*MEMBERS)).encode(),
        "nftables": "".join(nftables.batch(*MEMBERS)).encode(),
    }
    network.run("ipset", "destroy")
    network.run("ipset", "create", "agentd4", "hash:ip")
    node.use()
    made = loader(files)

    found = made.verify()

    assert parts(found.drift) == ["ipset"]
    assert "agentd4 is in use and was made by hand as hash:ip" in found.drift[0].reason
    assert parts(found.mended) == ["nftables blocked4", "nftables blocked6"]
    assert other.members() == [set(MEMBERS[0]), set(MEMBERS[1])]


def test_one_entry_of_a_long_list(node: Node) -> None:
    """One entry of thousands that was exchanged for another is found."""
    addresses = many(5_000)
    made = node.load(addresses, [])
    commands = {
        "ipset": [f"del agentd4 {addresses[777]}", "add agentd4 8.8.8.8"],
        "nftables": [
            f"delete element inet agentd blocked4 {{ {addresses[777]} }}",
            "add element inet agentd blocked4 { 8.8.8.8 }",
        ],
    }[node.output]
    for command in commands:
        node.network.run("ipset" if node.output == "ipset" else "nft", *command.split())

    [mended] = made.verify().mended

    assert mended.reason == (
        f"1 of 5000 entries are missing, such as {addresses[777]}, and 1 entries are not the generation's,"
        " such as 8.8.8.8"
    )
    assert made.verify().mended == ()


# ---------------------------------------------------------------- questions


def test_what_the_kernel_holds(node: Node, network: Network) -> None:
    """Each set is asked for an address of its family; one that is gone holds nothing."""
    made = node.load(*MEMBERS)

    def held(address: str) -> list[tuple[str, bool | None, str]]:
        assert isinstance(made.handler, BlacklistLoader)
        return list(made.handler.holds(parse_cidr(address)))

    assert held("198.51.100.5") == [(FOURTH[node.output], True, "")]
    assert held("198.51.100.7") == [(FOURTH[node.output], False, "")]
    assert held("2001:db8::9") == [(SIXTH[node.output], True, "")]
    network.run(*(["ipset", "destroy"] if node.output == "ipset" else ["nft", "flush", "ruleset"]))
    assert held("198.51.100.5") == [(FOURTH[node.output], False, "")]


# ---------------------------------------------------------------- rights

_NO_CAPABILITY = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-all"]
_NO_NETLINK = [sys.executable, "-m", "tests.servers.restricted"]


@pytest.mark.parametrize(
    "before,lacks",
    [
        (_NO_CAPABILITY, "the capability CAP_NET_ADMIN"),
        (_NO_NETLINK, "sockets of the family AF_NETLINK (RestrictAddressFamilies)"),
    ],
)
def test_a_right_that_is_missing(node: Node, directory: Path, before: list[str], lacks: str) -> None:
    """The change waits with a sentence that names the right and the drop-in, and so does the verdict."""
    require("setpriv")
    if platform.machine() not in SOCKET:
        pytest.skip(f"the filter is not written for {platform.machine()}")
    file = directory / "batch"
    file.write_text("".join((ipset if node.output == "ipset" else nftables).batch(*MEMBERS)))

    out = node.network.run(
        *before, sys.executable, "-m", "tests.integration.kernel_sets", str(file), node.output
    ).splitlines()

    said = [line for line in out if f"agentd runs without {lacks}: run `agentd example systemd" in line]
    assert len(said) == 2, out


def test_a_program_that_is_missing(node: Node) -> None:
    """Drift says which program to install, not that the set is gone."""
    made = loader(
        {node.output: "".join(acl.batch([], [])).encode()}, nft="/no/such/nft", ipset="/no/such/ipset"
    )

    [drift] = made.verify().drift

    assert (drift.part, made.verify().gauges) == (node.output, {})
    assert "does not exist; install it or correct its path" in drift.reason


def test_no_output_to_compare_with() -> None:
    """Where the blacklist does not write the output, drift says what to configure."""
    [drift] = HandlerHarness(BlacklistLoader, {"load": ["nftables"]}).verify().drift

    assert drift.reason == "there is no blacklist/nftables.nft: add nftables to the blacklist's `outputs`"
