"""An answer that is read by what differs from the one before is what the whole of it says."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import ConsulUnavailable
from agentd.watch.client import Answer
from agentd.watch.known_items import KnownItems, Sound
from agentd.watch.parsing import NEVER_TOO_HEAVY, Parsed, parse
from agentd.watch.queries import ChecksQuery, KeyPrefixQuery, KeyQuery, NodesQuery, ServiceQuery
from agentd.watch.query import Query, Snapshot
from agentd.watch.transport import Parameters
from tests.unit.watch.sources import ScriptedSource

_QUERIES = (ServiceQuery("api"), NodesQuery(), ChecksQuery(), KeyPrefixQuery("a"), KeyQuery("a"))
_TEXTS = st.sampled_from(["a", "", "10.0.0.1", '},{"Node":{', '"}]', "\\", "\u2028", "ü"])


def _instance(name: str, service: dict[str, object]) -> dict[str, object]:
    checks = [{"Node": name, "CheckID": "a", "Status": "passing"}] * 2
    return {
        "Node": {"Node": name, "Address": "10.0.0.1"},
        "Service": {"ID": name} | service,
        "Checks": checks,
    }


_ITEMS = st.one_of(
    st.builds(
        _instance,
        _TEXTS,
        st.fixed_dictionaries(
            {"Address": _TEXTS, "Port": st.integers(-1, 9)},
            optional={"Meta": st.dictionaries(_TEXTS, _TEXTS)},
        ),
    ),
    st.fixed_dictionaries({"Node": _TEXTS, "CheckID": _TEXTS}, optional={"Output": _TEXTS, "Key": _TEXTS}),
    st.fixed_dictionaries(
        {"LockIndex": st.integers(0, 9), "Key": _TEXTS, "Value": st.sampled_from(["YQ==", "?"])}
    ),
    st.just({"Node": {"Node": "n", "Address": "a"}, "Service": {}, "More": [{"Node": {}}, {"Node": {}}]}),
    st.none(),
)
_BODIES = st.one_of(
    st.lists(_ITEMS).map(lambda items: json.dumps(items, separators=(",", ":"), ensure_ascii=False).encode()),
    st.lists(_ITEMS).map(lambda items: json.dumps(items).encode()),
    st.sampled_from(
        [b"[{}]", b"[]", b"{}", b"", b'[{"Node":{"Node":"a"}},{"Node":{]', b'[{"a":"]', b'[{"a":1]}]']
    ),
)


class _Source(ScriptedSource):
    """Answers with one body, read as the client reads it."""

    def __init__(self, body: bytes) -> None:
        super().__init__(())
        self._body = body

    def get(
        self,
        path: str,
        params: Parameters = (),
        index: int | None = None,
        wait: float | None = None,
        *,
        read: Callable[[bytes], Parsed] = parse,
    ) -> Answer:
        """Read it."""
        del path, params, index, wait
        parsed = read(self._body)
        return Answer(200, 7, parsed.value, odd=tuple(parsed.odd))


def _fetched(query: Query, body: bytes, known: KnownItems | None) -> Snapshot | str:
    try:
        return query.fetch(_Source(body), known=known)
    except (ConsulUnavailable, ValueError) as error:
        return str(error)


@given(query=st.sampled_from(_QUERIES), bodies=st.lists(_BODIES, max_size=4))
def test_says_what_the_whole_answer_says(query: Query, bodies: list[bytes]) -> None:
    """Whatever came before: the same state with the same digest, the same odd items, or the same error."""
    known = query.known_items()
    for body in [*bodies, *bodies[-1:]]:
        ours, whole = _fetched(query, body, known), _fetched(query, body, None)
        if isinstance(ours, str) or isinstance(whole, str):
            assert ours == whole
            continue
        assert (ours.empty, list(ours.odd)) == (whole.empty, list(whole.odd))
        assert [one.digest for one in ours.changes] == [one.digest for one in whole.changes]
        assert list(ours.changes) == list(whole.changes)


@pytest.fixture
def judged() -> list[str]:
    """The IDs of the items that were judged."""
    return []


@pytest.fixture
def known(judged: list[str]) -> KnownItems:
    """Finds no fault with any item."""

    def misfit(item: dict[str, str]) -> str:
        judged.append(item["ID"])
        return ""

    return KnownItems(misfit, lambda item: item)


def _listed(*identities: str) -> bytes:
    return json.dumps([{"ID": one} for one in identities], separators=(",", ":")).encode()


def test_judges_only_what_is_new(known: KnownItems, judged: list[str]) -> None:
    """Of an answer of which one item differs from the last one, only that is parsed and judged."""
    known.read(_listed("a", "b", "c"))

    found = known.read(_listed("a", "x", "c")).value

    assert judged == ["a", "b", "c", "x"]
    assert found == Sound('[{"ID":"a"},{"ID":"x"},{"ID":"c"}]')


def test_keeps_only_the_last_answer(known: KnownItems, judged: list[str]) -> None:
    """What has gone is forgotten, so that items that come and go take no memory."""
    for identity in ("a", "b", "a"):
        known.read(_listed(identity))

    assert judged == ["a", "b", "a"]


def test_reads_a_large_answer_as_a_whole(known: KnownItems, judged: list[str]) -> None:
    """What could take too much memory is weighed first, and not kept."""
    found = known.read(_listed("a", "b" * NEVER_TOO_HEAVY))

    assert (len(found.value), judged) == (2, [])
