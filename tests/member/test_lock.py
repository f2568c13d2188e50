"""Locks and leaders on a real cluster; the chaos tests attack them harder."""

import asyncio
import contextlib
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray
from deployments import LIMIT, wait_until
from members import LockHolder

from partition_actor import PartitionCoordinator, Settings
from partition_actor.errors import GroupFull, InvalidArgument, NotStarted, PartitionActorUnavailable


@pytest.fixture
def name(group):
    return group


def test_a_lock_is_one_members_until_it_is_released(steady, name):
    first, second = steady.member("first").lock(name), steady.member("second").lock(name)
    assert not first.held
    assert first.acquire()
    assert first.held
    assert not second.acquire(blocking=False)
    assert not second.acquire(timeout=0.05)
    token = first.fencing_token
    assert first.release()
    assert (first.held, first.fencing_token, first.release()) == (False, 0, False)
    assert second.acquire(blocking=False)
    assert second.fencing_token > token
    with pytest.raises(InvalidArgument, match="timeout: got 1"):
        second.acquire(blocking=False, timeout=1)


def test_who_waits_gets_it_when_it_is_released(steady, name):
    first, second = steady.member("first").lock(name), steady.member("second").lock(name)
    with first:
        waiter = threading.Thread(target=second.acquire)
        waiter.start()
        wait_until(lambda: steady.call("status")["locks"][f"lock:{name}"]["waiting"] == ["second"])
        assert not second.held
    waiter.join(LIMIT)
    assert second.held
    holders = steady.call("status")["locks"][f"lock:{name}"]["holders"]
    assert [(holder["id"], holder["shared"], holder["token"]) for holder in holders] == [
        ("second", False, second.fencing_token)
    ]


def test_a_lock_is_shared_by_those_who_say_so(steady, name):
    first, second, third = (steady.member(each).lock(name) for each in ("first", "second", "third"))
    assert first.acquire(shared=True)
    assert first.acquire(shared=True)
    assert second.acquire(shared=True)
    assert not third.acquire(blocking=False)
    assert first.release()
    assert first.held
    assert first.release()
    assert second.release()
    assert third.acquire(blocking=False)
    assert not second.acquire(blocking=False, shared=True)


def test_a_broken_lock_is_free_when_its_holder_knows(steady, name):
    first, second = steady.member("first").lock(name), steady.member("second").lock(name)
    assert not second.break_()
    assert first.acquire()
    assert second.break_()
    assert not first.held
    assert second.acquire(blocking=False)
    assert not first.release()
    assert second.held


def test_on_an_event_loop_that_goes_on_meanwhile(steady, name):
    first, second = steady.member("first"), steady.member("second")

    async def vie():
        async with first.lock(name) as lock:
            assert lock.held
            # More of them than the loop's default executor has threads: none of them may wait in one.
            waiting = [asyncio.ensure_future(second.lock(name).aacquire()) for _ in range(40)]
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(second.lock(name).aacquire(), 0.1)
            assert not await second.lock(name).aacquire(timeout=0.05)
        done, pending = await asyncio.wait(waiting, timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        assert await first.lock(name).abreak()
        assert await first.lock(name).aacquire(timeout=LIMIT)
        other = second.lock(name + "-2")
        assert await other.aacquire(blocking=False)
        assert await other.arelease()
        assert not await other.arelease()

    asyncio.run(vie())


def test_a_stop_releases_everything_and_wakes_who_waits(steady, name):
    first, second, third = (steady.member(each) for each in ("first", "second", "third"))
    lock, failures = first.lock(name), []
    assert lock.acquire()

    def wait_in_vain():
        try:
            third.lock(name).acquire()
        except NotStarted as error:
            failures.append(error)

    waiter = threading.Thread(target=wait_in_vain)
    waiter.start()
    wait_until(lambda: steady.call("status")["locks"][f"lock:{name}"]["waiting"] == ["third"])
    third.stop()
    waiter.join(LIMIT)
    assert failures
    first.stop()
    assert not lock.held
    assert second.lock(name).acquire(blocking=False)
    with pytest.raises(NotStarted):
        lock.acquire()
    with pytest.raises(NotStarted):
        PartitionCoordinator("not started", steady.name, steady.namespace).lock(name).acquire()


def test_the_lock_of_a_killed_worker_is_free_long_before_its_lease_ends(steady, name, spawn):
    worker = spawn(LockHolder, *steady.worker_arguments("worker", name))
    pid = ray.get(worker.pid.remote(), timeout=LIMIT)
    mine = steady.member("mine").lock(name)
    assert not mine.acquire(blocking=False)
    os.kill(pid, signal.SIGKILL)
    assert mine.acquire(timeout=30.0)  # half of the steady leases


def test_a_worker_that_was_stopped_for_longer_than_its_lease_has_lost_its_lock_and_knows(quick, name, spawn):
    worker = spawn(LockHolder, *quick.worker_arguments("worker", name))
    pid = ray.get(worker.pid.remote(), timeout=LIMIT)
    mine = quick.member("mine").lock(name)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert mine.acquire(timeout=LIMIT)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert not ray.get(worker.holds.remote(), timeout=LIMIT)
    assert mine.release()
    assert not ray.get(worker.holds.remote(), timeout=LIMIT)
    assert not ray.get(worker.release.remote(), timeout=LIMIT)


def test_the_partition_actor_is_killed_and_no_lock_changes_hands(make_deployment, name):
    deployment = make_deployment(Settings(ttl=12.0, hold=0.5))
    deployment.deploy()
    first, second = deployment.member("first").lock(name), deployment.member("second").lock(name)
    assert first.acquire()
    token = first.fencing_token
    os.kill(deployment.call("status")["pid"], signal.SIGKILL)
    assert not second.acquire(timeout=0.2)

    def reported():
        try:
            return deployment.call("status")["locks"].get(f"lock:{name}")
        except ray.exceptions.RayActorError:  # it is being restarted
            return None

    assert [holder["token"] for holder in wait_until(reported)["holders"]] == [token]
    assert first.held
    assert first.fencing_token == token
    assert not second.acquire(blocking=False)
    assert first.release()
    assert second.acquire(timeout=LIMIT)
    assert second.fencing_token > token


def test_without_a_partition_actor_one_who_does_not_wait_is_told_so(make_deployment, name):
    member = make_deployment().member("a", settings=Settings(call_timeout=0.3))
    with pytest.raises(PartitionActorUnavailable, match="who has the lock"):
        member.lock(name).acquire(blocking=False)
    assert not member.lock(name).acquire(timeout=0.1)
    with pytest.raises(PartitionActorUnavailable):
        member.lock(name).break_()


def test_a_full_partition_actor_says_so(make_deployment, name):
    deployment = make_deployment(Settings(max_members=1))
    deployment.deploy()
    assert deployment.member("first").lock(name).acquire()
    with pytest.raises(GroupFull):
        deployment.member("second").lock(name).acquire()


def test_one_candidate_leads_and_then_the_next(steady, group):
    first, second = steady.member("first"), steady.member("second")
    told = []
    first.elect(group, lambda event: told.append(("first", event)))
    wait_until(lambda: told)
    assert first.is_leader(group)
    second.elect(group, lambda event: told.append(("second", event)))
    wait_until(lambda: steady.call("status")["locks"][f"leader:{group}"]["waiting"] == ["second"])
    assert not second.is_leader(group)
    assert not second.stand_down(group)
    assert steady.call("get_leader", group)[0] == "first"
    assert first.stand_down(group)
    assert not first.is_leader(group)
    wait_until(lambda: len(told) == 2)
    assert second.is_leader(group)
    second.stop()
    wait_until(lambda: len(told) == 3)
    assert [who for who, _ in told] == ["first", "second", "first"]
    tokens = [event.fencing_token for _, event in told]
    assert tokens == sorted(set(tokens))
    assert {event.group for _, event in told} == {group}
    assert first.stand_down(group, withdraw=True)
    assert steady.call("get_leader", group) is None
    assert not first.is_leader(group)


def test_a_leader_that_lapsed_is_a_candidate_again(quick, group, spawn):
    worker = spawn(LockHolder, *quick.worker_arguments("worker", group))
    ray.get(worker.elect.remote(), timeout=LIMIT)
    wait_until(lambda: ray.get(worker.leads.remote(), timeout=LIMIT))
    pid, mine = ray.get(worker.pid.remote(), timeout=LIMIT), quick.member("mine")
    os.kill(pid, signal.SIGSTOP)
    try:
        mine.elect(group)
        wait_until(lambda: mine.is_leader(group))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert not ray.get(worker.leads.remote(), timeout=LIMIT)
    wait_until(lambda: quick.call("status")["locks"][f"leader:{group}"]["waiting"] == ["worker"])

    async def hand_over():
        return await mine.astand_down(group)

    assert asyncio.run(hand_over())
    wait_until(lambda: ray.get(worker.leads.remote(), timeout=LIMIT))


class InThread:
    """A thread that makes one call after another, so that a test decides their order."""

    def __init__(self):
        self._executor = ThreadPoolExecutor(1)

    def __call__(self, function, *args):
        return self._executor.submit(function, *args).result(LIMIT)


def test_threads_that_share_a_lock_object_release_their_own_hold_only():
    lock, another = (PartitionCoordinator(actor=None).lock("shared object") for _ in range(2))
    first, second = InThread(), InThread()
    first(lock.__enter__)
    assert another.break_()
    assert not first(lambda: lock.held)
    second(lock.__enter__)
    assert second(lambda: lock.held)
    assert not first(lambda: lock.held)
    assert first(lambda: lock.fencing_token) == 0
    first(lock.__exit__, None, None, None)
    assert second(lambda: lock.held)
    assert not another.acquire(blocking=False)
    second(lock.__exit__, None, None, None)
    assert another.acquire(blocking=False)
    another.release()


def test_tasks_that_share_a_lock_object_release_their_own_hold_only():
    lock, another = (PartitionCoordinator(actor=None).lock("shared by tasks") for _ in range(2))

    async def scenario():
        lost, taken, left = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def loses():
            async with lock:
                assert another.break_()
                lost.set()
                await taken.wait()
                assert not lock.held
            left.set()

        async def takes():
            await lost.wait()
            async with lock:
                taken.set()
                await left.wait()
                assert lock.held
                assert not another.acquire(blocking=False)

        await asyncio.wait_for(asyncio.gather(loses(), takes()), LIMIT)

    asyncio.run(scenario())
    assert another.acquire(blocking=False)
    another.release()


def test_any_thread_releases_what_it_did_not_take_itself():
    lock = PartitionCoordinator(actor=None).lock("handed over")
    assert InThread()(lock.acquire)
    assert lock.held
    assert lock.release()
    assert lock.acquire(blocking=False)
    assert lock.release()


@pytest.mark.parametrize("timeout", [None, LIMIT])
@pytest.mark.parametrize("turns", range(8))
def test_a_cancelled_claim_is_withdrawn_or_given_back_whenever_it_is_cancelled(timeout, turns):
    lock, another = (PartitionCoordinator(actor=None).lock("cancelled") for _ in range(2))

    async def scenario():
        assert another.acquire(blocking=False)
        claim = asyncio.ensure_future(lock.aacquire(timeout=timeout))
        for _ in range(turns):
            await asyncio.sleep(0)
        another.release()  # wakes the claim, which is cancelled 0 to 7 turns of the loop after its beginning
        if turns % 2:
            await asyncio.sleep(0)
        claim.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            if await claim:
                assert await lock.arelease()

    asyncio.run(scenario())
    assert another.acquire(blocking=False)
    another.release()


def test_a_lock_whose_name_is_as_long_as_allowed_can_be_broken(steady, name):
    longest = name.ljust(1024, "x")
    first, second = steady.member("first").lock(longest), steady.member("second").lock(longest)
    assert first.acquire()
    assert second.break_()
    assert not first.held
