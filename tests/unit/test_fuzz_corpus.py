"""Every input of the fuzzers' corpus is read or refused as documented, without atheris."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.fuzz.targets  # noqa: F401 (registers them)
from tests.fuzz.json_mutation import mutate
from tests.fuzz.target import TARGETS

_INPUTS = [(name, file) for name, target in sorted(TARGETS.items()) for file in target.seeds()]


@pytest.mark.parametrize("name,file", [pytest.param(*one, id=f"{one[0]}-{one[1].name}") for one in _INPUTS])
def test_an_input_raises_nothing_but_what_is_documented(name: str, file: Path) -> None:
    """Seeds, and the inputs that were findings once."""
    TARGETS[name](file.read_bytes())


def test_every_target_has_a_seed_that_is_accepted() -> None:
    """A corpus that is refused at its first byte would try nothing."""
    for target in TARGETS.values():
        accepted = 0
        for file in target.seeds():
            try:
                target.run(file.read_bytes())
            except target.refusals:
                continue
            accepted += 1
        assert accepted, target.name


def test_the_corpus_is_small() -> None:
    """It is kept by hand, not grown."""
    assert all(file.stat().st_size < 12_000 for _, file in _INPUTS)


@given(
    document=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_changed_document_is_a_document(document: object, seed: int) -> None:
    """Else the JSON parser would refuse most of what is tried."""
    changed = mutate(json.dumps(document).encode(), seed)

    json.loads(changed)
