"""How a fleet's status reaches the partition actor: at most one call at a time, and nobody waits for it."""

import threading
from collections import deque
from concurrent.futures import Future
from contextlib import contextmanager

import pytest
from deployments import LIMIT, wait_until
from fleet_statuses import fleet, worker
from ray.exceptions import ActorDiedError, RayTaskError

from partition_actor.actor.fleets import Fleets
from partition_actor.errors import InvalidArgument
from partition_actor.fleet import teller as module
from partition_actor.fleet.controller import LONGEST_REASON
from partition_actor.fleet.spec import FleetSpec
from partition_actor.fleet.teller import StatusTeller, shortened


class Ray:
    """As much of Ray as a teller needs; an actor under a name takes calls and answers when it is told to."""

    def __init__(self):
        self.is_there = True
        self.looked_up = 0
        self.told = []
        self.answers = deque()
        """To the calls that come next: an error, or None."""
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.note_fleet = self

    def is_initialized(self):
        return self.is_there

    def get_actor(self, name, namespace):
        self.looked_up += 1
        return self

    def remote(self, status):
        self.told.append(status)
        return self

    def future(self):
        """The answer to the call."""
        future, answer = Future(), self.answers.popleft() if self.answers else None

        def settle():
            self.may_answer.wait(LIMIT)
            if answer is None:
                future.set_result(None)
            else:
                future.set_exception(answer)

        threading.Thread(target=settle, daemon=True).start()
        return future

    @contextmanager
    def stays(self):
        yield self.is_there


@pytest.fixture
def ray(monkeypatch):
    played = Ray()
    monkeypatch.setattr(module, "ray", played)
    monkeypatch.setattr(module, "ray_stays", played.stays)
    monkeypatch.setattr(module, "future_of", lambda reference: reference.future())
    monkeypatch.setattr(module, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(module, "NEWS_INTERVAL", 0.0)
    yield played
    played.is_there = False
    played.may_answer.set()


@pytest.fixture
def teller(ray):
    spec = FleetSpec("billers", "pollers", True, "partition-actor", "ns", None, False, None, None, 60.0, 300.0)
    teller = StatusTeller(spec)
    yield teller
    teller.tell(fleet(over=True))
    ray.may_answer.set()
    teller._thread.join(LIMIT)
    assert not teller._thread.is_alive()


def sizes(ray):
    return [status["size"] for status in ray.told]


def test_what_changes_is_told_and_what_stays_only_after_a_while(ray, teller, monkeypatch):
    teller.tell(fleet(size=1))
    wait_until(lambda: sizes(ray) == [1])
    monkeypatch.setattr(module, "STATUS_INTERVAL", float("inf"))
    for seconds in (1.0, 2.0):
        teller.tell(fleet(size=1, workers=[worker(0, seconds=seconds), worker(1)]))
    teller.tell(fleet(size=2))
    wait_until(lambda: sizes(ray) == [1, 2])
    monkeypatch.setattr(module, "STATUS_INTERVAL", 0.0)
    teller.tell(fleet(size=2))
    wait_until(lambda: sizes(ray) == [1, 2, 2])


def test_while_a_call_is_under_way_there_is_no_other_and_then_only_the_latest_is_told(ray, teller):
    ray.may_answer.clear()
    teller.tell(fleet(size=1))
    wait_until(lambda: sizes(ray) == [1])
    for size in (2, 3, 4):
        teller.tell(fleet(size=size))
    assert sizes(ray) == [1]
    ray.may_answer.set()
    wait_until(lambda: sizes(ray) == [1, 4])


def test_a_partition_actor_that_was_replaced_is_found_again(ray, teller):
    ray.answers.extend([ActorDiedError(), None])
    for size in (1, 2, 3):
        teller.tell(fleet(size=size))
        wait_until(lambda size=size: size in sizes(ray))
    assert ray.looked_up == 2


def test_a_refusal_is_logged_once_and_the_next_status_is_told(ray, teller, caplog):
    refusal = RayTaskError("note_fleet", "", InvalidArgument("status: got 5"))
    ray.answers.extend([refusal, refusal])
    for size in (1, 2, 3):
        teller.tell(fleet(size=size))
        wait_until(lambda size=size: size in sizes(ray))
    assert [(each.levelname, "status: got 5" in each.getMessage()) for each in caplog.records] == [("WARNING", True)]
    assert ray.looked_up == 1


def test_a_partition_actor_of_a_version_before_is_left_alone(ray, teller):
    del ray.note_fleet
    for size in (1, 2):
        teller.tell(fleet(size=size))
        wait_until(lambda: teller._latest is None)
    ray.note_fleet = ray
    teller.tell(fleet(size=3))
    wait_until(lambda: sizes(ray) == [3])


def test_of_many_workers_those_that_do_not_serve_are_told_first(monkeypatch):
    monkeypatch.setattr(module, "MOST_WORKERS", 3)
    workers = [worker(slot, phase="starting" if slot in (2, 4) else "serving") for slot in range(5)]
    events = [{"seconds_ago": 100.0 - number, "what": str(number)} for number in range(100)]
    found = shortened(fleet(workers=workers, events=events))
    assert [each["slot"] for each in found["workers"]] == [0, 2, 4]
    assert (found["all_workers"], found["size"]) == (5, 5)
    assert [each["what"] for each in found["events"]] == [str(number) for number in range(50, 100)]


def test_a_fleet_of_the_most_workers_that_are_told_fits_into_what_the_partition_actor_keeps():
    name = "n" * 512
    workers = [worker(slot, name, reason="ü" * LONGEST_REASON, node="f" * 56) for slot in range(2 * 500)]
    events = [{"seconds_ago": 1.0, "what": "ü" * (LONGEST_REASON + 100)} for _ in range(100)]
    waiting = [{"slot": slot, "seconds": 1.0, "reason": "ü" * LONGEST_REASON} for slot in range(1000)]
    Fleets().note(0.0, shortened(fleet(name, workers=workers, events=events, waiting=waiting)))
