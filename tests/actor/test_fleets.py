"""What the partition actor keeps of fleets, and what it refuses."""

import pickle

import pytest
from fleet_statuses import fleet, worker

from partition_actor.actor import fleets as module
from partition_actor.actor.fleets import FORGOTTEN_AFTER, Fleets
from partition_actor.errors import InvalidArgument


@pytest.fixture
def fleets():
    return Fleets()


def told(name="billers", **said):
    """A status as a controller tells it."""
    status = fleet(name, **said)
    del status["seconds_ago"]
    return status


def read(fleets, now, *name):
    """What a caller gets."""
    return pickle.loads(pickle.dumps(fleets.told(now, *name)))


def test_the_latest_status_is_told_with_its_age(fleets):
    fleets.note(0.0, told(size=3))
    fleets.note(1.0, told(size=4))
    fleets.note(1.0, told("others"))
    assert read(fleets, 2.5) == {
        "billers": {**told(size=4), "seconds_ago": 1.5},
        "others": {**told("others"), "seconds_ago": 1.5},
    }
    assert list(read(fleets, 2.5, "others")) == ["others"]
    assert read(fleets, 2.5, "nobody") == {}


def test_what_was_not_told_of_for_long_or_is_over_is_forgotten(fleets):
    fleets.note(0.0, told())
    fleets.note(10.0, told("others"))
    assert list(read(fleets, FORGOTTEN_AFTER)) == ["billers", "others"]
    assert list(read(fleets, FORGOTTEN_AFTER + 1.0)) == ["others"]
    fleets.note(40.0, told("others", over=True))
    assert read(fleets, 40.0) == {}


def test_one_fleet_more_than_there_may_be_is_refused_until_one_is_forgotten(fleets, monkeypatch):
    monkeypatch.setattr(module, "MAX_FLEETS", 2)
    for name in ("a", "b"):
        fleets.note(0.0, told(name))
    with pytest.raises(InvalidArgument, match="'c', expected one of the 2 fleets"):
        fleets.note(1.0, told("c"))
    fleets.note(1.0, told("b"))
    fleets.note(FORGOTTEN_AFTER + 0.5, told("c"))
    assert list(read(fleets, FORGOTTEN_AFTER + 0.5)) == ["b", "c"]


def test_a_status_that_is_too_large_is_refused_and_so_are_all_together(fleets, monkeypatch):
    with pytest.raises(InvalidArgument, match="at most 1048576 bytes when pickled"):
        fleets.note(0.0, told(update_failed="x" * (1 << 20)))
    monkeypatch.setattr(module, "MAX_BYTES", 5000)
    for _ in range(10):  # one in place of the other
        fleets.note(0.0, told(update_failed="x" * 3000))
    with pytest.raises(InvalidArgument, match="at most 5000 bytes for all fleets together"):
        fleets.note(0.0, told("others", update_failed="x" * 3000))
    fleets.note(0.0, told(over=True))
    fleets.note(0.0, told("others", update_failed="x" * 3000))


@pytest.mark.parametrize(
    ("match", "status"),
    [
        ("status: got 5, expected a dict, not int", 5),
        ("status: .*expected a dict with events, group", {"name": "billers"}),
        ("expected a dict of builtins", {**told(), "more": Fleets}),
        ("status, name: got ''", told("")),
        ("status, name: .*expected str", told(5)),
        ("status, group: got .*surrogates", told(group="\ud800")),
        ("status, size: got -1", told(size=-1)),
        ("status, serving: got '2', expected int", told(serving="2")),
        ("status, ready: got 1, expected bool", told(ready=1)),
        ("status, restarts: got 1[0]+… ", told(restarts=10**100)),
        ("status, workers: got {}, expected a dict with", told() | {"workers": [{}]}),
        ("status, workers: got 5, expected a dict with", told() | {"workers": [5]}),
        ("status, workers, pid: got 'x', expected int or None", told(workers=[worker(0, pid="x")])),
        ("status, workers, seconds: got nan", told(workers=[worker(0, seconds=float("nan"))])),
        ("status, waiting, reason: got None, expected str", told(waiting=[{"slot": 1, "seconds": 1, "reason": None}])),
        ("status, events: .*expected a dict with seconds_ago", told(events=[{"what": "x"}])),
    ],
)
def test_what_readers_could_not_show_is_refused_by_its_name(fleets, match, status):
    with pytest.raises(InvalidArgument, match=match):
        fleets.note(0.0, status)
    assert read(fleets, 0.0) == {}


def test_restarts_are_counted_on_when_the_controller_begins_anew(fleets):
    counts = []
    for restarts in (3, 5, 0, 2):  # it has restarted before the 0
        fleets.note(0.0, told(restarts=restarts))
        counts.append(fleets.noted(0.0)["billers"].counted)
    assert counts == [0, 2, 2, 4]


def test_the_load_is_the_mean_of_the_workers_that_tell_one(fleets):
    loads = (4.0, 8, None, float("nan"))
    fleets.note(0.0, told(workers=[worker(slot, load=load) for slot, load in enumerate(loads)]))
    fleets.note(0.0, told("others"))
    assert {name: each.load for name, each in fleets.noted(0.0).items()} == {"billers": 6.0, "others": None}
