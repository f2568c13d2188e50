"""One call's way to the owner of its key: whom it goes to, how often, and what it ends with."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from partition_actor import Ring
from partition_actor.errors import CallMayHaveRun, MemberHasNoActor, NoOwner, NotOwner
from partition_actor.router.retry import PAUSES, Delivery
from partition_actor.router.routing_table import MemberActor, RoutingTable


class Reference:
    """What of an ObjectRef is looked at."""

    def __init__(self, task="task-1"):
        self._task = task

    def task_id(self):
        return self

    def hex(self):
        return self._task


HERE = Reference()


def refused(epoch=(1, 1), task="task-1"):
    error = NotOwner("not mine")
    error.epoch, error.task = epoch, task
    return RayTaskError("method", "traceback", error)


def delivery(**changes):
    options = {"patience": 5.0, "retries": 2, "repeatable": False, **changes}
    return Delivery("g", "key", "method", **options)


def routes(members="a", epoch=(1, 1), complete=True, targets=None):
    made = {member: MemberActor(member, object(), 10) for member in members} if targets is None else targets
    return RoutingTable(epoch, Ring(list(members)), made, complete)


def test_it_goes_to_the_owner():
    known = routes("abc")
    assert delivery().find(known) is known.targets[known.owner("key")]


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (RoutingTable(), "no such group"),
        (routes(""), "no members"),
        (routes(targets={}, complete=False), "handle of its owner 'a' is still to come"),
    ],
)
def test_while_there_is_nobody_it_waits_and_then_says_why(known, why):
    waiting = delivery()
    assert waiting.find(known) is None
    assert waiting.allowance() == 5.0
    waiting.spend(5.0)
    with pytest.raises(NoOwner, match=why) as caught:
        waiting.allowance()
    assert "method for key 'key' of group 'g'" in str(caught.value)


def test_a_member_without_an_actor_is_not_waited_for():
    with pytest.raises(MemberHasNoActor, match="'a'"):
        delivery().find(routes(targets={}))


def test_a_dead_owner_is_waited_for_until_its_keys_are_anothers():
    known = routes()
    known.targets["a"].lost = True
    assert delivery().find(known) is None


def test_a_refusal_by_a_newer_view_waits_for_that_view():
    one, known = delivery(), routes("a", (1, 1))
    one.find(known)
    assert one.failed(refused((1, 5)), HERE, known.targets["a"], known) == 0.0
    assert one.find(routes("ab", (1, 4))) is None
    assert one.find(routes("ab", (1, 5))) is not None


def test_a_refusal_by_the_same_view_pauses_longer_each_time():
    one, known = delivery(retries=0), routes()
    pauses = []
    for _ in range(12):
        assert one.find(known) is known.targets["a"]
        pauses.append(one.failed(refused(), HERE, known.targets["a"], known))
    assert PAUSES[0] / 2 <= pauses[0] <= PAUSES[0]
    assert PAUSES[1] / 2 <= pauses[-1] <= PAUSES[1]


def test_it_goes_to_another_member_as_often_as_the_retries_say():
    one = delivery(retries=2)
    for at, member in enumerate("abc"):
        known = routes(member, (1, at))
        one.find(known)
        one.failed(refused((1, at)), HERE, known.targets[member], known)
    with pytest.raises(NotOwner, match="not mine"):
        one.find(routes("d", (1, 4)))


def test_what_the_method_raises_is_passed_on():
    error = RayTaskError("method", "traceback", ValueError("x"))
    with pytest.raises(RayTaskError) as caught:
        delivery().failed(error, HERE, None, routes())
    assert caught.value is error


def test_the_refusal_of_another_call_says_nothing_of_this_one():
    """The method has run: it made a call itself, and that was refused."""
    for error in (refused(task="task-2"), refused(task=None)):
        with pytest.raises(RayTaskError) as caught:
            delivery().failed(error, HERE, None, routes())
        assert caught.value is error


def test_the_death_of_an_actor_that_the_method_called_is_the_methods_error():
    error = RayTaskError("method", "traceback", ActorDiedError()).as_instanceof_cause()
    assert isinstance(error, ActorDiedError)
    known = routes()
    with pytest.raises(ActorDiedError):
        delivery(repeatable=True).failed(error, HERE, known.targets["a"], known)
    assert not known.targets["a"].lost


@pytest.mark.parametrize(("error", "lost"), [(ActorDiedError(), True), (ActorUnavailableError("x", None), False)])
def test_a_dead_owner_ends_a_call_that_is_not_safe_to_repeat(error, lost):
    known = routes()
    with pytest.raises(CallMayHaveRun, match="method for key 'key'"):
        delivery().failed(error, HERE, known.targets["a"], known)
    assert known.targets["a"].lost is lost


def test_a_call_that_is_safe_to_repeat_is_repeated_as_often_as_the_retries_say():
    one = delivery(repeatable=True, retries=2)
    for member in "ab":
        known = routes(member)
        assert one.find(known) is known.targets[member]
        assert one.failed(ActorDiedError(), HERE, known.targets[member], known) > 0
    known = routes("c")
    one.find(known)
    with pytest.raises(CallMayHaveRun, match="2 retries"):
        one.failed(ActorDiedError(), HERE, known.targets["c"], known)


def test_what_has_been_sent_already_counts_a_move_from_there():
    known = routes("a")
    one = delivery(retries=0, target=known.targets["a"])
    one.failed(refused(), HERE, known.targets["a"], known)
    with pytest.raises(NotOwner):
        one.find(routes("b"))


def test_a_part_has_met_what_the_whole_has_and_goes_its_own_way():
    whole = delivery()
    whole.spend(4.0)
    part = whole.for_part("other")
    part.spend(2.0)
    assert part.is_over
    assert not whole.is_over
    assert whole.key == "key"
    assert part.key == "other"
