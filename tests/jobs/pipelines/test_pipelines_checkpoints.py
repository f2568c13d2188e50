import sqlite3

import pytest

from jobs.pipelines.checkpoints import Checkpoints, Done, Superseded
from jobs.pipelines.database import is_locked
from jobs.pipelines.pipeline import SeriesKey

KEY = SeriesKey("in", "p/0", "cpu", "r")
DONE = Done(3, 1, 0.5)


@pytest.fixture
def opened(tmp_path):
    made = []

    def opened():
        made.append(Checkpoints(tmp_path / "c.sqlite"))
        return made[-1]

    yield opened
    for each in made:
        each.close()


def test_a_new_owner_finds_what_the_last_has_committed(opened):
    first = opened()
    claim = first.claim("s", "a", 7)
    assert (claim.watermarks, claim.memory.states) == ({}, {})
    claim.memory.put(KEY, [0.1 + 0.2, 5.0])
    first.commit(claim, "in", 100, DONE)
    later = opened().claim("s", "b", 8)
    assert later.watermarks == {"in": 100}
    assert later.memory.states == {KEY: [0.1 + 0.2, 5.0]}


def test_deleted_state_is_gone(opened):
    first = opened()
    claim = first.claim("s", "a", 7)
    claim.memory.put(KEY, [1.0])
    first.commit(claim, "in", 100, DONE)
    claim.memory.put(KEY, None)
    first.commit(claim, "in", 200, DONE)
    later = opened().claim("s", "b", 8)
    assert (later.memory.states, later.watermarks) == ({}, {"in": 200})


def test_a_superseded_owner_can_neither_commit_nor_claim(opened):
    old, new = opened(), opened()
    claim = old.claim("s", "a", 7)
    new.claim("s", "b", 8)
    claim.memory.put(KEY, [1.0])
    with pytest.raises(Superseded, match="token 7 is older than 8"):
        old.commit(claim, "in", 100, DONE)
    with pytest.raises(Superseded):
        old.claim("s", "a", 7)
    assert new.claim("s", "b", 9).watermarks == {}


def test_shards_are_claimed_apart(opened):
    checkpoints = opened()
    one = checkpoints.claim("s#1", "a", 7)
    checkpoints.claim("s#2", "b", 8)
    checkpoints.commit(one, "in", 1, DONE)


def test_the_only_agent_takes_the_next_token(opened):
    checkpoints = opened()
    checkpoints.claim("s", "a", 7)
    assert checkpoints.claim("s", "b", None).token == 8


def test_a_transaction_is_all_or_nothing(opened):
    checkpoints = opened()
    claim = checkpoints.claim("s", "a", 7)
    claim.memory.put(KEY, [1.0])
    with pytest.raises(sqlite3.Error):
        checkpoints.commit(claim, "in", object(), DONE)
    assert claim.memory.changed == {KEY}
    assert opened().claim("s", "b", 8).memory.states == {}
    checkpoints.claim("t", "a", 1)  # and no transaction is left open


def test_a_locked_database_is_reported_soon_and_the_call_can_be_retried(opened, tmp_path):
    checkpoints = opened()
    claim = checkpoints.claim("s", "a", 7)
    other = sqlite3.connect(tmp_path / "c.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError) as refused:
        checkpoints.commit(claim, "in", 5, DONE)
    assert is_locked(refused.value)
    other.execute("ROLLBACK")
    other.close()
    checkpoints.commit(claim, "in", 5, DONE)
    assert checkpoints.claim("s", "a", 7).watermarks == {"in": 5}


def test_ownerships_are_counted(opened):
    checkpoints = opened()
    claim = checkpoints.claim("s", "a", 7)
    checkpoints.commit(claim, "in", 1, Done(10, 2, 0.5))
    checkpoints.count(claim, Done(0, 5, 0.0))
    checkpoints.commit(claim, "in", 2, Done(20, 0, 2.0))
    checkpoints.claim("s", "b", 9)
    first, second = checkpoints.ownerships()
    assert (first.owner, first.token, first.samples, first.repeats, first.waited, first.longest) == (
        "a",
        7,
        30,
        7,
        45.0,
        2.0,
    )
    assert (second.owner, second.samples) == ("b", 0)
