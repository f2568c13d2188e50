"""The small forms of the exhaustive search; ``exhaustive.py`` itself runs larger ones."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

import mutants
import pytest
from exhaustive import EVENTS, LEFT_OUT, Model, names_of, saved, search, successors

from partition_actor.core.group import ReportState
from partition_actor.core.handoff import Participant
from partition_actor.core.member import GroupState
from partition_actor.core.membership import SessionRecord
from partition_actor.core.timers import LeaseQueue
from partition_actor.core.views import ChangeLog


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


def driven(*actions: str) -> Model:
    """A model in which these things have happened to m0."""
    model = Model(2, ["a", "f"], 2, 1, ("restart",))
    for action in actions:
        model.act(action, "m0")
    return model


def objects_in(value: Any) -> Iterator[Any]:
    """Every object with fields that count, however deep it lies."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple, deque)):
        for each in value:
            yield from objects_in(each)
    elif hasattr(value, "__dict__") or is_dataclass(value):
        yield value
        for name in names_of(value):
            yield from objects_in(getattr(value, name))


def test_short_requests_that_refer_to_different_whole_ones_make_different_states():
    repeated = driven("send", "deliver", "answer", "hear", "send", "deliver")
    whole = driven("send", "deliver", "answer", "send", "deliver")
    assert repeated.identity() != whole.identity()
    assert repeated.identity() == driven("send", "deliver", "answer", "hear", "send", "deliver").identity()


def test_every_field_counts_but_those_that_are_left_out():
    model = driven("send", "deliver", "answer")
    model.act("time", "")
    classes = set()
    for found in objects_in(model):
        classes.add(type(found))
        assert all(hasattr(found, name) for name in LEFT_OUT.get(type(found), ()))
        for name in names_of(found):
            before, identity = getattr(found, name), model.identity()
            object.__setattr__(found, name, ("changed", before))
            assert model.identity() != identity, f"{type(found).__name__}.{name}"
            object.__setattr__(found, name, before)
    assert {GroupState, SessionRecord, ReportState, Participant, ChangeLog, LeaseQueue, *LEFT_OUT} <= classes


@pytest.mark.parametrize(("members", "steps", "events"), [(2, 1, EVENTS), (3, 0, ("join", "leave"))])
def test_states_that_count_as_one_have_the_same_successors(members, steps, events):
    """Then no sequence of actions tells them apart, however long."""
    root = saved(Model(members, ["a", "f"], 1, steps, events))
    frontier, futures, merged = deque([root]), {pickle.loads(root).identity(): future_of(root)}, 0
    while frontier:
        for _, model in successors(frontier.popleft()):
            model.owners_clash()
            identity, state = model.identity(), saved(model)
            if identity not in futures:
                frontier.append(state)
                futures[identity] = future_of(state)
                continue
            merged += 1
            if merged % 5 == 0:  # all of them would take five times as long
                assert future_of(state) == futures[identity]
    assert merged > 1000


def future_of(state: bytes) -> list[Any]:
    return [(action, model.owners_clash(), model.identity()) for action, model in successors(state)]
