"""The small forms of the exhaustive search; ``exhaustive.py`` itself runs larger ones."""

from __future__ import annotations

import mutants
import pytest
from exhaustive import EVENTS, search


@pytest.mark.parametrize(
    ("members", "requests", "steps", "events", "states"),
    [(2, 1, 2, EVENTS, 10_000), (3, 1, 1, ("join",), 3_000), (2, 3, 2, ("leave", "crash", "restart"), 2_000)],
)
def test_no_interleaving_gives_a_key_two_owners(members, requests, steps, events, states):
    found = search(members, requests, steps, events)
    print(found)
    assert found["clash"] is None
    assert found["complete"]
    assert found["states"] > states


@pytest.mark.parametrize(
    ("mutant", "events"),
    [
        (mutants.laggards_left_out, ("join",)),
        (mutants.acknowledged_before_callbacks, ("join",)),
        (mutants.no_recovery_wait, EVENTS),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_search_finds_a_broken_rule(mutant, events, monkeypatch):
    mutant(monkeypatch)
    assert search(2, 2, 2, events, limit=60_000)["clash"] is not None
