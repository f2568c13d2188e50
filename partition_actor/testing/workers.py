"""The simulated members: drivers of the production ``MemberState``, their locks, and callers of a bare handle."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from partition_actor.core.epochs import Epoch
from partition_actor.core.lock_requests import LockRequest
from partition_actor.core.member import Change, MemberState
from partition_actor.core.messages import Reply
from partition_actor.core.share import Share
from partition_actor.core.views import View
from partition_actor.testing.partition_actors import Client, SimulatedPartitionActor
from partition_actor.testing.world import World

KEYS_PER_GROUP = 6
MAX_LOCK_REQUESTS = 3
"""Locks that a member wants or holds at a time."""


def keys_of(group: str) -> tuple[str, ...]:
    """The keys that the members of a group share."""
    return tuple(f"{group}/{number}" for number in range(KEYS_PER_GROUP))


def key_bits(world: World) -> dict[str, int]:
    """The bit of each key of the exclusive groups in a set of keys."""
    keys = [key for group, exclusive in world.conditions.groups if exclusive for key in keys_of(group)]
    return {key: 1 << position for position, key in enumerate(keys)}


@dataclass(slots=True)
class Holding:
    """What a worker holds of an exclusive group."""

    view: View | None = None
    share: int = 0
    """What `view` lets the worker take up while its lease runs."""
    letting_go: list[list[Any]] = field(default_factory=list)
    """``[epoch, keys]`` for each change whose callbacks have not returned, oldest first; those of the first run."""


class Worker(Client):
    """A process with a ``MemberState``. It works on every key as soon and as long as it may.

    `watched`: the partition actor has a death watch on it. `actors` are all lives of the partition actor, oldest first.
    """

    def __init__(
        self, world: World, name: str, member_id: str, actors: Sequence[SimulatedPartitionActor], weight: int = 1
    ) -> None:
        super().__init__(world, name, member_id, actors[-1])
        self._actors = actors
        self.watched = world.rng.random() < 0.5
        self.member_state = MemberState(member_id, self.session, world.settings)
        self.holdings = {group: Holding() for group, exclusive in world.conditions.groups if exclusive}
        self._bits = key_bits(world)
        self._generation = 0
        for group, mode in world.conditions.groups:
            self._enter(group, mode, weight)
        self.send_soon()
        if world.conditions.locks:
            LockUser(self)

    def _enter(self, group: str, exclusive: bool, weight: int) -> None:
        self.member_state.join(group, weight, exclusive=exclusive)

    def send_soon(self, delay: float = 0.001) -> None:
        """Send the next request `delay` seconds from now, and none before."""
        self._generation += 1
        self.world.later(delay, self, self._send, self._generation)

    def _send(self, generation: int) -> bool:
        if generation != self._generation:
            return False
        world, settings = self.world, self.world.settings
        if world.conditions.any_route and world.rng.random() < 0.15:
            self.route = world.rng.choice([each for each in self._actors if each.alive] or [self.route])
        route = self.route
        world.send(self, route, route.on_request, self, self.member_state.request(self.clock.now()))
        self.send_soon(self.member_state.interval * settings.ttl / settings.hold / 2)
        return True

    def on_reply(self, reply: Reply) -> None:
        """Adopt what it says, and send the next request at once or when it is due."""
        self._end_work_after_lapse()
        working = {name: self._may_take_up(name) for name in self.holdings}
        changes = self.member_state.receive(reply)
        if changes is None:
            return
        adopted = [self._take(change, working.get(change.group, 0)) for change in changes]
        if any(adopted) or reply["resync"] or self.world.conditions.holds:
            self.send_soon()
        else:
            self.send_soon(self.member_state.interval * self.world.rng.uniform(0.9, 1.0))

    def _take(self, change: Change, working: int) -> bool:
        holding = self.holdings.get(change.group)
        if holding is None:
            return change.after is not None and self.member_state.acknowledge(change.group, change.after.epoch) > 0
        lost = working & ~self._share(change.group)
        holding.letting_go.append([change.after.epoch if change.after else None, lost])
        return len(holding.letting_go) == 1 and self._run_callbacks(change.group)

    def _run_callbacks(self, group: str) -> bool:
        """Run the callbacks of pending changes, oldest first, until one is slow; True when others wait for an ack."""
        holding, world, adopted = self.holdings[group], self.world, False
        while holding.letting_go:
            luck = world.rng.random() if holding.letting_go[0][1] else 0.9
            if luck > 0.98:
                world.counts["raising callback"] += 1  # for the driver, it has returned
            if luck < world.conditions.slow_callbacks:
                world.counts["slow callback"] += 1
                duration = world.rng.uniform(0.0, 2 * world.settings.handoff_timeout)
                world.later(duration, self, self._callbacks_returned, group)
                break
            adopted = self._let_go(group) or adopted
        return adopted

    def _callbacks_returned(self, group: str) -> None:
        adopted = self._let_go(group)
        if self._run_callbacks(group) or adopted:
            self.send_soon()

    def _let_go(self, group: str) -> bool:
        epoch, _ = self.holdings[group].letting_go.pop(0)
        return epoch is not None and self.member_state.acknowledge(group, epoch) > 0

    def _end_work_after_lapse(self) -> None:
        if self.clock.now() >= self.member_state.exclusive_until:
            for holding in self.holdings.values():
                for entry in holding.letting_go:
                    entry[1] = 0

    def working_on(self) -> int:
        """What it may take up, and what it is still letting go while its lease runs."""
        self._end_work_after_lapse()
        bits = 0
        for name, holding in self.holdings.items():
            bits |= self._may_take_up(name)
            for entry in holding.letting_go:
                bits |= entry[1]
        return bits

    def tokens(self) -> list[tuple[int, int]]:
        """For each exclusive group: the keys that it may take up, and the fencing token."""
        now = self.clock.now()
        return [
            (bits, self.member_state.token(now, name)) for name in self.holdings if (bits := self._may_take_up(name))
        ]

    def epochs(self) -> dict[str, Epoch]:
        """The epochs of the views held, by group."""
        return {name: view.epoch for name in self.member_state.groups if (view := self.member_state.view(name))}

    def locks_held(self) -> dict[int, LockRequest]:
        """The locks that it may believe to hold now if it is not paused, by ticket. Asking changes nothing."""
        return self.member_state.locks_held(self.clock.now())

    def _may_take_up(self, group: str) -> int:
        return self._share(group) if self.member_state.acting(self.clock.now(), group) else 0

    def _share(self, group: str) -> int:
        holding, view = self.holdings[group], self.member_state.view(group)
        if view is not holding.view:
            holding.view, holding.share = view, 0
            if view is not None and view.mine:
                mine = Share.by(view, self.member_id, self.world.settings).of(keys_of(group))
                holding.share = sum(self._bits[key] for key in mine)
        return holding.share


class Watcher(Worker):
    """A process that watches every group and is a member of none: it never works."""

    def _enter(self, group: str, exclusive: bool, weight: int) -> None:
        self.holdings.pop(group, None)
        self.member_state.watch(group)


class BareCaller(Client):
    """A process that has only the actor's handle, and calls `get_subset` in exclusive groups now and then."""

    def __init__(self, world: World, name: str, member_id: str, route: SimulatedPartitionActor) -> None:
        super().__init__(world, name, member_id, route)
        self.session = world.rng.choice(("", name))
        self._groups = [group for group, exclusive in world.conditions.groups if exclusive]
        self._bits = key_bits(world)
        self._weight = world.rng.choice((1, 2))
        self._number = 0
        self._calls: dict[str, tuple[int, float]] = {}
        """By group: the number of the latest call, and when it was made."""
        self._subsets: dict[str, tuple[int, float]] = {}
        """By group: the keys, and until when this caller may work on them."""
        self.call()

    def call(self) -> None:
        """Stop work on the former subset of a group and ask for the next."""
        world, route = self.world, self.route
        group = world.rng.choice(self._groups)
        self._subsets.pop(group, None)
        self._number += 1
        self._calls[group] = (self._number, self.clock.now())
        world.send(self, route, route.on_get_subset, self, self._number, group, keys_of(group), self._weight)
        if world.rng.random() < 0.3:
            world.send(self, route, route.on_bare_heartbeat, self)
        world.later(world.rng.uniform(0.1, 1.5), self, self.call)

    def on_subset(self, number: int, group: str, mine: list[str]) -> None:
        """Work on `mine` for one ttl from the call, if this was the latest call."""
        latest, sent = self._calls[group]
        if number == latest:
            self._subsets[group] = (sum(self._bits[key] for key in mine), sent + self.world.settings.ttl)

    def working_on(self) -> int:
        """The latest subsets, each for its ttl."""
        now = self.clock.now()
        return sum(bits for bits, until in self._subsets.values() if now < until)


class LockUser:
    """Takes and releases locks for `worker` at random; it holds each as long as it may, up to two leases."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self._world, self._locks = worker, worker.world, worker.member_state.locks
        self._rng = random.Random(f"{worker.world.seed} {worker.name}")
        self._tickets: dict[int, float] = {}
        """When to drop each, on the worker's clock."""
        self.act()

    def act(self) -> None:
        """Drop the locks whose time is over, perhaps want another, and come back later."""
        world, rng, now = self._world, self._rng, self._worker.clock.now()
        for ticket, until in list(self._tickets.items()):
            gone = self._locks.state(ticket) not in ("waiting", "held")
            if gone or now >= until or (world.faults_over and self._worker.member_state.holds(now, ticket)):
                self._drop(ticket)
        if len(self._tickets) < MAX_LOCK_REQUESTS and not world.faults_over and rng.random() < 0.6:
            name = f"lock{rng.randrange(world.conditions.locks)}"
            ticket = self._locks.add(name, shared=rng.random() < 0.4, waits=rng.random() < 0.7)
            self._tickets[ticket] = now + world.settings.ttl * rng.choice((0.1, 0.5, 2.0, 30.0))
            world.counts["lock wanted"] += 1
            self._send()
        world.later(rng.uniform(0.0, 0.1 if world.faults_over else 0.6), self._worker, self.act)

    def _drop(self, ticket: int) -> None:
        self._locks.drop(ticket)
        until = self._tickets.pop(ticket)
        if not self._world.faults_over and self._rng.random() < 0.2:  # a leader that resigns and competes again
            self._tickets[self._locks.add("lock0")] = until + self._world.settings.ttl
        self._send()

    def _send(self) -> None:
        if self._rng.random() < 0.5:
            self._worker.member_state.want_reply()
        self._worker.send_soon()
