"""``Partition``: a member's share of some keys, and the callbacks for those that it gains and loses."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from deployments import LIMIT, wait_until

from partition_actor import PartitionCoordinator, Ring
from partition_actor.errors import InvalidArgument

ITEMS = [f"item-{n}" for n in range(300)]


@pytest.fixture
def local():
    """A coordinator of the single-instance mode: every key is its own."""
    with PartitionCoordinator("local", actor=None) as coordinator:
        yield coordinator


# -- what it says of its keys ------------------------------------------------------------------------------------------


def test_length_iteration_and_in_are_about_the_keys_that_this_member_may_work_on_now(steady, group):
    a, b = steady.member("a"), steady.member("b")
    partition = a.partition(group, [*ITEMS, 7, 7])
    assert (len(partition), list(partition), ITEMS[0] in partition) == (0, [], False)
    for member in (a, b):
        member.join_group(group)
    wait_until(lambda: a.members(group) == ["a", "b"])
    ring = Ring(["a", "b"])
    mine = ring.subset("a", [*ITEMS, 7, 7])
    assert list(partition) == partition.keys() == mine
    assert len(partition) == len(mine)
    assert [key for key in ITEMS if key in partition] == [key for key in mine if key in ITEMS]
    assert not any(f"unbound-{n}" in partition for n in range(100))
    assert ("7" in partition) == (7 in partition) == (ring.owner(7) == "a")
    partition.discard(mine[:1])
    assert mine[0] not in partition


def test_keys_are_alike_if_their_texts_are(local):
    partition = local.partition("group", [1, "x", None, "\udcff"])
    assert all(key in partition for key in (1, "1", "x", None, "None", "\udcff"))
    assert not any(key in partition for key in (1.0, "X", "", b"x"))


def test_its_repr_says_what_it_has(local):
    partition = local.partition("group", ["x", "y"])
    assert repr(partition) == "Partition('group', 2 keys, 2 of them this member's, without callbacks)"
    partition.on_lost(print)
    assert repr(partition) == "Partition('group', 2 keys, 2 of them this member's, with callbacks)"
    partition.close()
    assert repr(partition) == "Partition('group', 2 keys, 2 of them this member's, closed)"


def test_its_repr_counts_the_keys_of_this_member(steady, group):
    a, b = steady.member("a"), steady.member("b")
    partition = a.partition(group, ITEMS)
    assert f"{len(ITEMS)} keys, 0 of them" in repr(partition)
    for member in (a, b):
        member.join_group(group)
    wait_until(lambda: a.members(group) == ["a", "b"])
    assert f"{len(ITEMS)} keys, {len(Ring(['a', 'b']).subset('a', ITEMS))} of them" in repr(partition)


# -- users' code while keys are added and discarded --------------------------------------------------------------------


def test_keys_may_be_chosen_by_the_partition_itself(local):
    partition = local.partition("group", ["a", "b"])
    partition.add(key for key in ("b", "c", "d") if key not in partition)
    assert partition.keys() == ["a", "b", "c", "d"]
    partition.discard(key for key in partition if key < "c")
    assert partition.keys() == ["c", "d"]
    partition.add(partition)
    assert partition.keys() == ["c", "d", "c", "d"]
    partition.discard(partition)
    assert partition.keys() == []


@pytest.mark.parametrize("change", ["add", "discard"])
def test_keys_that_fail_half_way_change_nothing(local, change):
    def keys():
        yield "a"
        yield "new"
        raise OSError("no more keys")

    partition = local.partition("group", ["a", "b"])
    with pytest.raises(OSError, match="no more keys"):
        getattr(partition, change)(keys())
    assert partition.keys() == ["a", "b"]
    partition.add(["c"])
    assert partition.keys() == ["a", "b", "c"]


class Asking:
    """A key that uses a partition whenever its text is asked for, or when it is let go."""

    def __init__(self, name, ask=lambda: None, at_last=lambda: None):
        self.name, self.ask, self.at_last = name, ask, at_last

    def __str__(self):
        self.ask()
        return self.name

    def __del__(self):
        self.at_last()


def test_keys_may_use_the_partition_when_they_are_asked_for_their_text(local):
    partition, counted = local.partition("group", ["a"]), []

    def use():
        counted.append(len(partition))
        if "from-a-key" not in partition:
            partition.add(["from-a-key"])

    partition.add([Asking("b", use)])
    assert [str(key) for key in partition] == ["a", "from-a-key", "b"]
    partition.discard(["from-a-key"])
    partition.discard(["b"])
    assert sorted(map(str, partition)) == ["a", "from-a-key"]
    assert counted


def test_keys_may_use_the_partition_when_they_are_let_go(local):
    partition, counted = local.partition("group", ["a"]), []
    partition.add([Asking("b", at_last=lambda: counted.append(len(partition)) or partition.add(["c"]))])
    partition.discard(["b"])
    assert counted == [1]
    assert partition.keys() == ["a", "c"]


def test_nobody_waits_for_the_text_of_a_key(local):
    partition = local.partition("group", ["a", "b"])
    begun, go_on = threading.Event(), threading.Event()
    slow = Asking("slow", lambda: (begun.set(), go_on.wait(LIMIT)))
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(partition.add, [slow])
        try:
            assert begun.wait(LIMIT)
            partition.add(["c"])
            partition.discard(["a"])
            assert partition.keys() == ["b", "c"]
        finally:
            go_on.set()
        adding.result(LIMIT)
    assert [str(key) for key in partition] == ["b", "c", "slow"]


# -- who keeps it, and its end -----------------------------------------------------------------------------------------


def test_one_without_callbacks_is_let_go_when_nobody_holds_it(local):
    partition = local.partition("group", ITEMS)
    partition.add(["more"])
    gone = weakref.ref(partition)
    del partition
    gc.collect()
    assert gone() is None


def test_one_with_callbacks_is_kept_and_told_until_it_is_closed(steady, group):
    a = steady.member("a")
    told = []
    kept = a.partition(group, ITEMS)
    kept.on_gained(told.extend)
    kept = weakref.ref(kept)
    gc.collect()
    a.join_group(group)
    wait_until(lambda: told == ITEMS)
    kept().close()
    wait_until(lambda: (gc.collect(), kept() is None)[1])


def test_a_closed_one_tells_nothing_any_more_and_can_still_be_asked(local):
    told = []
    with local.partition("group", ["a"]) as partition:
        partition.on_gained(lambda keys: told.append(("gained", keys)))
        partition.on_lost(lambda keys: told.append(("lost", keys)))
        wait_until(lambda: told == [("gained", ["a"])])
    partition.add(["b"])
    partition.discard(["a"])
    local.run_watchers()
    assert told == [("gained", ["a"])]
    assert partition.keys() == ["b"]
    for register in (partition.on_gained, partition.on_lost):
        with pytest.raises(InvalidArgument, match=r"^callback: got .*closed"):
            register(print)
    partition.close()


@pytest.mark.parametrize("register", ["on_gained", "on_lost"])
def test_a_callback_may_close_its_partition_and_is_the_last_to_be_called(local, register):
    partition, told, all_registered = local.partition("group", ["a"]), [], threading.Event()

    def close(keys):
        all_registered.wait(LIMIT)
        told.append(keys)
        partition.close()

    getattr(partition, register)(close)
    getattr(partition, register)(lambda keys: told.append("called after close"))
    if register == "on_lost":
        gained = []
        partition.on_gained(gained.append)
        wait_until(lambda: gained)
        partition.discard(["a"])
    all_registered.set()
    wait_until(lambda: "closed" in repr(partition))
    local.run_watchers()
    assert told == [["a"]]


def test_closing_one_leaves_the_others_of_its_group(local):
    told = []
    first, second = local.partition("group", ["a"]), local.partition("group", ["b"])
    for partition in (first, second):
        partition.on_gained(told.extend)
    wait_until(lambda: sorted(told) == ["a", "b"])
    first.close()
    second.add(["c"])
    wait_until(lambda: told[2:] == ["c"])


def test_nobody_waits_for_the_callbacks_of_a_closed_one(steady, group):
    a, b = steady.member("a"), steady.member("b")
    lost = []
    partition = a.partition(group, ITEMS)
    partition.on_lost(lambda keys: lost.append(keys) or threading.Event().wait(LIMIT))
    a.join_group(group, exclusive=True)
    wait_until(lambda: len(partition) == len(ITEMS))
    a.run_watchers()
    partition.close()
    b.join_group(group)
    wait_until(lambda: b.extract_my_subset(group, ITEMS) == Ring(["a", "b"]).subset("b", ITEMS))
    a.run_watchers()
    assert lost == []


# -- what its callbacks are told ---------------------------------------------------------------------------------------


class Told:
    """What a partition has told its callbacks, and the keys that follow from it."""

    def __init__(self, partition):
        self.partition = partition
        self.keys = set()
        self.calls = []
        partition.on_gained(self.on_gained)
        partition.on_lost(self.on_lost)

    def on_gained(self, keys):
        assert not self.keys & set(keys)
        self.keys |= set(keys)
        self.calls.append(("gained", keys))

    def on_lost(self, keys):
        assert self.keys >= set(keys)
        self.keys -= set(keys)
        self.calls.append(("lost", keys))


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_partition_tells_what_is_gained_and_what_is_lost(steady, group, exclusive):
    a, b = steady.member("a"), steady.member("b")
    told_a, told_b = Told(a.partition(group, ITEMS)), Told(b.partition(group, ITEMS))
    a.join_group(group, exclusive=exclusive)
    wait_until(lambda: told_a.calls == [("gained", ITEMS)])
    b.join_group(group)
    ring = Ring(["a", "b"])
    wait_until(lambda: told_b.calls == [("gained", ring.subset("b", ITEMS))])
    wait_until(lambda: told_a.calls[1:] == [("lost", ring.subset("b", ITEMS))])
    assert list(told_a.partition) == ring.subset("a", ITEMS)
    assert len(told_a.partition) + len(told_b.partition) == len(ITEMS)
    b.leave_group(group)
    wait_until(lambda: told_a.keys == set(ITEMS))
    wait_until(lambda: told_b.keys == set())


def test_a_partition_takes_keys_in_and_forgets_them(steady, group):
    a = steady.member("a")
    told = Told(a.partition(group, ["x", "y"]))
    a.join_group(group)
    wait_until(lambda: told.calls == [("gained", ["x", "y"])])
    told.partition.add(["z"])
    wait_until(lambda: told.calls[1:] == [("gained", ["z"])])
    told.partition.discard(["x"])
    wait_until(lambda: told.calls[2:] == [("lost", ["x"])])
    assert list(told.partition) == ["y", "z"]


def test_a_callback_registered_late_hears_of_the_keys_that_there_are(steady, group):
    a = steady.member("a")
    a.join_group(group)
    told = Told(a.partition(group, ITEMS))
    wait_until(lambda: told.calls == [("gained", ITEMS)])


def test_a_key_starts_elsewhere_only_when_the_callback_for_it_has_returned(steady, group):
    a, b = steady.member("a"), steady.member("b")
    begun, go_on = threading.Event(), threading.Event()

    def still_at_work(_keys):
        begun.set()
        go_on.wait(LIMIT)

    a.partition(group, ITEMS).on_lost(still_at_work)
    a.join_group(group, exclusive=True)
    a.run_watchers()
    told_b = Told(b.partition(group, ITEMS))
    wait_until(lambda: a.extract_my_subset(group, ITEMS) == ITEMS)
    b.join_group(group)
    assert begun.wait(LIMIT)
    try:
        moving = Ring(["a", "b"]).subset("b", ITEMS)
        assert not any(b.owns(group, key) for key in moving)
        assert not any(a.owns(group, key) for key in moving)
        assert b.extract_my_subset(group, ITEMS) == []
        assert told_b.calls == []
    finally:
        go_on.set()
    wait_until(lambda: told_b.calls == [("gained", moving)])
    assert b.extract_my_subset(group, ITEMS) == moving


def test_callbacks_work_again_for_a_member_that_was_stopped_and_started(steady, group):
    a = steady.member("a")
    events = []
    a.watch_group(group, events.append)
    told = Told(a.partition(group, ITEMS))
    a.join_group(group, exclusive=True)
    wait_until(lambda: events and told.keys == set(ITEMS))
    a.stop()
    wait_until(lambda: told.keys == set())
    before = len(events)
    a.start()
    a.join_group(group)
    wait_until(lambda: len(events) > before and told.keys == set(ITEMS))
    assert list(told.partition) == ITEMS


def test_a_member_that_stops_while_the_partition_actor_is_away_tells_what_it_loses(make_deployment, group):
    deployment = make_deployment()
    deployment.deploy()
    a = deployment.member("a")
    told = Told(a.partition(group, ITEMS))
    a.join_group(group)
    wait_until(lambda: told.keys == set(ITEMS))
    deployment.shutdown()
    a.stop()
    wait_until(lambda: told.keys == set())


@pytest.mark.parametrize("first", ["on_lost", "on_gained"])
def test_a_callback_registered_later_hears_of_the_keys_that_there_are(local, first):
    partition, gained = local.partition("group", ["a", "b"]), []
    getattr(partition, first)(lambda keys: None)
    local.run_watchers()
    partition.on_gained(gained.extend)
    local.run_watchers()
    wait_until(lambda: gained == ["a", "b"])
    partition.add(["c"])
    local.run_watchers()
    wait_until(lambda: gained == ["a", "b", "c"])
