"""A member that is stopped and started while callbacks of its former session still run."""

import threading

import pytest
from deployments import LIMIT, STEADY, wait_until
from sharing import IMPATIENT, KEYS, SOON, owned, ring_share, share_out

MODES = pytest.mark.parametrize("exclusive", [False, True], ids=["plain", "exclusive"])


@pytest.fixture
def own(make_deployment):
    """A partition actor with long leases for this test alone, so that its sessions can be counted."""
    deployment = make_deployment(STEADY)
    deployment.deploy()
    return deployment


class Gate:
    """A callback that does not return before the test lets it. Later calls of it return at once."""

    def __init__(self, then=lambda: None):
        self.begun, self.returned = threading.Event(), threading.Event()
        self._go_on, self._then = threading.Event(), then

    def __call__(self, _told):
        if not self.begun.is_set():
            self.begun.set()
            assert self._go_on.wait(LIMIT)
            self._then()
            self.returned.set()

    def open(self):
        self._go_on.set()


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open()


def doubly_owned(first, second, group):
    """Keys that `first` owned both before and after `second` was seen to own them, in one epoch."""
    token = first.fencing_token(group)
    before, theirs, after = owned(first, group), owned(second, group), owned(first, group)
    return sorted({*before} & {*theirs} & {*after}) if token and token == first.fencing_token(group) else []


def restart(member, group):
    member.stop()
    member.start()
    member.join_group(group)


# What the callback that is held up was called for: another member that joins, or the stop itself.
def by_a_join(a, b, group, gate):
    b.join_group(group)
    assert gate.begun.wait(LIMIT)
    restart(a, group)


def by_the_stop(a, b, group, gate):
    restart(a, group)
    assert gate.begun.wait(LIMIT)
    b.join_group(group)


CAUSES = pytest.mark.parametrize("cause", [by_a_join, by_the_stop])


@MODES
@CAUSES
@pytest.mark.parametrize("kind", ["on_lost", "watch_group"])
def test_a_new_session_keeps_its_keys_and_locks_when_the_callbacks_of_the_former_one_return(
    own, group, gate, exclusive, cause, kind
):
    a, b = own.member("a", settings=IMPATIENT), own.member("b", settings=IMPATIENT)
    a.join_group(group, exclusive=exclusive)
    wait_until(lambda: owned(a, group) == KEYS)
    a.run_watchers()  # the callback below is for what comes now
    if kind == "on_lost":
        a.partition(group, KEYS).on_lost(gate)
    else:
        a.watch_group(group, gate)
    a.run_watchers()
    assert a.lock(group).acquire(timeout=LIMIT)
    cause(a, b, group, gate)

    lock, others = a.lock(group), b.lock(group)
    assert lock.acquire(timeout=LIMIT)
    token = lock.fencing_token
    if exclusive:
        moving = KEYS if cause is by_the_stop else ring_share("b", "a", "b")
        assert not {*moving} & {*owned(a, group), *owned(b, group)}  # the callback for them has not returned
    else:
        share_out(group, a, b)
    gate.open()
    assert gate.returned.wait(LIMIT)

    share_out(group, a, b)
    wait_until(lambda: own.call("status")["sessions"] == 2, SOON)  # the former session has ended, and no other
    epoch = wait_until(lambda: a.epoch(group) == b.epoch(group) and a.epoch(group))
    for member in (a, b):  # a round trip of each: what the partition actor had to say has been said
        assert not member.lock(group).acquire(blocking=False)
        assert member.members(group) == ["a", "b"]
    share_out(group, a, b)
    assert a.epoch(group) == b.epoch(group) == epoch
    assert (lock.held, lock.fencing_token, others.held) == (True, token, False)


@MODES
def test_a_stopped_member_owns_nothing_whatever_its_callbacks_still_do(own, group, gate, exclusive):
    a, b = own.member("a", settings=IMPATIENT), own.member("b")
    a.partition(group, KEYS).on_lost(gate)
    a.join_group(group, exclusive=exclusive)
    wait_until(lambda: owned(a, group) == KEYS)
    a.run_watchers()
    lock = a.lock(group)
    assert lock.acquire(timeout=LIMIT)
    a.stop()
    assert gate.begun.wait(LIMIT)
    assert (owned(a, group), lock.held, a.is_active()) == ([], False, False)
    b.join_group(group)
    if exclusive:
        assert owned(b, group) == []  # the callback has not returned
    gate.open()
    wait_until(lambda: owned(b, group) == KEYS, SOON)
    wait_until(lambda: own.call("status")["sessions"] == 1, SOON)
    assert b.lock(group).acquire(timeout=LIMIT)


@MODES
def test_stopping_twice_is_as_stopping_once(own, group, gate, exclusive):
    a, b = own.member("a", settings=IMPATIENT), own.member("b")
    a.partition(group, KEYS).on_lost(gate)
    a.join_group(group, exclusive=exclusive)
    wait_until(lambda: owned(a, group) == KEYS)
    a.run_watchers()
    b.join_group(group)
    assert gate.begun.wait(LIMIT)
    stops = [threading.Thread(target=a.stop) for _ in range(2)]
    for thread in stops:
        thread.start()
    for thread in stops:
        thread.join(LIMIT)
        assert not thread.is_alive()
    a.stop()
    a.start()
    a.join_group(group)
    gate.open()
    share_out(group, a, b)
    wait_until(lambda: own.call("status")["sessions"] == 2, SOON)
    a.stop()
    a.stop()
    wait_until(lambda: owned(b, group) == KEYS, SOON)
    wait_until(lambda: own.call("status")["sessions"] == 1, SOON)


@MODES
@pytest.mark.parametrize("kind", ["on_lost", "watch_group"])
def test_a_stop_within_a_callback_hands_everything_over_when_the_callback_has_returned(own, group, exclusive, kind):
    a, b = own.member("a", settings=IMPATIENT), own.member("b")
    gate = Gate(then=a.stop)
    a.join_group(group, exclusive=exclusive)
    wait_until(lambda: owned(a, group) == KEYS)
    a.run_watchers()
    if kind == "on_lost":
        a.partition(group, KEYS).on_lost(gate)
    else:
        a.watch_group(group, gate)
    a.run_watchers()
    b.join_group(group)
    assert gate.begun.wait(LIMIT)
    gate.open()
    assert gate.returned.wait(SOON)
    assert not a.is_active()
    assert owned(a, group) == []
    wait_until(lambda: owned(b, group) == KEYS, SOON)
    wait_until(lambda: own.call("status")["sessions"] == 1, SOON)


@MODES
def test_a_stop_and_a_start_within_a_callback(own, group, exclusive):
    a, b = own.member("a", settings=IMPATIENT), own.member("b")
    gate = Gate(then=lambda: restart(a, group))
    a.join_group(group, exclusive=exclusive)
    wait_until(lambda: owned(a, group) == KEYS)
    a.partition(group, KEYS).on_lost(gate)
    a.run_watchers()
    b.join_group(group)
    assert gate.begun.wait(LIMIT)
    gate.open()
    assert gate.returned.wait(SOON)
    share_out(group, a, b)
    wait_until(lambda: own.call("status")["sessions"] == 2, SOON)
    share_out(group, a, b)


def test_keys_are_told_as_lost_before_a_new_session_tells_them_as_gained(own, group, gate):
    a = own.member("a", settings=IMPATIENT)
    calls = []
    partition = a.partition(group, KEYS)
    partition.on_gained(lambda keys: calls.append(("gained", keys)))
    partition.on_lost(lambda keys: (gate(keys), calls.append(("lost", keys))))
    a.join_group(group, exclusive=True)
    wait_until(lambda: calls == [("gained", KEYS)])
    restart(a, group)
    assert gate.begun.wait(LIMIT)
    assert calls == [("gained", KEYS)]
    gate.open()
    wait_until(lambda: owned(a, group) == KEYS, SOON)
    wait_until(lambda: calls == [("gained", KEYS), ("lost", KEYS), ("gained", KEYS)], SOON)


def test_one_thread_stops_while_another_starts(own, group):
    """Whoever comes last decides; meanwhile no key has two owners, and afterwards every key has one."""
    a, b = own.member("a", settings=IMPATIENT), own.member("b")
    a.partition(group, KEYS).on_lost(lambda keys: None)
    for member in (a, b):
        member.join_group(group, exclusive=True)
    share_out(group, a, b)
    errors, doubles, over = [], [], threading.Event()

    def repeat(*calls):
        try:
            for _ in range(15):
                for call in calls:
                    call()
        except Exception as error:
            errors.append(error)

    def watch():
        while not over.is_set():
            doubles.extend(doubly_owned(a, b, group))

    watching = threading.Thread(target=watch)
    working = [threading.Thread(target=repeat, args=calls) for calls in ([a.stop], [a.start], [a.stop, a.start])]
    for thread in (watching, *working):
        thread.start()
    for thread in working:
        thread.join(LIMIT)
    over.set()
    watching.join(LIMIT)
    assert not any(thread.is_alive() for thread in working)
    assert (errors, doubles) == ([], [])
    a.start()
    a.join_group(group)
    share_out(group, a, b)
    a.stop()
    assert not a.is_active()
    wait_until(lambda: owned(b, group) == KEYS, SOON)
    wait_until(lambda: own.call("status")["sessions"] == 1, SOON)
