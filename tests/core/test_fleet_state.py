import itertools

import pytest

from partition_actor.core.autoscale import Autoscale
from partition_actor.core.fleet import (
    Drain,
    End,
    FleetState,
    Join,
    Node,
    Pace,
    Start,
)

FIRST_PAUSE, LOST_AFTER, STEADY_AFTER = Pace().first_pause, Pace().lost_after, Pace().steady_after


class Played:
    """A fleet whose workers do at once what they are told, unless a test says otherwise."""

    def __init__(self, size=3, **options):
        self.now = 0.0
        self.fleet = FleetState(size, **options)
        self.done = []
        self.fails = set()  # versions whose constructor raises
        self.slow = set()  # numbers that do not answer
        self.started_at = []

    def run(self, seconds=0.0):
        end = self.now + seconds
        while True:
            while actions := self.fleet.step(self.now):
                for action in actions:
                    self.done.append(action)
                    self.carry_out(action)
            if self.now >= end:
                return self.take()
            self.now += 0.25
            for number, worker in self.fleet.workers.items():
                if number not in self.slow and worker.phase != "starting":
                    self.report(number)

    def take(self):
        done, self.done = self.done, []
        return done

    def carry_out(self, action):
        if action.number in self.slow:
            return
        if isinstance(action, Start):
            self.started_at.append(self.now)
            if action.version in self.fails:
                self.fleet.failed_to(self.now, action.number, "it raised")
            else:
                self.fleet.started(self.now, action.number, action.node or "a", 1000 + action.number)
                self.report(action.number)
        elif isinstance(action, Join):
            self.fleet.joined(self.now, action.number)
            self.report(action.number)
        elif isinstance(action, Drain):
            self.fleet.drained(self.now, action.number)
        else:
            self.fleet.ended(self.now, action.number, "told to")

    def report(self, number, **more):
        self.fleet.reported(self.now, number, (1, 1), True, None, **more)

    def serving(self):
        return {worker.slot: worker for worker in self.fleet.workers.values() if worker.phase == "serving"}

    def kill(self, slot):
        self.fleet.ended(self.now, self.serving()[slot].number, "killed")

    def kinds(self):
        return [type(action).__name__ for action in self.run()]


@pytest.fixture
def three():
    played = Played(3)
    played.run()
    return played


def test_it_starts_a_worker_in_each_slot_and_lets_it_join_when_its_constructor_has_returned(three):
    assert sorted(three.serving()) == [0, 1, 2]
    assert three.fleet.is_ready


def test_it_is_not_ready_while_workers_hold_different_epochs(three):
    three.fleet.reported(three.now, three.serving()[1].number, (1, 2), True, None)
    assert not three.fleet.is_ready


def test_it_is_not_ready_while_a_worker_waits_for_its_slot_or_for_a_hand_off(three):
    three.fleet.reported(three.now, three.serving()[1].number, (1, 1), False, None)
    assert not three.fleet.is_ready


def test_a_dead_worker_is_replaced_at_once_in_its_slot(three):
    dead = three.serving()[1].number
    three.kill(1)
    started = [action for action in three.run() if isinstance(action, Start)]
    assert [start.slot for start in started] == [1]
    assert three.serving()[1].number != dead


def test_a_worker_that_keeps_crashing_is_started_after_growing_pauses_and_its_reason_is_shown():
    played = Played(1)
    played.fails = {1}
    played.run(20.0)
    times = played.started_at
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses == [0.0, FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE, 16 * FIRST_PAUSE]
    (waiting,) = played.fleet.status(played.now)["waiting"]
    assert (waiting["slot"], waiting["reason"]) == (0, "it raised")


def test_a_fleet_whose_first_workers_fail_says_that_it_cannot_start_until_one_serves():
    played = Played(2)
    played.fails = {1}
    played.run(2.0)
    assert played.fleet.cannot_start == "it raised"
    played.fails.clear()
    played.run(60.0)
    assert played.fleet.is_ready
    assert played.fleet.cannot_start == ""


def test_a_crash_after_steady_service_is_the_first_one_again(three):
    three.kill(0)
    three.run()
    three.kill(0)
    three.run(STEADY_AFTER + FIRST_PAUSE + 1)
    three.kill(0)
    assert "Start" in three.kinds()


def test_the_highest_slots_are_drained_before_they_are_ended(three):
    three.fleet.scale(three.now, 1)
    done = three.run()
    numbers = {action.number for action in done}
    assert len(numbers) == 2
    for number in numbers:
        assert [type(action) for action in done if action.number == number] == [Drain, End]
    assert list(three.serving()) == [0]


def test_a_worker_is_not_ended_while_it_hands_over(three):
    three.slow = {worker.number for worker in three.serving().values()}
    three.fleet.scale(three.now, 2)
    assert three.kinds() == ["Drain"]
    assert [type(action) for action in three.run(30.0)] == []


def test_a_worker_that_does_not_hand_over_is_killed_after_drain_timeout(three):
    three.slow = {worker.number for worker in three.serving().values()}
    three.fleet.scale(three.now, 2)
    three.run()
    (end,) = three.run(three.fleet.drain_timeout + 1)
    assert isinstance(end, End)
    assert not end.drained


def test_a_slot_that_is_wanted_again_while_its_worker_drains_gets_a_new_one_when_that_has_handed_over(three):
    last = three.serving()[2].number
    three.slow = {last}
    three.fleet.scale(three.now, 2)
    three.run()
    three.fleet.scale(three.now, 3)
    assert three.run(1.0) == []
    three.slow.clear()
    three.fleet.drained(three.now, last)
    three.run()
    assert sorted(three.serving()) == [0, 1, 2]


def test_a_worker_whose_lease_has_ended_and_that_does_not_answer_is_given_up_and_replaced(three):
    lost = three.serving()[1].number
    three.slow = {lost}
    three.fleet.seen((1, 2), {0, 2})
    done = three.run(LOST_AFTER + 1)
    assert done[0] == End(lost, drained=False)
    assert sorted(three.serving()) == [0, 1, 2]


def test_a_worker_that_answers_is_kept_though_its_lease_has_ended(three):
    three.fleet.seen((1, 2), set())
    assert three.run(10.0) == []


def test_silence_does_not_count_while_the_controller_itself_was_stopped(three):
    three.fleet.seen((1, 2), {0, 2})
    three.now += 60.0
    assert three.fleet.step(three.now) == []
    for number in three.fleet.workers:
        three.report(number)
    assert three.run(10.0) == []


def test_a_silent_worker_is_kept_while_the_view_is_older_than_what_it_holds(three):
    three.slow = {three.serving()[1].number}
    three.fleet.seen((1, 0), {0, 2})
    assert three.run(10.0) == []


def test_silent_workers_are_kept_while_nobody_knows_who_is_in_the_group(three):
    three.slow = {worker.number for worker in three.serving().values()}
    three.fleet.seen(None, set())
    assert three.run(10.0) == []


def test_a_worker_that_an_operator_has_drained_is_replaced(three):
    gone = three.serving()[1].number
    three.report(gone, out=True)
    done = three.run()
    assert [type(action) for action in done if action.number == gone] == [Drain, End]
    assert sorted(three.serving()) == [0, 1, 2]


def test_a_worker_whose_id_another_process_has_hands_over_before_it_is_ended_and_counts_as_failed(three):
    gone = three.serving()[1].number
    three.report(gone, superseded=True)
    done = three.run()
    assert [type(action) for action in done if action.number == gone] == [Drain, End]
    assert three.fleet.slots[1].failures == 1
    assert sorted(three.serving()) == [0, 1, 2]


def test_a_worker_that_cannot_join_leaves_what_it_has_joined_by_itself_before_it_is_ended():
    played = Played(1)
    played.slow = {1}
    played.run()
    played.fleet.started(played.now, 1, "a", 7)
    played.run()
    played.slow.clear()
    played.fleet.failed_to(played.now, 1, "the group is full")
    assert [type(action) for action in played.run() if action.number == 1] == [Drain, End]


def test_an_update_replaces_one_worker_at_a_time_and_drains_it_first(three):
    three.fleet.update(three.now, 2, max_unavailable=1)
    down = []
    while any(worker.version == 1 for worker in three.serving().values()):
        for action in three.fleet.step(three.now):
            three.done.append(action)
            three.carry_out(action)
            down.append(3 - len(three.serving()))
    three.run()
    assert max(down) == 1
    assert {worker.version for worker in three.serving().values()} == {2}
    assert [type(action) for action in three.done if action.number <= 3] == []
    assert three.fleet.stable == 2


def test_an_update_may_replace_several_at_a_time(three):
    three.fleet.update(three.now, 2, max_unavailable=2)
    assert [type(action) for action in three.fleet.step(three.now)] == [Drain, Drain]


def test_an_update_waits_while_a_slot_is_without_a_worker(three):
    three.slow = {4, 5}
    three.kill(1)
    three.run()
    three.fleet.update(three.now, 2, max_unavailable=1)
    assert not any(isinstance(action, Drain) for action in three.run())


def test_a_version_that_does_not_come_up_is_rolled_back_and_the_others_go_on(three):
    three.fails = {2}
    before = {slot: worker.number for slot, worker in three.serving().items()}
    three.fleet.update(three.now, 2, max_unavailable=1)
    three.run(10.0)
    after = {slot: worker.number for slot, worker in three.serving().items()}
    assert three.fleet.version == 1
    assert "it raised" in three.fleet.update_failed
    assert sum(before[slot] == after[slot] for slot in before) == 2


def test_an_update_during_another_ends_at_the_latest_version(three):
    three.fleet.update(three.now, 2, 1)
    three.carry_out(three.fleet.step(three.now)[0])
    three.fleet.update(three.now, 3, 1)
    three.run(2.0)
    assert {worker.version for worker in three.serving().values()} == {3}


def test_stop_drains_and_ends_everybody(three):
    three.fleet.stop(three.now)
    done = three.run()
    assert sorted(type(action).__name__ for action in done) == ["Drain"] * 3 + ["End"] * 3
    assert three.fleet.is_over


def test_stop_ends_a_worker_that_has_not_joined_at_once():
    played = Played(1)
    played.slow = {1}
    played.run()
    played.fleet.stop(played.now)
    assert played.run() == [End(1, drained=False)]


class TestDrainingNodes:
    @pytest.fixture
    def two_nodes(self):
        played = Played(2, spread="node")
        played.fleet.take_nodes({"a": Node(), "b": Node()})
        played.run()
        assert {worker.node for worker in played.serving().values()} == {"a", "b"}
        return played

    def on(self, played, node):
        return next(worker for worker in played.serving().values() if worker.node == node)

    def test_the_replacement_is_ready_before_the_old_one_hands_over(self, two_nodes):
        old = self.on(two_nodes, "a")
        two_nodes.slow = {3}
        two_nodes.fleet.take_nodes({"a": Node(draining=True), "b": Node()})
        assert two_nodes.run() == [Start(3, old.slot, 1, "b")]
        assert two_nodes.run(5.0) == []
        two_nodes.slow.clear()
        two_nodes.fleet.started(two_nodes.now, 3, "b", 7)
        done = two_nodes.run()
        assert done == [Join(3), Drain(old.number), End(old.number, drained=True)]

    def test_a_drain_that_is_taken_back_ends_a_replacement_that_has_not_joined(self, two_nodes):
        two_nodes.slow = {3}
        two_nodes.fleet.take_nodes({"a": Node(draining=True), "b": Node()})
        two_nodes.run()
        two_nodes.slow.clear()
        two_nodes.fleet.take_nodes({"a": Node(), "b": Node()})
        assert two_nodes.run() == [End(3, drained=False)]

    def test_the_old_one_goes_on_when_the_replacement_dies(self, two_nodes):
        two_nodes.slow = {3}
        two_nodes.fleet.take_nodes({"a": Node(draining=True), "b": Node()})
        two_nodes.run()
        two_nodes.fleet.ended(two_nodes.now, 3, "it died")
        assert [type(action) for action in two_nodes.run()][:1] == [Start]
        assert len(two_nodes.serving()) == 2


class TestPerNode:
    @pytest.fixture
    def played(self):
        played = Played(1, per_node=True)
        played.fleet.take_nodes({"a": Node(), "b": Node()})
        played.run()
        return played

    def test_each_node_has_its_worker(self, played):
        assert {worker.node for worker in played.serving().values()} == {"a", "b"}

    def test_a_node_that_comes_gets_one_in_the_lowest_free_slot(self, played):
        played.fleet.take_nodes({"a": Node(), "b": Node(), "c": Node()})
        played.run()
        assert played.serving()[2].node == "c"

    def test_the_worker_of_a_draining_node_hands_over_and_ends_without_a_replacement(self, played):
        old = next(worker for worker in played.serving().values() if worker.node == "a")
        played.fleet.take_nodes({"a": Node(draining=True), "b": Node()})
        assert played.run() == [Drain(old.number), End(old.number, drained=True)]

    def test_the_slot_of_a_node_that_is_gone_is_the_next_ones(self, played):
        slot = next(worker.slot for worker in played.serving().values() if worker.node == "a")
        played.fleet.take_nodes({"b": Node()})
        played.run()
        played.fleet.take_nodes({"b": Node(), "c": Node()})
        played.run()
        assert played.serving()[slot].node == "c"

    def test_it_is_not_ready_before_it_knows_the_nodes(self):
        played = Played(1, per_node=True)
        played.run()
        assert not played.fleet.is_ready


def test_workers_are_spread_over_the_values_of_a_label():
    played = Played(4, spread="zone")
    zones = {"a1": "a", "a2": "a", "a3": "a", "b1": "b"}
    played.fleet.take_nodes({name: Node(labels={"zone": zone}) for name, zone in zones.items()})
    played.run()
    assert sorted(zones[worker.node] for worker in played.serving().values()) == ["a", "a", "b", "b"]


def test_nobody_is_spread_before_the_nodes_are_known():
    played = Played(2, spread="node")
    assert played.run() == []


def test_it_scales_by_the_load_and_never_below_the_least():
    played = Played(2, autoscale=Autoscale(min=2, max=5, target=10.0, load="depth", up_after=1.0, down_after=5.0))
    played.run()
    for load, size in ((25.0, 5), (0.0, 2)):
        for _ in range(40):
            for number, worker in played.fleet.workers.items():
                if worker.phase == "serving":
                    played.fleet.reported(played.now, number, (1, 1), True, load)
            played.run(0.25)
            assert len(played.serving()) >= 2
        assert len(played.serving()) == size


def test_a_restarted_controller_goes_on_with_the_workers_that_it_finds():
    played = Played(2, numbers_from=1_000_001)
    for number, slot, phase in ((1, 0, "serving"), (2, 1, "ready")):
        played.fleet.adopt(0.0, number, slot, 1, phase, "a", number)
    assert played.run() == [Join(2)]
    assert sorted(worker.number for worker in played.serving().values()) == [1, 2]


def test_of_two_workers_found_in_one_slot_the_older_one_hands_over():
    played = Played(1, numbers_from=1_000_001)
    for number in (1, 2):
        played.fleet.adopt(0.0, number, 0, 1, "serving", "a", number)
    assert played.run() == [Drain(1), End(1, drained=True)]


def test_a_worker_that_takes_too_long_to_start_counts_as_failed():
    played = Played(1, start_timeout=5.0)
    played.slow = {1}
    played.run()
    done = played.run(6.0)
    assert [type(action) for action in done][:2] == [End, Start]
    assert "still starting" in played.fleet.slots[0].reason


def test_with_per_node_a_new_controller_keeps_the_workers_of_the_former_one():
    fleet = FleetState(1, per_node=True)
    for number in (1, 2, 3):
        fleet.adopt(0.0, number, number - 1, 1, "serving", None, None)
    assert fleet.step(0.0) == []  # it has not seen the nodes yet
    for number, node in enumerate("abc", 1):
        fleet.started(0.1, number, node, 1000 + number)
    fleet.take_nodes({node: Node() for node in "abc"})
    assert fleet.step(0.2) == []


def test_a_new_controller_whose_workers_serve_does_not_say_that_it_cannot_start():
    fleet = FleetState(2)
    fleet.adopt(0.0, 1, 0, 1, "serving", "a", 1)
    for now in range(1, 20):
        fleet.reported(now, 1, (1, 1), True, None)
        for action in fleet.step(now):
            assert isinstance(action, Start)
            fleet.ended(now, action.number, "it crashed")
    assert fleet.status(20.0)["serving"] == 1
    assert not fleet.cannot_start


def test_a_worker_whose_close_raises_is_killed():
    fleet = FleetState(1)
    fleet.adopt(0.0, 1, 0, 1, "serving", "a", 1)
    fleet.scale(0.0, 0)
    assert fleet.step(0.0) == [Drain(1)]
    fleet.drained(0.1, 1)
    assert fleet.step(0.1) == [End(1, drained=True)]
    fleet.failed_to(0.2, 1, "RuntimeError: close has raised")
    assert [action for now in range(1, 1000) for action in fleet.step(now)] != []


def test_a_worker_whose_close_never_returns_is_killed():
    fleet = FleetState(1)
    fleet.adopt(0.0, 1, 0, 1, "serving", "a", 1)
    fleet.scale(0.0, 0)
    assert fleet.step(0.0) == [Drain(1)]
    fleet.drained(0.1, 1)
    assert fleet.step(0.1) == [End(1, drained=True)]
    assert [action for now in range(1, 1000) for action in fleet.step(now)] != []


def test_a_draining_worker_that_is_slow_to_report_is_not_killed_in_its_callbacks():
    fleet = FleetState(1)
    fleet.adopt(0.0, 1, 0, 1, "serving", "a", 1)
    fleet.reported(0.0, 1, (1, 1), True, None)
    fleet.scale(0.0, 0)
    assert fleet.step(0.0) == [Drain(1)]
    fleet.seen((1, 2), frozenset())  # it has left, and its callbacks run; its load takes 6 s to tell
    assert [action for now in range(1, 7) for action in fleet.step(now)] == []


def test_an_update_begins_to_count_its_failures_anew(three):
    three.fails = {2, 3}
    for version in (2, 3):
        three.fleet.update(three.now, version, max_unavailable=1)
        three.run(0.0)
    assert three.fleet.version == 3  # one worker of each has failed twice


def test_an_old_worker_that_is_about_to_join_does_not_join_an_update():
    played = Played(1)
    played.slow = {1}
    played.run()
    played.fleet.started(played.now, 1, "a", 7)
    played.fleet.update(played.now, 2, max_unavailable=1)
    played.slow.clear()
    played.run()
    assert [worker.version for worker in played.serving().values()] == [2]


def test_the_worker_on_a_draining_node_goes_on_while_its_replacement_joins():
    played = Played(1, spread="node")
    played.fleet.take_nodes({"a": Node(), "b": Node()})
    played.run()
    played.slow = {2}
    played.fleet.take_nodes({"a": Node(draining=True), "b": Node()})
    played.run()
    played.fleet.started(played.now, 2, "b", 7)
    assert played.run() == [Join(2)]
    assert played.run(5.0) == []
