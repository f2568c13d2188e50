"""What is counted of a router's calls, and that it is recorded now and then."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from test_retry import fail, refused, retry_state, table_of

from partition_actor.errors import CallMayHaveRun, MemberHasNoActor, NoOwner, NotOwner, PartitionError
from partition_actor.router import call_counts
from partition_actor.router.call_counts import CallCounts, CallMetrics


class FakeRecorder:
    """Sums up what is added."""

    def __init__(self, **tags):
        self.tags, self.sums = tags, {}

    def begin(self, last=False):
        self.is_last = last

    def add(self, name, value, **tags):
        key = (name, *tags.values())
        self.sums[key] = self.sums.get(key, 0) + value


@pytest.fixture
def counts():
    return CallCounts()


def test_refusals_and_deaths_are_retries(counts):
    table = table_of("a")
    state = retry_state(counts=counts, repeatable=True)
    assert state.is_first_try
    fail(state, refused(), table)
    fail(state, ActorDiedError(), table)
    assert not state.is_first_try
    assert (counts.refusals, counts.retries, dict(counts.errors)) == (1, 2, {})


def test_a_call_that_waits_several_times_is_one_that_has_waited(counts):
    state = retry_state(counts=counts)
    for seconds in (0.0, 1.0, 0.5):
        state.spend(seconds)
    assert (counts.waits, counts.wait_seconds) == (1, 1.5)


def ends(counts, error):
    table, state = table_of("a"), retry_state(counts=counts, retries=0)
    if error is NoOwner:
        state.spend(5.0)
        state.time_to_wait()
    elif error is MemberHasNoActor:
        state.find(table_of("a", actors={}))
    elif error is NotOwner:
        fail(state, refused(), table)
        state.find(table_of("b"))
    else:
        fail(state, ActorDiedError(), table)


@pytest.mark.parametrize("error", [NoOwner, MemberHasNoActor, NotOwner, CallMayHaveRun])
def test_a_call_that_ends_with_an_error_is_counted_once_by_its_class(counts, error):
    with pytest.raises(PartitionError) as caught:
        ends(counts, error)
    assert type(caught.value) is error
    assert dict(counts.errors) == {error.__name__: 1}


def test_what_the_method_raises_is_not_counted(counts):
    with pytest.raises(RayTaskError):
        fail(retry_state(counts=counts), RayTaskError("method", "traceback", ValueError()), table_of("a"))
    assert not counts.errors


def test_what_was_counted_since_the_last_time_is_recorded_when_it_is_time(counts, monkeypatch):
    now = [100.0]
    made = []
    monkeypatch.setattr(call_counts, "Recorder", lambda **tags: made.append(FakeRecorder(**tags)) or made[-1])
    monkeypatch.setattr(call_counts.time, "monotonic", lambda: now[0])
    metrics = CallMetrics(counts, "g", "the actor")
    (recorder,) = made
    assert recorder.tags == {"actor": "the actor", "group": "g"}
    counts.calls, counts.wait_seconds = 3, 0.5
    metrics.record()
    counts.calls += 2
    metrics.record()
    assert recorder.sums["router_calls",] == 3
    now[0] += call_counts.recording_interval()
    counts.failed(NoOwner())
    metrics.record()
    assert (recorder.sums["router_calls",], recorder.sums["router_errors", "NoOwner"]) == (5, 1)
    counts.calls += 1
    metrics.record(at_once=True)
    assert recorder.is_last
    assert (recorder.sums["router_calls",], recorder.sums["router_wait_seconds",]) == (6, 0.5)
