"""Named lists on the harness: loading, guards, force, removal, feeds by schedule."""

from __future__ import annotations

import base64
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentd.handler import Completed, Event, PermanentError, TemporaryError
from agentd.limits import OUT_OF_MEMORY
from agentd.process import run
from agentd.testing import HandlerHarness, event, instance, service
from handlers.ip_blacklist.guards import GUARDS, Guarded
from handlers.ip_blacklist.handler import IPBlacklist
from tests.messy import JUNK

URL = "https://lists.example/drop.txt"


def harness(**options: object) -> HandlerHarness:
    """A node that has started, with nothing blocked."""
    # Whatever addresses this machine has, the test's own are none of them.
    made = HandlerHarness(IPBlacklist, {"never_block_node": False} | options, now=1000.0)
    made.initial()
    return made


def load(node: HandlerHarness, content: bytes, line: str = f"load {URL}", *, force: bool = False) -> None:
    """Serve the content and fire an event that loads it."""
    node.payloads[URL] = content
    raw = event("block", line, id=f"event-{node.generation}-{len(content)}").raw | {"Force": force}
    node.handle(Event("local" if force else "event", raw))


def blocked(node: HandlerHarness, address: str) -> bool:
    """What `why` says of an address."""
    handler = node.handler
    assert isinstance(handler, IPBlacklist)
    return bool(handler.why(address, node._attempt()[0])["blocked"])


def test_load_replaces_the_list() -> None:
    """What a list does not name any more is let through; entries of events stay."""
    node = harness()
    node.handle(event("block", "192.0.2.1"))
    load(node, b"203.0.113.0/24\n2001:db8::/32 # both\n")
    load(node, b"198.51.100.7\n")

    assert [blocked(node, one) for one in ("192.0.2.1", "198.51.100.7", "203.0.113.9", "2001:db8::1")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert node.files["blacklist/lists/default.ipv4"] == b"198.51.100.7-198.51.100.7 1;\n"


def test_an_add_leaves_the_files_of_lists_alone() -> None:
    """An event that adds one address changes no file of a list, however long that is."""
    node = harness()
    load(node, b"203.0.113.0/24\n")

    changed = node.handle(event("block", "192.0.2.1"))

    assert changed == ("blacklist/entries.tsv", "blacklist/ipv4.ranges")


def test_lists_live_side_by_side() -> None:
    """Each list has files of its own, and nginx joins them."""
    node = harness(lists={"one": {"reference": URL}, "two": {}})
    load(node, b"192.0.2.1\n")
    load(node, b"192.0.2.2\n", f"load two {URL}")

    node.handle(event("block", "clear one", ltime=9))

    assert [blocked(node, one) for one in ("192.0.2.1", "192.0.2.2")] == [False, True]
    assert "blacklist/lists/one.ipv4" not in node.files
    assert b"$agentd_list_two_v4" in node.files["blacklist/blacklist.conf"]
    assert b"$agentd_list_one_v4" not in node.files["blacklist/blacklist.conf"]


@pytest.mark.parametrize(
    "line,reason",
    [("load nobody x:y", "there is no list 'nobody'"), ("load default", "has no `reference`")],
)
def test_lists_that_cannot_be_loaded(line: str, reason: str) -> None:
    """A list must be configured, and its source known."""
    with pytest.raises(PermanentError, match=reason):
        harness().handle(event("block", line))


def test_clear_entries() -> None:
    """All that was added is dropped by one line; lists stay."""
    node = harness()
    load(node, b"198.51.100.7\n")
    node.handle(event("block", "192.0.2.1"))

    node.handle(event("block", "clear entries"))

    assert [blocked(node, one) for one in ("192.0.2.1", "198.51.100.7")] == [False, True]


def test_remove_reaches_into_lists_until_they_are_loaded_again() -> None:
    """A removed address is let through though a list names it; the next load decides anew."""
    node = harness()
    load(node, b"192.0.2.0/24\n")

    node.handle(event("block", "remove 192.0.2.7"))
    after = [blocked(node, f"192.0.2.{last}") for last in (6, 7, 8)]
    load(node, b"192.0.2.0/24\n198.51.100.1\n")

    assert after == [True, False, True]
    assert blocked(node, "192.0.2.7")


def test_never_block_is_subtracted() -> None:
    """What may not be blocked is taken out of a list, not a reason to refuse it."""
    node = harness(never_block=["203.0.113.9"])

    load(node, b"203.0.113.8/30\n10.0.0.0/8\n127.0.0.0/8\n224.0.0.0/3\n")

    assert node.files["blacklist/lists/default.ipv4"].splitlines()[:2] == [
        b"203.0.113.8-203.0.113.8 1;",
        b"203.0.113.10-203.0.113.11 1;",
    ]
    assert not any(blocked(node, one) for one in ("10.0.0.1", "127.0.0.1", "203.0.113.9"))


def test_never_block_named_after_the_load() -> None:
    """Changed options hold for lists in force as well."""
    node = harness()
    load(node, b"203.0.113.0/24\n")
    node.restart({"never_block_node": False, "never_block": ["203.0.113.9"]})

    node.initial()

    assert [blocked(node, f"203.0.113.{last}") for last in (8, 9)] == [True, False]


def test_a_service_is_never_blocked() -> None:
    """The instances of a watched service are let through as long as they are registered."""
    node = harness()
    node.handle(event("block", "203.0.113.0/24"))

    node.handle(service("checkers", [instance("203.0.113.5", 80), instance("not-an-address", 80)]))
    during = blocked(node, "203.0.113.5")
    node.handle(service("checkers", [instance("203.0.113.6", 80)], index=2))

    assert not during
    assert [blocked(node, f"203.0.113.{last}") for last in (5, 6)] == [True, False]


def test_a_list_that_is_not_configured_any_more_is_dropped() -> None:
    """Removing a list from the configuration unblocks what it named."""
    node = harness(lists={"one": {"reference": URL}})
    load(node, b"192.0.2.1\n")
    node.restart({})

    node.initial()

    assert not blocked(node, "192.0.2.1")


HUNDRED = "".join(f"192.0.2.{n}\n" for n in range(100)).encode()
THOUSAND = "".join(f"198.51.{n % 100}.{n // 100 * 4}\n" for n in range(1001)).encode()


@pytest.mark.parametrize(
    "guard,options,content,reason",
    [
        ("empty", {}, b"# nothing\n", "it is empty"),
        ("prefix", {}, b"8.0.0.0/7\n", r"shorter than shortest_ipv4 \(/8\) .* such as 8.0.0.0/7"),
        ("prefix", {}, b"2000::/18\n", r"such as 2000::/18"),
        ("empty", {"rejected": 1}, b"<html>\n", "it has no address"),
        ("rejected", {}, b"192.0.2.1\n<html>\n", r"1 of 2 lines are not addresses.*'<html>'"),
        ("entries", {"most_entries": 2}, b"192.0.2.1\n192.0.2.2\n192.0.2.3\n", "most_entries"),
        ("addresses", {"most_addresses": 255}, b"192.0.2.0/24\n", "most_addresses"),
        ("addresses", {"most_networks": 255}, b"2001:db8::/48\n", "most_networks"),
        ("count", {}, b"# Entries : 3\n192.0.2.1\n", "declares 3 entries but contains 1"),
        ("count", {"format": "spamhaus"}, b'{"cidr":"192.0.2.0/24"}\n', "cut short"),
        ("growth", {}, THOUSAND, "grew from 100 to 1001 entries, more than 10 times"),
        ("shrinkage", {}, HUNDRED[: len(HUNDRED) // 3], "below 50%"),
    ],
)
def test_guards(guard: str, options: dict[str, object], content: bytes, reason: str) -> None:
    """Each guard refuses with its own message and is counted; the last good list stays in force."""
    node = harness(lists={"one": options | {"reference": URL}})
    if guard in ("growth", "shrinkage"):
        load(node, HUNDRED)
    files = node.files

    with pytest.raises(Guarded, match=f"list one: .*{reason}") as refused:
        load(node, content)
    node.due()

    assert refused.value.guards == (guard,)
    assert node.files == files
    assert {name: node.store["gauges"][f"blacklist_refused_{name}"] for name in GUARDS} == (
        dict.fromkeys(GUARDS, 0) | {guard: 1}
    )


def test_force_overrides_once_and_is_recorded() -> None:
    """What a guard refuses is loaded by force, which the list remembers; the next load is judged again."""
    node = harness()
    load(node, HUNDRED)

    load(node, b"192.0.2.1\n", force=True)
    forced = node.store["lists"]["default"]["overrode"]
    load(node, HUNDRED)

    assert forced == ["list default: it shrank from 100 to 1 entries, below 50% (shrinkage)"]
    assert node.store["lists"]["default"]["overrode"] == []
    assert [line.event for line in node.log if line.level == "warning"] == ["blacklist.forced"]


def test_an_event_of_the_cluster_cannot_force() -> None:
    """Whatever fields Consul answers, only what this node's own command line owed can override a guard."""
    node = harness()
    node.payloads[URL] = b"# empty\n"
    raw = event("block", f"load {URL}").raw | {"Force": True}

    with pytest.raises(Guarded, match="it is empty"):
        node.handle(Event("event", raw))


def test_force_cannot_override_never_block() -> None:
    """A list loaded by force still blocks nobody who is never blocked."""
    node = harness()

    load(node, b"0.0.0.0/0\n", force=True)

    assert [blocked(node, one) for one in ("10.0.0.1", "8.8.8.8")] == [False, True]


def test_junk_is_rejected_line_by_line() -> None:
    """Junk within the permitted share is left out, and what stands between it is blocked."""
    node = harness(lists={"one": {"reference": URL, "rejected": 1}})

    load(node, "\n".join([*JUNK, "192.0.2.1"]).encode())

    assert node.files["blacklist/lists/one.ipv4"] == b"192.0.2.1-192.0.2.1 1;\n"
    assert node.files["blacklist/lists/one.ipv6"] == b""
    assert node.store["lists"]["one"]["report"]["rejected"] == len(JUNK)


def test_a_large_list_is_compiled_by_a_program() -> None:
    """The daemon itself does not touch a large list: a program gets the job on its standard input."""
    node = harness()
    node.answer_run(1, b"no memory")

    with pytest.raises(TemporaryError, match="no memory"):
        load(node, b"192.0.2.1\n" * 30_000)

    assert node.runs[0].argv[1:5] == ("-I", "-m", "handlers.ip_blacklist.child", "compile")


@pytest.mark.parametrize(
    "status,reason",
    [(OUT_OF_MEMORY, "reading the list takes more than 512 MB of memory; if it should, raise `limits`"),
     (-signal.SIGXCPU, "reading the list takes more than 30 s of processor time")],
)  # fmt: skip
def test_a_list_that_needs_too_much_is_refused(status: int, reason: str) -> None:
    """To try again would end in the same way."""
    node = harness(limits={"memory": "512M", "cpu": "30s"})
    node.answer_run(status)

    with pytest.raises(PermanentError, match=reason):
        load(node, b"192.0.2.1\n" * 30_000)


def real(argv: Sequence[str], **options: Any) -> Completed:  # noqa: ANN401 (those of `Run`)
    """Run a program as the daemon does."""
    return run(argv, timeout=60, **options)


@pytest.mark.parametrize(
    "content,reason",
    [
        (b"[" + b"{}," * 20_000_000 + b"{}]", "takes more than 256 MB of memory"),
        (b'{"new":[' + b"[]," * 20_000_000 + b"[]]}", "takes more than 256 MB of memory"),
        (b"192.0.2.1 # " + b"x" * 1_000_000, "longer than"),
        (b"192.0.2.1\n" * 1_000_000, "at least [0-9]+ entries are more than most_entries, 1000"),
    ],
)  # fmt: skip
def test_a_hostile_list_costs_what_the_program_may_use(content: bytes, reason: str) -> None:
    """The real program, under its limits: it ends, and the list is refused with the reason."""
    node = HandlerHarness(
        IPBlacklist,
        {
            "never_block_node": False,
            "limits": {"memory": "256M"},
            "lists": {"one": {"reference": URL, "most_entries": 1000}},
        },
        run=real,
    )
    node.initial()

    with pytest.raises(PermanentError, match=reason):
        load(node, content)
    assert not node.files.get("blacklist/lists/one.ipv4")


def test_a_dry_run_is_under_the_limits_as_well() -> None:
    """It runs in the shell of a person, whose machine has no more memory than the daemon's."""
    options = {"never_block_node": False, "limits": {"memory": "256M"}}
    node = HandlerHarness(IPBlacklist, options, run=real)
    node.initial()
    node.dry_run = True

    with pytest.raises(PermanentError, match="reading the list takes more than 256 MB of memory"):
        load(node, b"[" + b"{}," * 20_000_000 + b"{}]")


@pytest.mark.parametrize(
    "content",
    [b"# Entries : 0\n", b"null", b'{"deleted":null,"new":null}', b'{"type":"metadata","records":0}\n',
     b"Start\tEnd\tNetmask\n", b"", b"# nothing\n"],
)  # fmt: skip
def test_an_empty_list_is_taken_only_if_the_option_says_so(content: bytes) -> None:
    """Also where it says itself that it is empty: an outage may look like that."""
    node = harness(lists={"one": {"reference": URL}, "two": {"empty": True}})
    with pytest.raises(Guarded, match="it is empty; set `empty: true` to accept that"):
        load(node, content)

    load(node, content, f"load two {URL}")

    assert node.store["lists"]["two"]["report"]["entries"] == 0


def test_a_list_that_was_cut_short_is_refused_however_long_its_header_is() -> None:
    """The count is looked for in all of it."""
    node = harness()
    with pytest.raises(Guarded, match="declares 900 entries but contains 300: it was cut short"):
        load(node, (Path(__file__).parents[3] / "inputs" / "late-entries.netset").read_bytes())


def test_why_quotes_a_line_in_any_notation() -> None:
    """Ranges, masks and CSV, printable whatever they contain."""
    node = harness()
    load(node, b"5.6.7.0-5.6.7.9 # bots\n5.6.8.0/255.255.255.0 // mask\n5.6.9.1,\x1b[31m\xc2\xa0; csv\n")
    handler = node.handler
    assert isinstance(handler, IPBlacklist)

    why = [handler.why(one, node._attempt()[0])["entries"][0] for one in ("5.6.7.3", "5.6.8.1", "5.6.9.1")]

    assert [(one["entry"], one["reason"]) for one in why] == [
        ("5.6.7.0-5.6.7.9", "bots"), ("5.6.8.0/255.255.255.0", "mask"), ("5.6.9.1,?[31m", "csv"),
    ]  # fmt: skip


# ---------------------------------------------------------------- feeds


OPTIONS = {"never_block_node": False, "lists": {"one": {"reference": URL, "every": "1h"}}}


def feeding(content: bytes) -> HandlerHarness:
    """A node whose list `one` is fetched every hour."""
    made = HandlerHarness(IPBlacklist, OPTIONS, now=1000.0)
    made.payloads[URL] = content
    made.initial()
    return made


def test_a_feed_is_fetched_at_the_start_and_on_schedule() -> None:
    """It is fetched at once, then every hour give or take a tenth."""
    node = feeding(b"192.0.2.1\n")
    before = blocked(node, "192.0.2.1")
    node.payloads[URL] = b"192.0.2.2\n"

    node.advance(3600 * 0.89)
    early = blocked(node, "192.0.2.2")
    node.advance(3600 * 0.22)

    assert (before, early, blocked(node, "192.0.2.2")) == (True, False, True)


def test_a_feed_is_fetched_on_schedule_although_the_clock_was_set_back() -> None:
    """A day, while agentd was down: it waits an hour from then, and not a day."""
    node = feeding(b"192.0.2.1\n")
    node.payloads[URL] = b"192.0.2.2\n"
    node.now -= 86_400
    node.restart()
    node.initial()

    node.advance(3600 * 1.11)

    assert blocked(node, "192.0.2.2")


def test_an_unchanged_feed_is_not_loaded_again() -> None:
    """The server is asked whether there is a newer one; if not, no file changes."""
    node = feeding(b"192.0.2.1\n")

    changed = node.advance(4000)

    assert changed == ()
    assert node.store["feeds"]["one"]["checked"] > 1000


def test_a_failing_feed_leaves_last_good_and_is_told() -> None:
    """What is in force stays; store and metrics say that it fails, and the history is told why."""
    node = feeding(b"192.0.2.1\n")
    del node.payloads[URL]

    with pytest.raises(PermanentError, match="feed one: "):
        node.advance(4000)
    node.due()

    assert blocked(node, "192.0.2.1")
    assert node.store["feeds"]["one"]["failures"] == 1
    assert node.store["gauges"]["blacklist_feeds_failing"] == 1
    assert any(part["part"].startswith("feed ") and part["trouble"] for part in node.store["status"])
    assert node.next_due is not None
    assert node.next_due - node.now <= 66


def test_a_feed_that_a_guard_refuses_leaves_last_good() -> None:
    """A feed is judged as a list is, and the guard is counted."""
    node = feeding(HUNDRED)
    node.payloads[URL] = b""

    with pytest.raises(PermanentError, match="it is empty"):
        node.advance(4000)

    assert blocked(node, "192.0.2.1")
    assert node.store["gauges"]["blacklist_refused_empty"] == 1


def test_why_quotes_the_list() -> None:
    """`why` answers with list, entry, reason, event, since and until."""
    node = harness()
    load(node, b"192.0.2.0/24 ; SBL1\n")
    node.handle(event("block", "add 192.0.2.7 10m # scans", id="the-event"))
    handler = node.handler
    assert isinstance(handler, IPBlacklist)

    answer = handler.why("192.0.2.7", node._attempt()[0])

    assert answer["blocked"]
    assert answer["entries"][0] == {
        "entry": "192.0.2.7/32", "reason": "scans", "change": "the-event", "since": 1000.0,
        "until": 1600.0, "list": "entries", "in_force": True,
    }  # fmt: skip
    assert [answer["entries"][1][key] for key in ("list", "entry", "reason", "until")] == [
        "default", "192.0.2.0/24", "SBL1", None,
    ]  # fmt: skip


def test_payload_is_read_as_fired() -> None:
    """The reference may carry a digest, which is checked when it is fetched."""
    node = harness()
    node.payloads[URL] = b"192.0.2.1\n"
    payload = base64.b64decode(base64.b64encode(f"load {URL} sha256:{'0' * 64}".encode()))

    with pytest.raises(PermanentError, match="sha256"):
        node.handle(event("block", payload))
