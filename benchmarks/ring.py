"""How fast a member learns its keys, and what a change of members costs, against the rings that others use.

Same keys, members and machine for all; medians of repeats, in CPU seconds. The peers: a loop over uhashring with the
same hash and with its default hash, tooz's HashRing and Partitioner, and the ring of Ray Serve's consistent-hash router
if ``ray[serve]`` and ``mmh3`` are installed. Takes about ten minutes; ``--quick`` takes seconds.
"""

from __future__ import annotations

import pickle
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any

import numpy as np
from _report import Target, arguments, save, show, show_targets
from _report import median_seconds as median_of
from _ring_peers import DEFAULT_HASH, SAME_HASH, Peer, peers

from partition_actor.ring import KeyIndex, Ring

OURS, ME = "partition_actor", "worker-3"
PACKAGES = ["partition-actor", "numpy", "xxhash", "uhashring", "tooz", "ray", "mmh3"]

Row = dict[str, Any]

# Everything here computes on one thread and never waits, so CPU time equals the time on an idle machine, even on a busy
# one.
median_seconds = partial(median_of, clock=time.process_time)


@dataclass(frozen=True)
class Plan:
    """What to measure. ``members`` and ``keys`` are the sizes; the promises are about the ``main_`` sizes."""

    members: tuple[int, ...] = (10, 100, 1000)
    keys: tuple[int, ...] = (10_000, 1_000_000, 10_000_000)
    main_members: int = 100
    main_keys: int = 1_000_000
    repeats: int = 5
    peer_repeats: int = 3
    vnodes: tuple[int, ...] = (10, 20, 40, 80, 160, 320, 640, 1280)
    changes: int = 10

    def peer_plan(self, all_peers: list[Peer], members: int, keys: int) -> tuple[list[Peer], int]:
        """Which peers run at this size, and how often: minutes of tooz at ten million keys would show nothing new."""
        if keys <= self.main_keys:
            return all_peers, self.peer_repeats
        return (all_peers if members == self.main_members else all_peers[:2]), 1


QUICK = Plan((10, 50), (1_000, 10_000), 50, 10_000, 2, 1, (10, 160), 2)


def names(count: int) -> list[str]:
    return [f"worker-{i}" for i in range(count)]


def first_subsets(plan: Plan, all_peers: list[Peer], keys: list[str]) -> list[Row]:
    """A member's keys out of keys that were never hashed before, on a ring that is built already."""
    rows: list[Row] = []
    for members in plan.members:
        ids = names(members)
        for count in plan.keys:
            some = keys[:count]
            size = {"members": members, "keys": count}
            seconds = median_seconds(partial(Ring(ids).subset, ME, some), plan.repeats)
            rows.append({"who": OURS, **size, "seconds": seconds, "repeats": plan.repeats})
            chosen, repeats = plan.peer_plan(all_peers, members, count)
            for peer in chosen:
                seconds = median_seconds(partial(peer.subset, peer.build(ids), ME, some), repeats)
                rows.append({"who": peer.name, **size, "seconds": seconds, "repeats": repeats})
    return rows


def after_a_join(plan: Plan, keys: list[str]) -> list[Row]:
    """The subset after one member joined, by a KeyIndex, with and without the change of the ring."""
    rows: list[Row] = []
    for count in plan.keys:
        some = keys[:count]
        built = median_seconds(partial(KeyIndex, some), plan.peer_repeats if count <= plan.main_keys else 1)
        index = KeyIndex(some)
        for members in plan.members:
            rows.append({"members": members, "keys": count, "index": built, **_asked(index, members, plan.repeats)})
    return rows


def _asked(index: KeyIndex[str], members: int, repeats: int) -> Row:
    ring = Ring(names(members))
    changed = ring.with_members(["newcomer"])
    # Another member each time: keys that were just returned are in the CPU cache, and a user's keys are not.
    who = cycle(names(members))
    asks: dict[str, Callable[[], object]] = {
        "change_and_subset": lambda: index.subset(ring.with_members(["newcomer"]), next(who)),
        "subset": lambda: index.subset(changed, next(who)),
        "gained": lambda: index.gained(ring, changed, "newcomer"),
        "lost": lambda: index.lost(ring, changed, next(who)),
    }
    return {name: median_seconds(ask, repeats * 5) for name, ask in asks.items()}


def handoff(plan: Plan, keys: list[str]) -> list[Row]:
    """A subset while three members lag two epochs behind, against one without laggards."""
    some = keys[: plan.main_keys]
    index = KeyIndex(some)
    return [_handed_over(index, some, members, plan.repeats) for members in plan.members]


def _handed_over(index: KeyIndex[str], keys: list[str], members: int, repeats: int) -> Row:
    first = Ring(names(members))
    second = first.with_members(["newcomer"])
    ring = second.with_members(removed=["worker-5"])
    withheld = [(old, holder) for old in (first, second) for holder in ("worker-5", "worker-6", "worker-7")]
    # Another member each time, so that nothing is cached.
    who = cycle(names(members))
    asks: dict[str, Callable[[], object]] = {
        "steady": lambda: ring.subset(next(who), keys),
        "lagging": lambda: ring.subset(next(who), keys, withheld),
        "index_steady": lambda: index.subset(ring, next(who)),
        "index_lagging": lambda: index.subset(ring, next(who), withheld),
    }
    seconds = {name: median_seconds(ask, repeats * (5 if "index" in name else 1)) for name, ask in asks.items()}
    return {"members": members, "keys": len(keys), **seconds}


class Ours:
    """partition_actor in the shape of a peer, whose rings change in place."""

    name = OURS

    def build(self, members: list[str]) -> list[Ring]:
        return [Ring(members)]

    def join(self, ring: list[Ring], member: str) -> None:
        ring[0] = ring[0].with_members([member])

    def leave(self, ring: list[Ring], member: str) -> None:
        ring[0] = ring[0].with_members(removed=[member])

    def subset(self, ring: list[Ring], member: str, keys: list[str]) -> list[str]:
        return ring[0].subset(member, keys)


def changes(plan: Plan, all_peers: list[Peer]) -> list[Row]:
    """Time and memory to build a ring; time to apply one join and one death.

    Peers take turns, so that other load on the machine affects all of them alike.
    """
    rows: list[Row] = []
    for members in plan.members:
        ids = names(members)
        everyone: list[Peer] = [Ours(), *all_peers]
        times: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in everyone}
        for _ in range(plan.peer_repeats):
            for peer in everyone:
                times[peer.name].append(_built_and_changed(peer, ids, plan.repeats))
        for peer in everyone:
            medians = {what: median(took[what] for took in times[peer.name]) for what in ("build", "join", "leave")}
            size = _bytes_of(partial(peer.build, ids))
            rows.append({"who": peer.name, "members": members, **medians, "bytes": size})
    return rows


def _built_and_changed(peer: Peer, ids: list[str], repeats: int) -> dict[str, float]:
    rings: list[Any] = []
    build = median_seconds(lambda: rings.append(peer.build(ids)), 1)
    joins, leaves = [], []
    for _ in range(repeats):
        joins.append(median_seconds(partial(peer.join, rings[0], "newcomer"), 1))
        leaves.append(median_seconds(partial(peer.leave, rings[0], "newcomer"), 1))
    return {"build": build, "join": median(joins), "leave": median(leaves)}


def _bytes_of(make: Callable[[], object]) -> int:
    make()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        made = make()
        after = tracemalloc.get_traced_memory()[0]
        del made
        return after - before
    finally:
        tracemalloc.stop()


def single_key(plan: Plan, all_peers: list[Peer], keys: list[str]) -> list[Row]:
    """Seconds to find the owner of a single key."""
    ids, some = names(plan.main_members), keys[:20_000]
    ring = Ring(ids)
    rows = [
        {"who": OURS, "seconds": median_seconds(lambda: [ring.owner(key) for key in some], plan.repeats) / len(some)}
    ]
    for peer in all_peers:
        seconds = median_seconds(partial(peer.subset, peer.build(ids), ME, some), plan.peer_repeats)
        rows.append({"who": peer.name, "seconds": seconds / len(some)})
    return rows


def sharing(plan: Plan) -> list[Row]:
    """The cost of a ring to a process: built, derived from the previous one, or unpickled from another process."""
    rows = []
    for members in plan.members:
        ids = names(members)
        ring = Ring(ids)
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(ring, protocol=5, buffer_callback=buffers.append)
        rows.append(
            {
                "members": members,
                "made": median_seconds(partial(Ring, ids), plan.repeats),
                "changed": median_seconds(partial(ring.with_members, ["newcomer"]), plan.repeats * 5),
                "taken": median_seconds(partial(pickle.loads, head, buffers=buffers), plan.repeats * 5),
                "head_bytes": len(head),
                "array_bytes": sum(buffer.raw().nbytes for buffer in buffers),
            }
        )
    return rows


def balance(plan: Plan, keys: list[str]) -> list[Row]:
    """The largest share and the largest number of keys over the mean, against the number of virtual nodes."""
    members, some = plan.main_members, keys[: plan.main_keys]
    rows = []
    for vnodes in plan.vnodes:
        ring = Ring(names(members), vnodes)
        counts = np.bincount(ring.owners_of(some), minlength=members)
        rows.append(
            {
                "vnodes": vnodes,
                "members": members,
                "share_max_over_mean": max(ring.share().values()) * members,
                "share_min_over_mean": min(ring.share().values()) * members,
                "keys_max_over_mean": float(counts.max() / counts.mean()),
            }
        )
    return rows


def movement(plan: Plan, keys: list[str]) -> Row:
    """Keys that single joins and leaves move, against the shares and against the ideal 1/n."""
    members, some = plan.main_members, keys[: plan.main_keys]
    ring = Ring(names(members))
    before = np.array(list(ring.members))[ring.owners_of(some)]
    result: Row = {"members": members, "keys": len(some), "changes": plan.changes, "strays": 0}
    for kind in ("join", "leave"):
        moved = share = 0.0
        for i in range(plan.changes):
            who = f"newcomer-{i}" if kind == "join" else f"worker-{i}"
            changed = ring.with_members([who]) if kind == "join" else ring.with_members(removed=[who])
            after = np.array(list(changed.members))[changed.owners_of(some)]
            differ = before != after
            moved += float(differ.mean())
            share += (changed if kind == "join" else ring).share()[who]
            result["strays"] += int((differ & (before != who) & (after != who)).sum())
        ideal = 1 / (members + (kind == "join"))
        result[kind] = {"moved": moved / plan.changes, "share": share / plan.changes, "ideal": ideal}
    return result


def promises(plan: Plan, results: Row, bytes_a_key: dict[str, float]) -> list[Target]:
    """The promises about the ring, against this run."""
    size = {"members": plan.main_members, "keys": plan.main_keys}

    def find(rows: list[Row], **wanted: object) -> Row:
        return next(row for row in rows if wanted.items() <= row.items())

    ours, same, default = (
        find(results["first_subset"], who=who, **size)["seconds"] for who in (OURS, SAME_HASH, DEFAULT_HASH)
    )
    joined = find(results["after_a_join"], **size)
    large = max(plan.members)
    our_ring, their_ring = (find(results["changes"], who=who, members=large) for who in (OURS, SAME_HASH))
    moved, lag = results["movement"], find(results["handoff"], members=plan.main_members)
    what = f"{plan.main_keys:,} keys, {plan.main_members} members"
    return [
        Target(f"first subset of {what}: faster than uhashring's loop, same hash", 4, same / ours),
        Target(f"first subset of {what}: faster than uhashring's loop, its default", 7, default / ours),
        Target("subset after a join, by KeyIndex: faster than uhashring's loop", 500, same / joined["subset"]),
        Target("the same, the ring's change included", 500, same / joined["change_and_subset"]),
        Target(
            f"a join to {large} members: faster than uhashring's add_node", 15, their_ring["join"] / our_ring["join"]
        ),
        Target(f"a join to {large} members: faster than its rebuild", 100, their_ring["build"] / our_ring["join"]),
        *(
            Target(f"KeyIndex, {name}: beyond the keys", 24, size, "B/key", at_least=False)
            for name, size in bytes_a_key.items()
        ),
        *(
            Target(
                f"keys moved by a {kind} over the share",
                1.05,
                moved[kind]["moved"] / moved[kind]["share"],
                at_least=False,
            )
            for kind in ("join", "leave")
        ),
        Target("keys moved between members that stayed", 0, moved["strays"], "keys", at_least=False),
        Target(
            "subset in a hand-off over one without laggards",
            3,
            lag["lagging"] / lag["steady"],
            at_least=False,
        ),
        Target("the same by KeyIndex", 3, lag["index_lagging"] / lag["index_steady"], at_least=False),
    ]


def show_all(results: Row) -> None:
    for title, name in (
        ("First subset", "first_subset"),
        ("Subset after a join, by KeyIndex (seconds)", "after_a_join"),
        ("The ring itself (seconds, bytes)", "changes"),
        ("The owner of one key, in a loop", "single_key"),
        ("A ring for another process (seconds, bytes)", "sharing"),
        ("Balance against virtual nodes", "balance"),
        ("A subset in a hand-off (seconds)", "handoff"),
    ):
        rows = results[name]
        show(title, list(rows[0]), [list(row.values()) for row in rows])


def main() -> None:
    options = arguments(__doc__)
    plan = QUICK if options.quick else Plan()
    all_peers, left_out = peers()
    for reason in left_out:
        print(f"left out: {reason}")
    keys = [f"resource-{i:08d}" for i in range(max(plan.keys))]
    some = keys[: plan.main_keys]
    bytes_a_key = {name: _bytes_of(partial(KeyIndex, some, name)) / len(some) for name in ("xxh3", "md5")}
    results: Row = {
        "first_subset": first_subsets(plan, all_peers, keys),
        "after_a_join": after_a_join(plan, keys),
        "changes": changes(plan, all_peers),
        "single_key": single_key(plan, all_peers, keys),
        "sharing": sharing(plan),
        "balance": balance(plan, keys),
        "movement": movement(plan, keys),
        "handoff": handoff(plan, keys),
        "index_bytes_a_key": bytes_a_key,
        "left_out": left_out,
        "clock": "CPU time of the process, in seconds",
    }
    targets = promises(plan, results, bytes_a_key)
    show_all(results)
    show_targets(targets)
    print(save("ring", options.out, options.quick, PACKAGES, targets, results))


if __name__ == "__main__":
    main()
