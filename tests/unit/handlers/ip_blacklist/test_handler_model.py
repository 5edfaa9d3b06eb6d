"""The handler under any sequence of operations, against a model that remembers every address of a /26."""

from __future__ import annotations

import re

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentd.testing import HandlerHarness, event, instance, service
from handlers.ip_blacklist.handler import IPBlacklist
from handlers.ip_blacklist.ranges import Block, parse_cidr
from tests.examples import LOOKS

FIRST = parse_cidr("198.51.100.0").first
NEVER = {FIRST + 9}
REFERENCES = {"one": "https://lists.example/one", "two": "https://lists.example/two"}
blocks = st.builds(
    lambda last, prefix: f"198.51.100.{last}/{prefix}", st.integers(16, 63), st.integers(29, 32)
)
anything = st.builds(
    lambda last, prefix: f"198.51.100.{last}/{prefix}", st.integers(0, 63), st.integers(26, 32)
)
names = st.sampled_from(sorted(REFERENCES))


def values(text: str) -> set[int]:
    """Every address of a CIDR."""
    block: Block = parse_cidr(text)
    return set(range(block.first, block.last + 1))


class BlacklistMachine(RuleBasedStateMachine):
    """Entries by CIDR, each with its end and what is left of it; lists as sets; a service as a set."""

    def __init__(self) -> None:
        super().__init__()
        options = {
            "never_block": ["198.51.100.9"],
            "never_block_node": False,
            "lists": {
                name: {"reference": one, "empty": True, "shrinkage": 0} for name, one in REFERENCES.items()
            },
        }
        self.node = HandlerHarness(IPBlacklist, options, now=1000.0)
        self.node.initial()
        self.entries: dict[Block, tuple[float, set[int]]] = {}
        self.lists: dict[str, set[int]] = {}
        self.served: set[int] = set()
        self.fired = 0

    def fire(self, line: str) -> None:
        """Fire one line."""
        self.fired += 1
        self.node.handle(event("block", line, ltime=self.fired))

    @rule(text=blocks, seconds=st.sampled_from([None, 5, 20]))
    def add(self, text: str, seconds: int | None) -> None:
        """Add, for good or not."""
        self.fire(f"add {text}" + (f" {seconds}s" if seconds else ""))
        end = self.node.now + seconds if seconds else float("inf")
        self.entries[parse_cidr(text)] = (end, values(text))

    @rule(text=anything)
    def remove(self, text: str) -> None:
        """Remove from whatever names it."""
        self.fire(f"remove {text}")
        gone = values(text)
        self.entries = {block: (end, left - gone) for block, (end, left) in self.entries.items()}
        self.lists = {name: left - gone for name, left in self.lists.items()}

    @rule(name=names, texts=st.lists(anything, max_size=4))
    def load(self, name: str, texts: list[str]) -> None:
        """Replace a list."""
        self.node.payloads[REFERENCES[name]] = "".join(f"{text}\n" for text in texts).encode()
        self.fire(f"load {name}")
        self.lists[name] = set().union(*map(values, texts))

    @rule(name=st.sampled_from([*REFERENCES, "entries"]))
    def clear(self, name: str) -> None:
        """Empty a list."""
        self.fire(f"clear {name}")
        self.lists.pop(name, None)
        self.entries = {} if name == "entries" else self.entries

    @rule(lasts=st.lists(st.integers(0, 63), max_size=3))
    def serve(self, lasts: list[int]) -> None:
        """Other instances are registered."""
        self.fired += 1
        instances = [instance(f"198.51.100.{last}", 80) for last in sorted(set(lasts))]
        self.node.handle(service("checkers", instances, index=self.fired))
        self.served = {FIRST + last for last in lasts}

    @rule(seconds=st.sampled_from([1, 5, 30]))
    def wait(self, seconds: int) -> None:
        """Time passes."""
        self.node.advance(seconds)

    @rule()
    def restart(self) -> None:
        """The daemon starts again."""
        self.node.restart()
        self.node.initial()

    @invariant()
    def enforced_as_modelled(self) -> None:
        """What nginx's files say is what the model says."""
        self.entries = {b: (end, left) for b, (end, left) in self.entries.items() if end > self.node.now}
        wanted = set().union(*(left for _, left in self.entries.values()), *self.lists.values())

        assert enforced(self.node) == wanted - NEVER - self.served


def enforced(node: HandlerHarness) -> set[int]:
    """The addresses for which nginx's map would say 1, from the files that its configuration includes."""
    blocked: set[int] = set()
    never: set[int] = set()
    for name, file in re.findall(
        rb"geo \$agentd_(\w+) \{\n.*\n.*\n    include (\S+);", node.files["blacklist/blacklist.conf"]
    ):
        content = node.files[file.decode().removeprefix("agentd/current/")]
        for first, last in re.findall(rb"^([0-9.]+)-([0-9.]+) ", content, re.MULTILINE):
            found = range(parse_cidr(first.decode()).first, parse_cidr(last.decode()).last + 1)
            (never if name.startswith(b"never") else blocked).update(found)
    return blocked - never


TestBlacklist = BlacklistMachine.TestCase
TestBlacklist.settings = settings(max_examples=LOOKS or 30, stateful_step_count=15, deadline=None)
