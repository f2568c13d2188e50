"""One driver in many threads: tooz's DISTRIBUTED_ACROSS_THREADS."""

import contextlib
import random
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from deployments import LIMIT, wait_until

pytest.importorskip("tooz")

from tooz import ToozError, coordination

THREADS = 20
ROUNDS = 10
STRESS = 3.0
"""Seconds for which the threads of the last test call everything."""


def at_once(call, threads=THREADS):
    """Call `call(number)` in so many threads at the same moment; returns their results, and errors of tooz as such."""
    barrier = threading.Barrier(threads)

    def run(number):
        barrier.wait(LIMIT)
        try:
            return call(number)
        except ToozError as error:
            return type(error)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))


def members(driver, group):
    return driver.get_members(group).get()


def claims(deployment, group):
    """How many sessions lead a group or wait to."""
    lock = deployment.call("status")["locks"].get(f"leader:{group.decode()}")
    return len(lock["holders"]) + len(lock["waiting"]) if lock else 0


def test_distributed_across_threads(tooz):
    driver, name = tooz.driver(b"member"), uuid.uuid4().hex
    groups = [f"{name}-{number}".encode() for number in range(12)]
    holders, holds = [], []

    def work(group):
        driver.join_group_create(group)
        for _ in range(5):
            with driver.get_lock(name.encode()):
                holders.append(group)
                time.sleep(0.002)
                holds.append(list(holders))
                holders.remove(group)
        driver.leave_group(group).get()
        return members(driver, group)

    with ThreadPoolExecutor(len(groups)) as pool:
        assert list(pool.map(work, groups)) == [set()] * len(groups)
    assert sorted(holds) == sorted([group] for group in groups * 5)


def test_threads_that_run_the_watchers_at_once_are_one_candidate(tooz, group):
    driver, other = tooz.driver(b"member", "?timeout=600"), tooz.driver(b"other", "?timeout=600")
    driver.create_group(group).get()
    for _ in range(ROUNDS):
        elected = []
        driver.watch_elected_as_leader(group, elected.append)
        at_once(lambda _: driver.run_watchers())
        assert len(elected) == claims(tooz.deployment, group) == 1
        at_once(lambda _: driver.run_elect_coordinator())
        assert len(elected) == claims(tooz.deployment, group) == 1
        assert at_once(lambda _: driver.stand_down_group_leader(group)).count(True) == 1
        assert claims(tooz.deployment, group) == 1
        driver.unwatch_elected_as_leader(group, elected.append)
        wait_until(lambda: claims(tooz.deployment, group) == 0)
    other.watch_elected_as_leader(group, print)
    other.run_elect_coordinator()
    assert driver.get_leader(group).get() == b"other"


def test_a_member_that_stops_watching_while_the_watchers_run_is_no_candidate(tooz, group):
    driver = tooz.driver(b"member", "?timeout=600")
    driver.create_group(group).get()
    for _ in range(ROUNDS):
        driver.watch_elected_as_leader(group, print)
        at_once(lambda number: driver.run_watchers() if number else driver.unwatch_elected_as_leader(group, print), 4)
        wait_until(lambda: claims(tooz.deployment, group) == 0)


def test_each_change_is_told_once_and_in_order(tooz, group):
    driver, other = tooz.driver(b"member", "?timeout=600"), tooz.driver(b"other", "?timeout=600")
    driver.create_group(group).get()
    told = []
    driver.watch_join_group(group, lambda event: (time.sleep(0.001), told.append("joined")))
    driver.watch_leave_group(group, lambda event: told.append("left"))
    for _ in range(ROUNDS):
        other.join_group(group).get()
        at_once(lambda _: driver.run_watchers())
        other.leave_group(group).get()
        at_once(lambda _: driver.run_watchers())
    assert told == ["joined", "left"] * ROUNDS


def test_of_threads_that_join_or_leave_at_once_one_does_it(tooz, group):
    driver = tooz.driver(b"member", "?timeout=600")
    driver.create_group(group).get()
    for _ in range(ROUNDS):
        joined = at_once(lambda _: driver.join_group(group).get())
        assert sorted(map(str, joined)) == sorted(map(str, [None, *[coordination.MemberAlreadyExist] * (THREADS - 1)]))
        left = at_once(lambda _: driver.leave_group(group).get())
        assert sorted(map(str, left)) == sorted(map(str, [None, *[coordination.MemberNotJoined] * (THREADS - 1)]))


def test_capabilities_that_change_during_a_leave_do_not_undo_it(tooz, group):
    driver = tooz.driver(b"member", "?timeout=600")
    driver.create_group(group).get()
    for _ in range(ROUNDS):
        driver.join_group(group).get()
        left, *updated = at_once(
            lambda number: (driver.update_capabilities(group, number) if number else driver.leave_group(group)).get()
        )
        assert left is None
        assert set(updated) <= {None, coordination.MemberNotJoined}
        assert members(driver, group) == set()


def test_threads_that_start_or_stop_at_once_do_it_once(tooz):
    driver = tooz.driver(b"member", started=False)
    for _ in range(3):
        assert at_once(lambda _: driver.start()).count(None) == 1
        assert driver.get_groups().get() is not None
        assert at_once(lambda _: driver.stop()).count(None) == 1


class Stress:
    """One thread that calls everything in any order. Only errors of tooz are expected."""

    def __init__(self, driver, groups, number):
        self.driver, self.groups, self.number = driver, groups, number
        self.random = random.Random(number)
        self.watched = []
        self.calls = [
            lambda group: driver.create_group(group).get(),
            lambda group: driver.delete_group(group).get(),
            lambda group: driver.join_group(group, number).get(),
            lambda group: driver.join_group_create(group),
            lambda group: driver.leave_group(group).get(),
            lambda group: driver.update_capabilities(group, {"number": number}).get(),
            lambda group: driver.get_members(group).get(),
            lambda group: driver.get_member_capabilities(group, b"member").get(),
            lambda group: driver.get_member_info(group, b"member").get(),
            lambda group: driver.get_members_with_capabilities(group).get(),
            lambda group: driver.get_groups().get(),
            lambda group: driver.get_leader(group).get(),
            lambda group: driver.stand_down_group_leader(group),
            lambda group: driver.run_watchers(),
            lambda group: driver.run_elect_coordinator(),
            lambda group: driver.heartbeat(),
            lambda group: self.watch("join_group", group),
            lambda group: self.watch("leave_group", group),
            lambda group: self.watch("elected_as_leader", group),
            lambda group: self.unwatch(),
            lambda group: self.partition(group),
            lambda group: self.lock(group),
        ]
        self.done = 0

    def noted(self, event):
        assert event.group_id in self.groups

    def watch(self, kind, group):
        getattr(self.driver, f"watch_{kind}")(group, self.noted)
        self.watched.append((kind, group))

    def unwatch(self):
        if self.watched:
            kind, group = self.watched.pop(self.random.randrange(len(self.watched)))
            getattr(self.driver, f"unwatch_{kind}")(group, self.noted)

    def partition(self, group):
        partitioner = self.driver.join_partitioned_group(group)
        try:
            partitioner.belongs_to_self("resource")
        finally:
            self.driver.leave_partitioned_group(partitioner)

    def lock(self, group):
        lock = self.driver.get_lock(b"lock-" + group)
        if lock.acquire(timeout=0.2):
            lock.heartbeat()
            assert lock.release()

    def run(self, until):
        while time.monotonic() < until:
            with contextlib.suppress(ToozError):
                self.random.choice(self.calls)(self.random.choice(self.groups))
            self.done += 1
        while self.watched:
            self.unwatch()


def test_any_thread_may_call_anything_at_any_time(tooz, group):
    driver, other = tooz.driver(b"member", "?timeout=600"), tooz.driver(b"other", "?timeout=600")
    groups = [group + b"-%d" % number for number in range(3)]
    threads = [Stress(driver, groups, number) for number in range(THREADS)]
    until = time.monotonic() + STRESS
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda thread: thread.run(until), threads))
    assert all(thread.done for thread in threads)
    for each in groups:
        wait_until(lambda each=each: claims(tooz.deployment, each) == 0)
        other.join_group_create(each)
        if b"member" in members(other, each):
            driver.leave_group(each).get()
        driver.heartbeat()
        assert members(other, each) == {b"other"}
        assert other.get_lock(b"lock-" + each).acquire(blocking=False)
