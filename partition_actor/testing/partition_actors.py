"""The simulated partition actor, which drives the production ``Membership`` as the Ray actor does, and its clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from partition_actor.core.membership import Membership
from partition_actor.core.messages import SessionKey
from partition_actor.core.share import Share
from partition_actor.core.views import View
from partition_actor.errors import PartitionError
from partition_actor.testing.world import Handler, Process, World

ALARM_DELAY = 1e-6
"""Seconds by which every alarm is late, so that rounding between clocks never makes one early."""


class Client(Process, ABC):
    """A process that calls the partition actor and works on keys of exclusive groups. Sets of keys are bit sets."""

    def __init__(self, world: World, name: str, member_id: str, route: SimulatedPartitionActor) -> None:
        super().__init__(world, name)
        self.member_id = member_id
        self.session = name
        self.route = route
        """The partition actor that it calls."""

    def on_reply(self, reply: dict[str, Any]) -> None:
        """The partition actor has answered a heartbeat."""

    def on_refusal(self, seq: int, error: str) -> None:
        """The partition actor has raised `error` on heartbeat `seq`."""

    def on_subset(self, number: int, group: str, mine: list[str]) -> None:
        """The partition actor has answered `get_subset` call `number`."""

    @abstractmethod
    def working_on(self) -> int:
        """The keys that it may be working on now if it is not paused."""

    @abstractmethod
    def tokens(self) -> list[tuple[int, int]]:
        """For each exclusive group that it may act in: the keys that it may take up, and the fencing token."""


@dataclass(slots=True)
class SubsetCall:
    """A call of `get_subset` that has not been answered."""

    caller: Client
    number: int
    group: str
    keys: tuple[str, ...]
    received: float


class SimulatedPartitionActor(Process):
    """One life of the partition actor. `counted_alive`: the GCS counts its node alive.

    `lives` are all lives of this name, oldest first; the new one appends itself.
    """

    def __init__(self, world: World, lives: list[SimulatedPartitionActor], *, first: bool, restarted: bool) -> None:
        super().__init__(world, f"partition-actor-{len(lives)}")
        incarnation = 1000 * (len(lives) + 1)
        self.membership = Membership(world.settings, incarnation, self.clock.now(), first=first, restarted=restarted)
        self._lives: Sequence[SimulatedPartitionActor] = lives
        self.counted_alive = True
        self.cut_off = False
        self.seen: dict[SessionKey, int] = {}
        self._held: dict[SessionKey, tuple[int, Client]] = {}
        self._calls: list[SubsetCall] = []
        self._alarm_at = float("inf")
        self.prove()
        self.after()
        lives.append(self)

    def missed(self, handler: Handler, arguments: tuple[Any, ...]) -> None:
        """Ray may hand requests that a dead partition actor never took in to its successor."""
        successor = self._lives[-1]
        if handler.__name__ == "on_request" and successor.alive and self.world.rng.random() < 0.3:
            self.world.later(0.0, successor, successor.on_request, *arguments)

    # -- calls --------------------------------------------------------------------------------------------------

    def on_request(self, worker: Client, request: dict[str, Any]) -> None:
        """A heartbeat."""
        key = (request["member"], request["session"])
        now = self.clock.now()
        try:
            if not self.membership.sync(now, request):
                return
        except PartitionError as error:
            self.world.send(self, worker, worker.on_refusal, request["seq"], type(error).__name__)
            return
        self._held[key] = (request["seq"], worker)
        seconds = self.membership.hold_for(self.membership.session(key)) if self.world.conditions.holds else 0.0
        if seconds:
            self.world.later(seconds, self, self._hold_over, key, request["seq"])
        else:
            self._answer(key)

    def _hold_over(self, key: SessionKey, seq: int) -> bool:
        if self._held.get(key, (None,))[0] != seq:
            return False
        self._answer(key)
        return True

    def _answer(self, key: SessionKey) -> None:
        seq, worker = self._held.pop(key)
        reply = self.membership.reply(self.clock.now(), self.membership.session(key), seq)
        self.world.send(self, worker, worker.on_reply, reply)

    def on_get_subset(self, caller: Client, number: int, group: str, keys: tuple[str, ...], weight: int) -> None:
        """The `get_subset` call of a bare handle. Ray keeps the order of one caller's calls."""
        key = (caller.member_id, caller.session)
        if number <= self.seen.get(key, 0):
            return
        self.seen[key] = number
        now = self.clock.now()
        self._calls = [call for call in self._calls if (call.caller, call.group) != (caller, group)]
        try:
            if not self.membership.is_drained(group, key):
                self.membership.tick(now)  # may forget the group; the next to join then decides its mode
                mode = None if group in self.membership.groups else True
                self.membership.join(now, group, key, weight, None, mode)
        except PartitionError:
            return
        self._calls.append(SubsetCall(caller, number, group, keys, now))

    def _serve(self, call: SubsetCall) -> bool:
        if not self._may_answer(call):
            return False
        caller, settings = call.caller, self.world.settings
        try:
            view = self.membership.use(self.clock.now(), call.group, (caller.member_id, caller.session))
        except PartitionError:
            view = None
        mine = [] if view is None else Share.by(View.of(view), caller.member_id, settings).of(call.keys)
        self.world.send(self, caller, caller.on_subset, call.number, call.group, mine)
        return True

    def _may_answer(self, call: SubsetCall) -> bool:
        return self.membership.settled(call.group) and self.membership.proven_since(call.received)

    def on_bare_heartbeat(self, caller: Client) -> None:
        """The `heartbeat` call of a bare handle."""
        self.membership.heartbeat(self.clock.now(), (caller.member_id, caller.session))

    def command(self, name: str, *arguments: Any) -> None:
        """An operator's `drain`, `forget` or `break_lock`; a refusal is only logged."""
        try:
            getattr(self.membership, name)(self.clock.now(), *arguments)
        except PartitionError as error:
            self.world.log(self, name, *arguments, "refused:", error)

    def on_death(self, key: SessionKey, certain: bool) -> None:
        """The death watch of a session has ended; `certain`: the node of its process is alive."""
        if certain:
            self.membership.release(self.clock.now(), key)

    # -- time ---------------------------------------------------------------------------------------------------

    def after(self) -> None:
        """Do what is due, answer held calls that have news, and set the alarm for what is due next."""
        membership = self.membership
        membership.tick(self.clock.now())
        news = membership.take_news()
        if news:
            for key in sorted(news & self._held.keys()):
                if membership.has_news(key):
                    self._answer(key)
        if self._calls:
            self._calls = [call for call in self._calls if not self._serve(call)]
            membership.tick(self.clock.now())
        due = membership.deadline()
        if due < self._alarm_at:
            self._alarm_at = due
            self.world.later(max(0.0, due - self.clock.now()) + ALARM_DELAY, self, self._alarm, due)

    def _alarm(self, due: float) -> bool:
        if due != self._alarm_at:
            return False
        self._alarm_at = float("inf")
        return True

    def prove(self) -> None:
        """Ask the GCS whether it still counts this node alive, every `node_proof_interval`."""
        world = self.world
        world.later(world.rng.uniform(0.0, 0.02), None, self._reach_gcs, self.clock.now())
        world.later(world.settings.node_proof_interval, self, self.prove)

    def _reach_gcs(self, at: float) -> None:
        """The question sent at `at`, by this process's clock, has reached the GCS."""
        if self.counted_alive and not self.cut_off:
            self.world.later(self.world.rng.uniform(0.0, 0.02), self, self.on_proof, at)

    def on_proof(self, at: float) -> None:
        """The GCS counted this node alive at or after `at`."""
        self.membership.prove(at)
