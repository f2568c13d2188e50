"""The simulated members: drivers of the production ``MemberState``, their locks, and callers of a bare handle."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context, copy_context
from functools import lru_cache, partial
from typing import Any

from partition_actor.core.epochs import Epoch
from partition_actor.core.lock_requests import LockRequest
from partition_actor.core.member import MemberState
from partition_actor.core.member_driver import Delivery, MemberDriver
from partition_actor.core.messages import Reply
from partition_actor.core.views import View
from partition_actor.errors import NoPlaceYet, PartitionError, SessionSuperseded
from partition_actor.member.callbacks import Elected, GroupEvent
from partition_actor.member.coordinator import PartitionCoordinator
from partition_actor.member.lock import Hold, Lock
from partition_actor.member.session import Session
from partition_actor.testing.partition_actors import Client, SimulatedPartitionActor
from partition_actor.testing.transport import SimulatedTransport
from partition_actor.testing.world import World, silent

KEYS_PER_GROUP = 6
MAX_LOCK_REQUESTS = 3
"""Locks that a member wants or holds at a time."""


@lru_cache(maxsize=64)
def keys_of(group: str) -> tuple[str, ...]:
    """The keys that the members of a group share."""
    return tuple(f"{group}/{number}" for number in range(KEYS_PER_GROUP))


def space_of(world: World, group: str) -> str:
    """The space of a group's slots: its own, or one for all groups, as two fleets of one name would have it."""
    return "fleet" if world.seed % 2 else group


def key_bits(world: World) -> dict[str, int]:
    """The bit of each key of the exclusive groups in a set of keys."""
    keys = [key for group, exclusive in world.conditions.groups if exclusive for key in keys_of(group)]
    return {key: 1 << position for position, key in enumerate(keys)}


class Worker(Client):
    """A process with a ``PartitionCoordinator``. It works on every key as soon and as long as it may.

    Its user does what users do: half of them work on what a ``Partition`` tells their callbacks, all of them on what
    they own. `has_death_watch`: the partition actor has one on it. `actors` are all lives of the partition actor,
    oldest first.
    """

    def __init__(
        self, world: World, name: str, member_id: str, actors: Sequence[SimulatedPartitionActor], weight: int = 1
    ) -> None:
        super().__init__(world, name, member_id, actors[-1])
        self._actors = actors
        self.has_death_watch = world.rng.random() < 0.5
        self.exclusive = [group for group, exclusive in world.conditions.groups if exclusive]
        self._bits = key_bits(world)
        self._shares: dict[str, tuple[View | None, int]] = {}
        """By group: what a view lets the worker take up while its lease runs."""
        self._at_work: dict[object, list[Any]] = {}
        """What the user works on because callbacks said so, calls that run, and keys whose callbacks have not returned:
        for each ``[session, group, keys, until]``, with the end of the session's lease, even if it was withdrawn."""
        self.watched: list[str] = []
        """The exclusive groups that are watched, and of which no partition has callbacks."""
        self._begun = 0
        self._deliveries: dict[int, Iterator[bool]] = {}
        """Those that run, by number."""
        self.told: dict[str, set[str]] = {}
        """By group: the keys that callbacks were told are this worker's."""
        self._slot_dice = random.Random(f"slots of {name}, {world.seed}")
        self.wishes: dict[str, bool | int | None] = {}
        """By group: the slot that the latest join asked for."""
        self._slots: dict[tuple[MemberState, str], list[Any]] = {}
        """Slots in use: for each session and group ``[slot, lease_until, out_until]``, with the end of the session's
        lease, and how long callbacks that began in the group may go on."""
        self.guarded: dict[int, tuple[MemberState, str]] = {}
        """The session and group of each guarded call that runs."""
        self.transport = SimulatedTransport(self)
        with silent:
            self._begin(weight)

    def _begin(self, weight: int) -> None:
        self.coordinator = PartitionCoordinator(self.member_id, self.transport, settings=self.world.settings)
        self.callbacks = self.coordinator._callbacks
        self.session_of = self.coordinator._session
        self.session_of.deliver = self._deliver_soon
        if self.world.conditions.stays:
            self.session_of.stays = random.Random(f"stays of {self.name}, {self.world.seed}").random() < 0.5
        self.driver.returned = self._returned  # type: ignore[method-assign]
        self.start(weight)
        self.user = User(self)
        if self.world.conditions.locks:
            LockUser(self)

    def start(self, weight: int = 1) -> None:
        """Start the member, and join every group."""
        self.coordinator.start()
        for group, mode in self.world.conditions.groups:
            self.join(group, weight, mode)

    def join(self, group: str, weight: int, exclusive: bool | None = None) -> None:
        """Join a group, if the id has not been taken there."""
        with contextlib.suppress(SessionSuperseded), warnings.catch_warnings():
            warnings.simplefilter("ignore", NoPlaceYet)
            slot = self._wish(group)
            self.coordinator._join_group(group, weight, None, exclusive, slot, self.space_of(group))

    def space_of(self, group: str) -> str:
        """The space of its slot in a group."""
        return space_of(self.world, group)

    def _wish(self, group: str) -> bool | int | None:
        """The slot to ask for; nearly always the same as before."""
        if not self.world.conditions.slots:
            return None
        dice = self._slot_dice
        if group not in self.wishes or (dice.random() < 0.1 and not self.world.faults_over):
            own = random.Random(f"slot of {self.member_id}").randrange(4)
            self.wishes[group] = dice.choice((True, True, own, self.wishes.get(group)))
        return self.wishes[group]

    # -- the exchange -------------------------------------------------------------------------------------------

    @property
    def driver(self) -> MemberDriver:
        """What decides."""
        return self.session_of.driver

    @property
    def member_state(self) -> MemberState:
        """The state machine of the latest session."""
        return self.session_of.member_state

    def on_reply(self, session: str, reply: Reply) -> None:
        """Take a reply in."""
        with self.losses():
            self.transport.on_reply(session, reply)

    def choose_route(self) -> SimulatedPartitionActor:
        """The partition actor that gets the next request."""
        world = self.world
        if world.conditions.any_route and world.rng.random() < 0.15:
            self.route = world.rng.choice([each for each in self._actors if each.alive] or [self.route])
        return self.route

    # -- callbacks ----------------------------------------------------------------------------------------------

    def _deliver_soon(self) -> None:
        self.world.later(0.0, self, self._deliver)

    def _deliver(self) -> bool:
        """Begin every delivery that may run, each as if in a thread of its own."""
        begun = self._begun
        while (steps := self.callbacks.next_steps()) is not None:
            self._begun += 1
            self._deliveries[self._begun] = steps
            self._go_on(self._begun)
        return self._begun > begun

    def _go_on(self, number: int) -> None:
        """Run the callbacks of a delivery until one is slow."""
        world = self.world
        for _ in self._deliveries[number]:
            if world.rng.random() < world.conditions.slow_callbacks:
                world.counts["slow callback"] += 1
                seconds = world.rng.uniform(0.0, 2 * (world.settings.handoff_timeout + world.settings.ttl))
                world.later(seconds, self, self._go_on, number)
                return
        del self._deliveries[number]

    # -- what it works on ---------------------------------------------------------------------------------------

    def begin_work(self, what: object, session: MemberState, group: str, keys: Iterable[str]) -> None:
        """Work on keys of a group until `end_work`, or the session's lease there ends."""
        bits = sum(self._bits[key] for key in keys)
        self._at_work[what] = [session, group, bits, session.acts_until(group)]

    @contextmanager
    def losses(self) -> Iterator[None]:
        """Who only watches a group may work on a key that is lost within this until the watchers have returned."""
        session = self.driver.session
        before = {group: self._may_take_up(group) for group in self.watched}
        until = {group: session.acts_until(group) for group in self.watched} if session is not None else {}
        yield
        for group, mine in before.items():
            waiting = [each for each in self.driver.unfinished() if each.queue == ("group", group)]
            waiting = [each for each in waiting if each.session is session]
            if (lost := mine & ~self._may_take_up(group)) and waiting:
                self._at_work[waiting[-1]] = [session, group, lost, until[group]]

    def _returned(self, delivery: Delivery) -> None:
        self.end_work(delivery)
        MemberDriver.returned(self.driver, delivery)

    def end_work(self, what: object) -> None:
        """End that work."""
        self._at_work.pop(what, None)

    def working_on(self) -> int:
        """What it may take up, and what it is at while its lease runs."""
        self.end_work_after_lapse()
        bits = 0
        for group in self.exclusive:
            bits |= self._may_take_up(group)
        for _, _, keys, _ in self._at_work.values():
            bits |= keys
        return bits

    def end_work_after_lapse(self) -> None:
        """Work that outlives its lease has no permission (rule 6); nor has it after the lease was renewed.

        A lease that was withdrawn ends for work that had begun when it would have ended (rule 11), whatever lease the
        session is granted later.
        """
        now = self.clock.now()
        for work in self._at_work.values():
            session, group, _, _ = work
            if session is not None and session.withdrawn:
                work[0] = None
            elif session is not None:
                work[3] = session.acts_until(group)
            if now >= work[3]:
                work[2] = 0

    def tokens(self) -> list[tuple[int, int]]:
        """For each exclusive group: the keys that it may take up, and the fencing token."""
        now = self.clock.now()
        return [
            (bits, self.driver.token(now, self.name, group))
            for group in self.exclusive
            if (bits := self._may_take_up(group))
        ]

    def epochs(self) -> dict[str, Epoch]:
        """The epochs of the views held, by group."""
        return {name: view.epoch for name in self.member_state.groups if (view := self.member_state.view(name))}

    def slots_used(self) -> list[str]:
        """The names of the slots that its user may use now if it is not paused.

        What runs when a session leaves a group may use its slot there, until it has returned or the lease has ended.
        """
        now, driver = self.clock.now(), self.driver
        permitted = driver.slots(now, self.name)
        for group, slot in permitted.items():
            self._slots[self.member_state, group] = [slot, self.member_state.exclusive_until, float("inf")]
        for (session, group), used in list(self._slots.items()):
            if session is driver.session and group in permitted:
                continue
            held = session.groups.get(group)
            has_place = held is not None and (
                held.state == "member" or (held.state == "joining" and not session.node_drains)
            )
            leaves = not has_place or driver.is_over(session) or session is not driver.session or session.withdrawn
            if not has_place:
                used[2] = min(used[2], now + session.settings.handoff_timeout)
            if not session.withdrawn:
                used[1] = session.exclusive_until
                leaves = leaves and used[0].state == "held"  # it was not told that an operator has broken it
            if not leaves or now >= min(used[1:]) or not self._is_busy(session, group):
                del self._slots[session, group]
        return [slot.name for slot, _, _ in self._slots.values()]

    def _is_busy(self, session: MemberState, group: str) -> bool:
        deliveries = (each for each in self.driver.unfinished() if each.queue == ("group", group))
        return (session, group) in self.guarded.values() or any(each.session is session for each in deliveries)

    def locks_held(self) -> dict[int, LockRequest]:
        """The locks that it may believe to hold now if it is not paused, by ticket. Asking changes nothing."""
        return self.member_state.locks_held(self.clock.now())

    def _may_take_up(self, group: str) -> int:
        view = self.driver.acting(self.clock.now(), self.name, group)
        if view is None:
            return 0
        known, bits = self._shares.get(group, (None, 0))
        if known is not view:
            mine = self.session_of.share(group).of(keys_of(group))
            bits = sum(self._bits[key] for key in mine)
            self._shares[group] = (view, bits)
        return bits


class User:
    """What the user of a worker's ``PartitionCoordinator`` does: callbacks, guarded calls, stop and start."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self._world = worker, worker.world
        self._rng = random.Random(f"user of {worker.name}, {worker.world.seed}")
        self.disorder = ""
        """What callbacks were told in the wrong order."""
        self._epochs: dict[str, Epoch | None] = {}
        self._led: dict[int, int] = {}
        """By number of the candidacy, the token of the lead that its callback was told of."""
        self._calls: dict[int, tuple[AbstractContextManager[None], Context]] = {}
        """Guarded calls that run, by number."""
        for group, exclusive in worker.world.conditions.groups:
            if self._rng.random() < 0.6:
                worker.coordinator.watch_group(group, partial(self._on_event, group))
                if exclusive:
                    worker.watched.append(group)
            if exclusive and self._rng.random() < 0.7:
                self._listen(group)
                worker.watched = [each for each in worker.watched if each != group]
        self._later()

    def _later(self) -> None:
        self._world.later(min(self._rng.expovariate(self._world.conditions.acts), 1.0), self._worker, self.act)

    # -- callbacks ----------------------------------------------------------------------------------------------

    def _listen(self, group: str) -> None:
        self._worker.told[group] = set()
        partition = self._worker.coordinator.partition(group, keys_of(group))
        partition.on_lost(partial(self._on_lost, group))
        partition.on_gained(partial(self._on_gained, group))
        partition.on_lost(partial(self._lost_returned, group))

    def _on_gained(self, group: str, keys: list[str]) -> None:
        session = self._worker.driver.session
        assert session is not None
        self._worker.told[group].update(keys)
        for key in keys:
            self._worker.begin_work((group, key), session, group, [key])
        self._call_back()

    def _on_lost(self, group: str, keys: list[str]) -> None:
        """The work on these keys goes on until this has returned, which is when the next callback for them begins."""
        self._call_back()

    def _lost_returned(self, group: str, keys: list[str]) -> None:
        self._worker.told[group].difference_update(keys)
        for key in keys:
            self._worker.end_work((group, key))

    def _on_event(self, group: str, event: GroupEvent) -> None:
        last, self._epochs[group] = self._epochs.get(group), event.epoch
        if last is not None and event.epoch is not None and event.epoch < last:
            self.disorder = f"was told of epoch {event.epoch} of {group} after {last}"
        self._call_back()

    def _on_elected(self, number: int, elected: Elected) -> None:
        if elected.fencing_token <= self._led.get(number, 0):
            self.disorder = f"was told of lead {elected.fencing_token} of {elected.group} twice or late"
        self._led[number] = elected.fencing_token
        self._call_back()

    def _call_back(self) -> None:
        """Callbacks may call whatever they like, and raise."""
        if not self._world.faults_over and self._rng.random() < 0.15:
            self._world.counts["call within a callback"] += 1
            self._call_something()
        if self._rng.random() < 0.02:
            self._world.counts["raising callback"] += 1
            raise RuntimeError("a callback that raises")

    # -- calls --------------------------------------------------------------------------------------------------

    def act(self) -> None:
        """Do something, and come back later."""
        coordinator, luck = self._worker.coordinator, self._rng.random()
        if coordinator.is_active() and (self._world.faults_over or self._rng.random() < 0.1):
            for group, _ in self._world.conditions.groups:
                coordinator.stand_down(group, withdraw=self._world.faults_over or self._rng.random() < 0.5)
        if not coordinator.is_active():
            if self._world.faults_over or luck < 0.5:
                self._worker.start()
        elif not self._world.faults_over:
            if luck < 0.5:
                self._call_guarded()
            elif luck < 0.7:
                coordinator.run_watchers()
            elif luck < 0.8:
                self._call_something()
        self._later()

    def _call_something(self) -> None:
        coordinator, luck = self._worker.coordinator, self._rng.random()
        group, exclusive = self._rng.choice(self._world.conditions.groups)
        if luck < 0.1 and coordinator.is_active() and self._world.conditions.locks:
            self._world.counts["candidacy"] += 1
            coordinator.elect(group, partial(self._on_elected, self._world.counts["candidacy"]))
        elif luck < 0.4:
            coordinator.run_watchers()
        elif luck < 0.5 and "leave" in self._world.conditions.faults:
            coordinator.leave_group(group)
        elif luck < 0.6 and "join again" in self._world.conditions.faults and coordinator.is_active():
            self._worker.join(group, self._rng.choice((1, 2)), exclusive)
        elif luck < 0.75:
            self._call_guarded()
        elif "stop" in self._world.conditions.faults:
            self.stop()
            if self._rng.random() < 0.6:
                self._worker.start()

    def stop(self) -> None:
        """Stop the member; the process lives on."""
        self._world.counts["stop"] += 1
        with self._worker.losses():
            self._worker.coordinator.stop()

    def _call_guarded(self) -> None:
        """Call a method that `owned_by` guards; it takes any time, and may call the coordinator."""
        worker, rng = self._worker, self._rng
        group = rng.choice(worker.exclusive or [""])
        keys = rng.sample(keys_of(group), rng.choice((1, 1, 2)))
        session, running = worker.driver.session, worker.coordinator._guard.begin(group, keys) if group else None
        if running is None or session is None:
            return
        self._world.counts["guarded call"] += 1
        number = self._world.counts["guarded call"]
        worker.begin_work(running, session, group, keys)
        worker.guarded[number] = (session, group)
        context = copy_context()
        context.run(running.__enter__)
        if rng.random() < 0.3 and not self._world.faults_over:
            context.run(self._call_something)
        seconds = self._world.settings.ttl * rng.choice((0.02, 0.3, 2.0))
        self._calls[number] = (running, context)
        self._world.later(seconds, worker, self._end_guarded, number)

    def _end_guarded(self, number: int) -> None:
        running, context = self._calls.pop(number)
        self._worker.end_work(running)
        del self._worker.guarded[number]
        context.run(running.__exit__, None, None, None)


class Watcher(Worker):
    """A process that watches every group and is a member of none, as a ``Router`` does: it never works."""

    def _begin(self, weight: int) -> None:
        self.exclusive = []
        self.session_of = Session(self.member_id, self.transport, self.world.settings)
        self.session_of.start()
        with self.session_of.event():
            for group, _ in self.world.conditions.groups:
                self.member_state.watch(group)
        if self.world.conditions.locks:
            LockUser(self)


class ForkedChild(Client):
    """A child process that was forked from a worker, and goes on as if it were that member."""

    def __init__(self, parent: Worker) -> None:
        super().__init__(parent.world, f"child of {parent.name}", parent.member_id, parent.route)
        self.clock = parent.clock
        self._parent, self._bits = parent, key_bits(parent.world)
        parent.world.later(0.0, self, self.act)

    def act(self) -> None:
        """Ask, now and then."""
        self.world.later(self.world.rng.uniform(0.0, 0.3), self, self.act)

    def working_on(self) -> int:
        """What it would be permitted."""
        driver, now = self._parent.driver, self.clock.now()
        bits = 0
        for group in self._parent.exclusive:
            bits |= sum(self._bits[key] for key in driver.share(now, self.name, group).of(keys_of(group)))
        return bits

    def holds_anything(self) -> bool:
        """Whether it would believe to hold a lock, to lead a group, or to have a slot."""
        driver, state, now = self._parent.driver, self._parent.member_state, self.clock.now()
        if driver.slots(now, self.name):
            return True
        if any(driver.leads(now, self.name, group) for group, _ in self.world.conditions.groups):
            return True
        return any(driver.holds(now, self.name, state, ticket) for ticket in state.locks.held())


class BareCaller(Client):
    """A process that has only the actor's handle, and calls `get_subset` in exclusive groups now and then.

    `session`: that of a process of the same actor that was started before; None for one of its own, or none.
    """

    def __init__(
        self, world: World, name: str, member_id: str, route: SimulatedPartitionActor, session: str | None = None
    ) -> None:
        super().__init__(world, name, member_id, route)
        self.session = world.rng.choice(("", name)) if session is None else session
        self.has_next = False
        """Whether Ray has restarted its actor."""
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
        self._worker, self._world = worker, worker.world
        self._rng = random.Random(f"{worker.world.seed} {worker.name}")
        self._locks: dict[Lock, tuple[Hold | None, float]] = {}
        """What is waited for, None for a lock that is held; and when to drop it, on the worker's clock."""
        self.act()

    def act(self) -> None:
        """Drop the locks whose time is over, perhaps want another, and come back later."""
        world, rng, now = self._world, self._rng, self._worker.clock.now()
        for lock, (hold, until) in list(self._locks.items()):
            if hold is None and (not lock.held or now >= until or world.faults_over):
                self._release(lock)
            elif hold is not None and (hold.decided or now >= until):
                self._end_wait(lock, hold, until)
        may_want = self._worker.session_of.active and len(self._locks) < MAX_LOCK_REQUESTS and not world.faults_over
        if may_want and rng.random() < 0.6:
            self._want(f"lock{rng.randrange(world.conditions.locks)}", rng.choice((0.1, 0.5, 2.0, 30.0)))
        world.later(rng.uniform(0.0, 0.1 if world.faults_over else 0.6), self._worker, self.act)

    def _want(self, name: str, leases: float) -> None:
        lock = Lock(self._worker.session_of, name)
        with lock.asking(self._rng.random() < 0.7, None, self._rng.random() < 0.4) as (hold, _):
            self._locks[lock] = (hold, self._worker.clock.now() + leases * self._world.settings.ttl)
        self._world.counts["lock wanted"] += 1

    def _end_wait(self, lock: Lock, hold: Hold, until: float) -> None:
        """As ``Lock.acquire`` does when its wait is over."""
        with contextlib.suppress(PartitionError):
            if lock.end(hold):
                self._locks[lock] = (None, until)
                return
        del self._locks[lock]

    def _release(self, lock: Lock) -> None:
        del self._locks[lock]
        lock.release()
        if not self._world.faults_over and self._worker.session_of.active and self._rng.random() < 0.2:
            self._want(lock.name, 1.0)  # a leader that resigns and competes again
