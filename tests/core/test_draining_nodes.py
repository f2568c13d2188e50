"""Members on nodes that are draining: they hand over, stay out, and come back if the drain is taken back."""

from __future__ import annotations

import pytest
from machines import KEYS, World, beat

from partition_actor.core.events import Where
from partition_actor.core.membership import STEP

HERE, THERE = "node-1", "node-2"


def drain(world, **seconds):
    world.driver.draining(world.now, {HERE: 30.0, **seconds})


def take_back(world):
    world.driver.draining(world.now, {})


def members(world, group="g"):
    return sorted(world.membership.groups[group].members)


def epoch(world, group="g"):
    return world.membership.groups[group].epoch


@pytest.fixture(params=[True, False], ids=["exclusive", "shared"])
def exclusive(request):
    return request.param


@pytest.fixture
def world():
    return World()


@pytest.fixture
def pair(world, exclusive):
    """A member on the node that will drain, and one elsewhere."""
    a, b = world.member("a", node=HERE, exclusive=exclusive), world.member("b", node=THERE, exclusive=exclusive)
    beat(a, b)
    return a, b


# -- the hand-off ----------------------------------------------------------------------------------------------------


def test_keys_move_to_a_member_elsewhere(world, pair):
    a, b = pair
    drain(world)
    beat(a, b)
    assert members(world) == ["b"]
    assert (a.works_on, b.works_on) == ([], KEYS)


def test_nobody_gets_a_key_before_it_was_handed_over(world):
    a, b = world.member("a", node=HERE), world.member("b", node=THERE)
    beat(a, b)
    mine = b.works_on
    a.adopts = False  # its callbacks run
    drain(world)
    beat(a, b)
    assert (a.works_on, b.works_on) == ([], mine)
    a.member_state.acknowledge("g", a.member_state.view("g").epoch)
    beat(a, b)
    assert b.works_on == KEYS


def test_a_held_heartbeat_tells_at_once(world, pair):
    a, b = pair
    a.send()
    b.send()
    drain(world)
    assert set(world.driver.actions(world.now).answer) == {a.key, b.key}


def test_all_groups_are_left(world):
    a, b = world.member("a", node=HERE), world.member("b", node=THERE)
    for member in (a, b):
        member.member_state.join("h", exclusive=False)
    beat(a, b)
    drain(world)
    beat(a, b)
    assert members(world) == members(world, "h") == ["b"]


def test_it_stays_a_member_where_nobody_else_is_until_somebody_comes(world, exclusive):
    a = world.member("a", node=HERE, exclusive=exclusive)
    a.beat()
    drain(world)
    a.beat()
    assert a.works_on == KEYS
    b = world.member("b", node=THERE, exclusive=exclusive)
    beat(a, b)
    assert (a.works_on, b.works_on) == ([], KEYS)


def test_it_leaves_as_soon_as_another_members_node_does_not_drain_any_more(world, pair):
    a, b = pair
    drain(world, **{THERE: None})
    beat(a, b)
    assert members(world) == ["a", "b"]
    drain(world)
    beat(a, b)
    assert (members(world), b.works_on) == (["b"], KEYS)


def test_a_newcomer_there_does_not_take_over_from_the_last_member(world):
    a = world.member("a", node=HERE)
    a.beat()
    drain(world, **{THERE: None})
    b = world.member("b", node=THERE)
    beat(a, b)
    assert members(world) == ["a"]
    assert a.works_on == KEYS


def test_the_last_member_keeps_its_keys_though_a_dead_one_has_yet_to_be_taken_out(world):
    b = world.member("b", "group", node=THERE)
    for number in range(2 * STEP):
        b.member_state.join(f"group-{number}", exclusive=True)
    beat(b)
    b.member_state.join("last", exclusive=True)
    a = world.member("a", "last", node=HERE)
    beat(a, b)
    world.driver.died(world.now, b.key)
    assert members(world, "last") == ["a", "b"]
    drain(world)
    for _ in range(5):
        world.driver.timer(world.now)
        a.beat()
    assert a.works_on == KEYS


def test_several_leave_in_one_epoch(world):
    leaving = [world.member(f"a{number}", node=HERE) for number in range(5)]
    b = world.member("b", node=THERE)
    beat(*leaving, b)
    before = epoch(world)
    drain(world)
    beat(*leaving, b)
    assert epoch(world) == (before[0], before[1] + 1)
    assert b.works_on == KEYS


def test_a_member_whose_node_is_not_known_stays(world, pair):
    a, b = pair
    unknown = world.member("c", exclusive=world.membership.groups["g"].exclusive)
    beat(a, b, unknown)
    drain(world)
    beat(a, b, unknown)
    assert members(world) == ["b", "c"]


def test_a_member_leaves_as_soon_as_its_node_is_known(world, exclusive):
    a, b = world.member("a", exclusive=exclusive), world.member("b", node=THERE, exclusive=exclusive)
    beat(a, b)
    drain(world)
    beat(a, b)
    assert members(world) == ["a", "b"]
    world.driver.locate(a.key, HERE, 7)
    world.driver.timer(world.now)
    beat(a, b)
    assert members(world) == ["b"]


def test_the_events_say_why(world):
    a, b, c = world.member("a", node=HERE), world.member("b", node=THERE), world.member("c", node="node-3")
    beat(a, b, c)
    drain(world, **{"node-3": None})
    told = {event["member"]: event for event in world.membership.events.read()["events"] if event["what"] == "drained"}
    assert told["a"]["why"] == "its node is draining, for 30 s"
    assert told["c"]["why"] == "its node is draining"
    assert told["a"]["node"] == HERE


def in_many_groups(world):
    a, b = world.member("a", node=HERE), world.member("b", node=THERE)
    names = [f"g{number}" for number in range(600)]
    for member in (a, b):
        for name in names:
            member.member_state.join(name, exclusive=True)
    beat(a, b)
    world.wait(0.5)
    beat(a, b)
    return a, b, names


def test_many_groups_are_left_little_by_little(world):
    a, b, names = in_many_groups(world)
    left = []
    drain(world)
    while world.driver.membership.deadline() <= world.now:
        left.append(sum(not world.membership.groups[name].is_on_ring(a.key) for name in names))
        world.driver.timer(world.now)
    beat(a, b)
    assert all(members(world, name) == ["b"] for name in names)
    assert any(0 < number < len(names) for number in left)


# -- staying out -----------------------------------------------------------------------------------------------------


def test_it_does_not_join_in_a_loop(world, pair):
    a, b = pair
    drain(world)
    beat(a, b)
    after = epoch(world)
    for _ in range(20):
        beat(a, b)
        world.wait(1.0)
    assert epoch(world) == after
    assert a.state == "joining"
    assert world.driver.request(world.now, a.member_state.request(world.now)) > 0  # held, as there is no news


def test_while_it_waits_a_heartbeat_only_renews_the_lease(world, pair):
    a, b = pair
    drain(world)
    beat(a, b)
    assert world.membership.sessions[a.key].steady is not None
    assert "same" in a.send()


def test_a_newcomer_gets_no_place(world, exclusive):
    b = world.member("b", node=THERE, exclusive=exclusive)
    b.beat()
    drain(world)
    a = world.member("a", node=HERE, exclusive=exclusive)
    a.beat()
    assert members(world) == ["b"]
    assert a.state == "joining"
    assert a.member_state.node_drains
    assert not b.member_state.node_drains


def test_a_newcomer_opens_no_group(world):
    drain(world)
    a = world.member("a", node=HERE)
    a.beat()
    assert "g" not in world.membership.groups
    assert a.state == "joining"


def test_a_newcomer_is_told_at_once_that_the_group_is_of_the_other_mode(world):
    b = world.member("b", node=THERE, exclusive=False)
    b.beat()
    drain(world)
    a = world.member("a", node=HERE, exclusive=True)
    a.beat()
    assert a.state == "conflict"


def test_a_conditional_join_of_a_group_that_does_not_exist_fails_there_too(world):
    drain(world)
    a = world.member("a", node=HERE, conditional=True)
    a.beat()
    assert a.state == "missing"


def test_a_member_that_waits_can_leave(world, pair):
    a, b = pair
    drain(world)
    beat(a, b)
    a.member_state.leave("g")
    beat(a, b)
    assert a.state == "out"
    take_back(world)
    beat(a, b)
    assert members(world) == ["b"]
    assert world.membership.sessions[a.key].steady is not None


def test_a_member_that_leaves_and_joins_again_gets_no_place(world, pair):
    a, b = pair
    drain(world)
    a.member_state.leave("g")
    beat(a, b)
    a.member_state.join("g")
    beat(a, b)
    assert (a.state, members(world)) == ("joining", ["b"])


def test_a_changed_weight_brings_nobody_back(world, pair):
    a, b = pair
    drain(world)
    a.member_state.join("g", weight=3)
    beat(a, b)
    assert members(world) == ["b"]


def test_an_operators_drain_of_the_others_brings_nobody_back(world, pair):
    a, b = pair
    drain(world)
    beat(a, b)
    world.membership.drain(world.now, "g", "b")
    beat(a, b)
    assert members(world) == []
    assert a.state == "joining"


# -- taken back ------------------------------------------------------------------------------------------------------


def test_they_join_again_by_themselves(world, pair):
    a, b = pair
    mine = a.works_on
    drain(world)
    beat(a, b)
    a.send()
    take_back(world)
    assert a.key in world.driver.actions(world.now).answer  # and its next heartbeat comes at once
    beat(a, b)
    assert members(world) == ["a", "b"]
    if world.membership.groups["g"].exclusive:
        assert a.works_on == mine
    assert not a.member_state.node_drains


def test_a_newcomer_joins_then(world):
    drain(world)
    a = world.member("a", node=HERE)
    a.beat()
    take_back(world)
    a.beat()
    assert a.works_on == KEYS


def test_a_drain_taken_back_during_the_hand_off(world):
    a, b = world.member("a", node=HERE), world.member("b", node=THERE)
    beat(a, b)
    mine = a.works_on
    a.adopts = False
    drain(world)
    beat(a, b)
    take_back(world)
    a.adopts = True
    beat(a, b)
    beat(a, b)
    assert a.works_on == mine
    assert sorted(a.works_on + b.works_on) == sorted(KEYS)


def test_a_conditional_member_joins_again_without_conditions(world):
    b = world.member("b", node=THERE)
    b.beat()
    a = world.member("a", node=HERE, conditional=True)
    beat(a, b)
    drain(world)
    beat(a, b)
    b.member_state.leave("g")
    world.wait(60.0)
    beat(a)
    take_back(world)
    beat(a)
    assert a.works_on == KEYS


def test_one_whose_id_another_process_has_taken_meanwhile_does_not_take_it_back(world, pair):
    a, b = pair
    drain(world)
    beat(a, b)
    successor = world.member("a", node="node-3", exclusive=world.membership.groups["g"].exclusive)
    beat(a, b, successor)
    take_back(world)
    beat(a, b, successor)
    assert a.state == "superseded"
    assert successor.state == "member"


def test_a_drain_taken_back_before_anybody_has_heard_of_it_ends_no_lease(world, pair):
    a, b = pair
    drain(world)
    take_back(world)
    beat(a, b)
    assert a.state == "member"
    assert not any(change.rejoined for change in a.changes)
    assert "rejoined" not in [event["what"] for event in world.membership.events.read()["events"]]


@pytest.mark.parametrize("node", [HERE, THERE])
def test_a_newcomer_under_an_id_that_is_taken_waits_to_take_it_over(world, exclusive, node):
    a = world.member("a", node=node, exclusive=exclusive)
    a.beat()
    drain(world)
    successor = world.member("a", node=HERE, exclusive=exclusive)
    successor.beat()
    assert successor.state == "joining"
    assert "same" in successor.send()  # it waits, and there is nothing to tell it
    take_back(world)
    successor.beat()
    assert successor.state == "member"


# -- the end of the node ---------------------------------------------------------------------------------------------


def test_nobody_joins_again_on_a_node_that_has_ended(world, pair):
    a, b = pair
    drain(world)
    beat(a, b)
    world.driver.draining(world.now, {}, {HERE})
    beat(a, b)
    assert members(world) == ["b"]


def test_an_ended_node_is_forgotten_with_its_last_session(world, pair):
    a, b = pair
    drain(world)
    beat(a, b)
    world.driver.draining(world.now, {}, {HERE})
    assert list(world.membership.draining_nodes(world.now)) == [HERE]
    world.driver.died(world.now, a.key)
    world.driver.draining(world.now, {}, {HERE})
    assert world.membership.draining_nodes(world.now) == {}


def test_what_is_left_of_the_time_is_told(world):
    world.driver.draining(world.now, {HERE: 30.0, THERE: None})
    world.wait(10.0)
    assert world.membership.draining_nodes(world.now) == {HERE: pytest.approx(20.0), THERE: None}


# -- a new partition actor -------------------------------------------------------------------------------------------


def test_after_a_restart_they_leave_as_soon_as_it_publishes(world, pair):
    a, b = pair
    world.restart()
    drain(world)
    for _ in range(8):
        beat(a, b)
        world.wait(2.0)
    beat(a, b)
    assert (members(world), a.works_on, b.works_on) == (["b"], [], KEYS)


def test_the_last_members_keep_their_keys_through_a_restart(world):
    a = world.member("a", node=HERE)
    a.beat()
    drain(world)
    world.restart()
    drain(world)
    for _ in range(8):
        a.beat()
        assert a.works_on == KEYS
        world.wait(2.0)
    a.beat()
    assert a.works_on == KEYS


def test_a_newcomer_that_waits_for_the_recovery_gets_no_place(world):
    b = world.member("b", node=THERE)
    b.beat()
    world.restart()
    drain(world)
    a = world.member("a", node=HERE)
    for _ in range(8):
        beat(a, b)
        world.wait(2.0)
    beat(a, b)
    assert (members(world), a.state) == (["b"], "joining")


def test_not_even_if_nobody_else_is_left(world):
    b = world.member("b", node=THERE)
    b.beat()
    world.restart()
    drain(world)
    b.beat()
    a = world.member("a", node=HERE)
    for _ in range(15):
        a.beat()
        world.wait(2.0)
    a.beat()
    assert (members(world), a.state) == ([], "joining")


def test_a_partition_actor_that_replaces_one_knows_what_it_knew(world, pair):
    a, b = pair
    drain(world, **{"node-3": None})
    beat(a, b)
    world.wait(10.0)
    beat(a, b)
    world.replace()
    assert world.membership.draining_nodes(world.now) == {HERE: pytest.approx(20.0), "node-3": None}
    beat(a, b)
    assert (members(world), a.state) == (["b"], "joining")
    take_back(world)
    beat(a, b)
    assert members(world) == ["a", "b"]


def test_one_that_replaces_another_goes_on_with_a_drain(world):
    a, b, names = in_many_groups(world)
    drain(world)
    world.replace()
    while world.membership.deadline() <= world.now:
        world.driver.timer(world.now)
    beat(a, b)
    beat(a, b)
    assert all(members(world, name) == ["b"] for name in names)


def test_after_a_replacement_nobody_takes_an_id_back(world, pair):
    a, b = pair
    drain(world)
    beat(a, b)
    successor = world.member("a", node="node-3", exclusive=world.membership.groups["g"].exclusive)
    beat(b, successor)
    world.replace()
    take_back(world)
    beat(b, successor)
    beat(a, b, successor)
    assert (a.state, successor.state) == ("superseded", "member")


def test_nor_if_the_drain_begins_before_the_members_have_reached_the_new_one(world, pair):
    a, b = pair
    world.replace()
    drain(world)
    beat(a, b)
    successor = world.member("a", node="node-3", exclusive=world.membership.groups["g"].exclusive)
    beat(b, successor)
    take_back(world)
    beat(a, b, successor)
    assert (a.state, successor.state) == ("superseded", "member")


# -- callers of a bare handle ----------------------------------------------------------------------------------------


@pytest.fixture
def call(world):
    """`get_subset` of a bare caller on a node."""

    def call(member_id, node, group="g"):
        steps = world.driver.get_subset(group, (member_id, ""), 1, True, "", Where(node))
        world.driver.begin(world.now, member_id, steps)
        world.driver.proof(world.now, world.now)
        return world.take_results()[member_id]

    return call


def mine(view):
    return view is not None and view["mine"]


def test_a_bare_caller_hands_over_by_its_next_call(world, call):
    assert mine(call("x", HERE))
    b = world.member("b", node=THERE)
    b.beat()
    drain(world)
    b.beat()
    assert len(b.works_on) < len(KEYS)
    assert not mine(call("x", HERE))
    b.beat()
    assert b.works_on == KEYS


def test_a_bare_caller_gets_no_place_until_the_drain_is_taken_back(world, call):
    drain(world)
    assert not mine(call("x", HERE))
    take_back(world)
    assert mine(call("x", HERE))


def test_a_bare_caller_whose_next_process_is_elsewhere_gets_a_place(world, call):
    drain(world)
    assert not mine(call("x", HERE))
    assert mine(call("x", THERE))


def test_the_join_of_a_bare_caller_tells_the_view_without_it(world):
    b = world.member("b", node=THERE)
    b.beat()
    drain(world)
    told = world.call("join", "g", ("x", ""), 1, None, True, "", Where(HERE))
    assert told["members"] == {"b": 1}


def test_the_join_of_a_bare_caller_says_that_it_has_stopped(world):
    b = world.member("b", node=THERE)
    b.beat()
    world.call("join", "g", ("x", ""), 1, None, True, "", Where(HERE))
    b.beat()
    drain(world)
    b.beat()
    assert len(b.works_on) < len(KEYS)
    world.call("join", "g", ("x", ""), 1, None, True, "", Where(HERE))
    b.beat()
    assert b.works_on == KEYS


def test_a_member_hands_over_to_a_bare_caller_whose_next_process_is_elsewhere(world, call):
    a = world.member("a", node=HERE)
    a.beat()
    call("x", HERE)
    a.beat()
    drain(world)
    assert mine(call("x", HERE))  # it stays, as nobody is elsewhere
    call("x", THERE)
    a.beat()
    assert (members(world), a.works_on) == (["x"], [])
