"""The record of nodes that are missing from the catalogue."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentd.fleet.absence import MOST, Absence, Absences, parse_absences

_NODES = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)
_COUNTS = st.integers(1, 2**62)


@given(st.integers(0, 10**10), st.dictionaries(_NODES, st.builds(Absence, _COUNTS, _COUNTS)))
def test_what_is_written_is_read(looked: int, nodes: dict[str, Absence]) -> None:
    """All of it."""
    record = Absences(float(looked), nodes)
    assert parse_absences(record.render()) == record


@given(
    st.binary(max_size=200) | st.from_regex(r'\{"format":1,"looked":.{1,9},"nodes":.{1,40}\}').map(str.encode)
)
def test_whatever_is_there_can_be_read(raw: bytes) -> None:
    """Anybody may have written it; then nobody has looked."""
    found = parse_absences(raw)
    assert found.looked >= 0
    assert all(one.index > 0 and one.days >= 0 for one in found.nodes.values())


def test_the_record_of_a_large_fleet_fits_into_its_key() -> None:
    """With long names; Consul takes 512 KiB, and as much can be read back."""
    nodes = {f"{number:04}-{'x' * 240}": Absence(2**40, 8) for number in range(MOST + 100)}
    assert len(parse_absences(Absences(1.0, nodes).render()).nodes) == MOST
