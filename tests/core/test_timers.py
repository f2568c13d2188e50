from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partition_actor.core.timers import LeaseQueue, Timers


def test_leases_end_in_order_and_renewing_puts_off_the_end():
    queue = LeaseQueue()
    for key, now, length in (("a", 0.0, 5.0), ("b", 1.0, 5.0), ("c", 2.0, 1.0)):
        queue.renew(key, now, length)
    assert queue.next_end() == 3.0
    assert queue.expire(2.9) == []
    assert queue.expire(3.0) == ["c"]
    queue.renew("a", 4.0, 5.0)
    assert queue.next_end() == 6.0
    assert queue.expire(8.9) == ["b"]
    assert "a" in queue
    assert queue.end("a") == 9.0
    assert len(queue) == 1


@pytest.mark.parametrize(("length", "end"), [(1.0, 10.0), (9.0, 10.0), (9.5, 10.5), (20.0, 21.0)])
def test_a_renewal_never_shortens_a_lease(length, end):
    queue = LeaseQueue()
    queue.renew("a", 0.0, 10.0)
    queue.renew("a", 1.0, length)
    assert queue.end("a") == end
    assert queue.expire(end) == ["a"]
    assert queue.next_end() is None


def test_a_dropped_lease_is_gone():
    queue = LeaseQueue()
    queue.renew("a", 0.0, 1.0)
    queue.drop("a")
    queue.drop("a")
    assert "a" not in queue
    assert queue.expire(5.0) == []
    with pytest.raises(KeyError):
        queue.end("a")


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["renew", "drop", "expire"]),
        st.sampled_from("abcd"),
        st.sampled_from([0.0, 0.5, 3.0]),
        st.sampled_from([1.0, 2.5, 4.0]),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(CALLS)
def test_it_is_a_dict_of_ends(calls):
    queue, ends, now = LeaseQueue(), {}, 0.0
    for call, key, pause, length in calls:
        now += pause
        if call == "renew":
            queue.renew(key, now, length)
            ends[key] = max(ends.get(key, 0.0), now + length)
        elif call == "drop":
            queue.drop(key)
            ends.pop(key, None)
        else:
            ended = {key for key, end in ends.items() if end <= now}
            assert set(queue.expire(now)) == ended
            ends = {key: end for key, end in ends.items() if key not in ended}
        assert len(queue) == len(ends)
        assert queue.next_end() == min(ends.values(), default=None)
        assert all(queue.end(key) == end for key, end in ends.items())


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 9))), max_size=30), st.integers(0, 9)
)
def test_timers_fire_once_in_order_at_the_moment_set_last(sets, now):
    timers, wanted = Timers(), {}
    for key, moment in sets:
        timers.set(key, moment)
        wanted[key] = moment
    wanted = {key: moment for key, moment in wanted.items() if moment is not None}
    assert timers.next() == min(wanted.values(), default=None)
    rung = timers.fire(now)
    assert sorted(rung) == sorted(key for key, moment in wanted.items() if moment <= now)
    assert [wanted[key] for key in rung] == sorted(wanted[key] for key in rung)
    assert timers.fire(now) == []
    assert timers.next() == min((moment for moment in wanted.values() if moment > now), default=None)
