"""The retry state of one call: where it is sent, how often, and with which error it ends."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayError, RayTaskError

from partition_actor import Ring
from partition_actor.errors import CallMayHaveRun, MemberHasNoActor, NoOwner, NotOwner
from partition_actor.router.retry import PAUSES, RetryState
from partition_actor.router.routing_table import MemberActor, RoutingTable


class Reference:
    """The part of an ObjectRef that is used."""

    def __init__(self, task="task-1"):
        self._task = task

    def task_id(self):
        return self

    def hex(self):
        return self._task


HERE = Reference()


def refused(epoch=(1, 1), task="task-1", method="method"):
    error = NotOwner("not mine")
    error.epoch, error.task, error.method = epoch, task, method
    return RayTaskError("method", "traceback", error)


def retry_state(**changes):
    options = {"search_time": 5.0, "retries": 2, "repeatable": False, **changes}
    return RetryState("g", "key", "method", **options)


def table_of(members="a", epoch=(1, 1), complete=True, actors=None):
    made = {member: MemberActor(member, object(), 10) for member in members} if actors is None else actors
    return RoutingTable(epoch, Ring(list(members)), made, complete)


def fail(state, error, table):
    """Send the call by this table, and let it fail."""
    actor = state.find(table)
    assert actor is not None
    return state.failed(error, HERE, actor, table)


def test_a_call_goes_to_the_owner():
    table = table_of("abc")
    assert retry_state().find(table) is table.actors[table.owner("key")]


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (RoutingTable(), "no such group"),
        (table_of(""), "no members"),
        (table_of(actors={}, complete=False), "handle of its owner 'a' has not arrived yet"),
    ],
)
def test_without_an_owner_a_call_waits_and_then_says_why(table, why):
    state = retry_state()
    assert state.find(table) is None
    assert state.time_to_wait() == 5.0
    state.spend(4.0)
    assert state.time_to_wait(3.0) == 1.0
    assert state.time_to_wait(0.5) == 0.5
    state.spend(1.0)
    with pytest.raises(NoOwner, match=rf"{why}.*\(waited 5 s\)") as caught:
        state.time_to_wait()
    assert "method for key 'key' of group 'g'" in str(caught.value)


def test_a_member_without_an_actor_is_not_waited_for():
    with pytest.raises(MemberHasNoActor, match="'a'"):
        retry_state().find(table_of(actors={}))


def test_a_dead_owner_is_waited_for_until_it_is_replaced():
    table = table_of()
    table.actors["a"].dead = True
    assert retry_state().find(table) is None


def test_a_refusal_by_a_newer_view_waits_for_that_view():
    state = retry_state()
    assert fail(state, refused((1, 5)), table_of("a", (1, 1))) == 0.0
    assert state.find(table_of("ab", (1, 4))) is None
    assert state.find(table_of("ab", (1, 5))) is not None


def test_a_refusal_by_the_same_view_pauses_longer_each_time_and_costs_no_retry():
    state = retry_state(retries=0)
    pauses = [fail(state, refused(), table_of()) for _ in range(12)]
    assert PAUSES[0] / 2 <= pauses[0] <= PAUSES[0]
    assert PAUSES[1] / 2 <= pauses[-1] <= PAUSES[1]


def test_pauses_are_short_again_at_another_member():
    state = retry_state()
    for _ in range(12):
        fail(state, refused(), table_of("a"))
    assert fail(state, refused((1, 2)), table_of("b", (1, 2))) <= PAUSES[0]


def test_a_call_goes_to_another_member_as_often_as_the_retries_say():
    state = retry_state(retries=2)
    for counter, member in enumerate("abc"):
        fail(state, refused((1, counter)), table_of(member, (1, counter)))
    with pytest.raises(NotOwner, match="not mine"):
        state.find(table_of("d", (1, 4)))


@pytest.mark.parametrize("error", [RayTaskError("method", "traceback", ValueError("x")), RayError("x")])
def test_what_the_method_raises_and_rays_other_errors_are_passed_on(error):
    with pytest.raises(RayError) as caught:
        fail(retry_state(repeatable=True), error, table_of())
    assert caught.value is error


def test_the_refusal_of_another_call_is_no_refusal_of_this_one():
    """The method has run: it made a call itself, and that was refused."""
    for error in (refused(task="task-2"), refused(task=None), refused(method="another")):
        with pytest.raises(RayTaskError) as caught:
            fail(retry_state(), error, table_of())
        assert caught.value is error


def test_the_death_of_an_actor_that_the_method_called_is_the_methods_error():
    error = RayTaskError("method", "traceback", ActorDiedError()).as_instanceof_cause()
    assert isinstance(error, ActorDiedError)
    table = table_of()
    with pytest.raises(ActorDiedError):
        fail(retry_state(repeatable=True), error, table)
    assert not table.actors["a"].dead


@pytest.mark.parametrize(
    ("error", "dead"),
    [(ActorDiedError(), True), (ActorUnavailableError("x", None), False), (ObjectLostError("", "", ""), False)],
)
def test_a_failed_owner_ends_a_call_that_is_not_safe_to_repeat(error, dead):
    table = table_of()
    with pytest.raises(CallMayHaveRun, match="method for key 'key'"):
        fail(retry_state(), error, table)
    assert table.actors["a"].dead is dead


def test_a_call_that_is_safe_to_repeat_is_repeated_as_often_as_the_retries_say():
    state = retry_state(repeatable=True, retries=2)
    for member in "ab":
        assert fail(state, ActorDiedError(), table_of(member)) > 0
    with pytest.raises(CallMayHaveRun, match="2 retries"):
        fail(state, ActorDiedError(), table_of("c"))


def test_a_call_that_was_sent_already_needs_a_retry_for_another_member():
    table = table_of("a")
    state = retry_state(retries=0)
    state.failed(refused(), HERE, table.actors["a"], table)
    with pytest.raises(NotOwner):
        state.find(table_of("b"))


def test_to_find_an_owner_that_has_no_place_costs_no_retry():
    state = retry_state(retries=1)
    fail(state, refused((1, 1)), table_of("a"))
    for counter, member in enumerate("bcbc"):
        assert state.find(table_of(member, (1, counter + 2))) is not None
    fail(state, refused((1, 6)), table_of("b", (1, 6)))
    with pytest.raises(NotOwner):
        state.find(table_of("c", (1, 7)))


def test_a_part_begins_with_the_state_of_the_whole_and_has_its_own_from_then_on():
    whole = retry_state()
    whole.spend(4.0)
    part = whole.for_part("other")
    part.spend(2.0)
    assert part.is_out_of_time
    assert not whole.is_out_of_time
    assert whole.key == "key"
    assert part.key == "other"
