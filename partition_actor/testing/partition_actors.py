"""The simulated partition actor, which drives the production state machine as the Ray actor does, and its clients."""

from __future__ import annotations

import contextlib
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from partition_actor.core.driver import MembershipDriver
from partition_actor.core.events import Where
from partition_actor.core.membership import Membership
from partition_actor.core.messages import Reply, Request, SessionKey, ShortRequest, check_request
from partition_actor.core.share import Share
from partition_actor.core.views import View
from partition_actor.errors import PartitionActorUnavailable, PartitionError
from partition_actor.settings import Settings
from partition_actor.testing.world import Handler, Process, World

TIMER_DELAY = 1e-6
"""Seconds by which every timer is late, so that rounding between clocks never makes one early."""


class Client(Process, ABC):
    """A process that calls the partition actor and works on keys of exclusive groups. Sets of keys are bit sets."""

    def __init__(self, world: World, name: str, member_id: str, route: SimulatedPartitionActor) -> None:
        super().__init__(world, name)
        self.member_id, self.session = member_id, name
        self.route = route
        """The partition actor that it calls."""

    def choose_route(self) -> SimulatedPartitionActor:
        """The partition actor that gets the next request."""
        return self.route

    def end_work_after_lapse(self) -> None:
        """Forget work whose lease is over: called before a reply renews it."""

    def on_reply(self, session: str, reply: Reply) -> None:
        """The partition actor has answered a heartbeat of a session."""

    def on_refusal(self, seq: int, error: str) -> None:
        """The partition actor has raised `error` on heartbeat `seq`; the next goes out when it is due."""
        self.world.log(self, "was refused", seq, error)

    def on_subset(self, number: int, group: str, mine: list[str]) -> None:
        """The partition actor has answered `get_subset` call `number`."""

    @abstractmethod
    def working_on(self) -> int:
        """The keys that it may be working on now if it is not paused."""

    def tokens(self) -> list[tuple[int, int]]:
        """For each exclusive group that it may act in: the keys that it may take up, and the fencing token."""
        return []


def longest_lease(lives: Sequence[SimulatedPartitionActor]) -> float:
    """The longest lease that former partition actors may have granted, by their records in the GCS; 0: none is out."""
    return max((life.recorded for life in lives if not life.settled), default=0.0)


class SimulatedPartitionActor(Process):
    """One life of the partition actor. `counted_alive`: the GCS counts its node alive.

    `lives` are all lives of this name, oldest first; the new one appends itself. `restarted`: if it is not the first,
    Ray has restarted it, and nobody has deployed it anew. `state`: what the one before has handed over.
    """

    def __init__(
        self,
        world: World,
        lives: list[SimulatedPartitionActor],
        *,
        restarted: bool,
        state: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(world, f"partition-actor-{len(lives)}")
        incarnation, longest = 1000 * (len(lives) + 1), longest_lease(lives)
        self.configured: list[Settings] = lives[-1].configured[:] if restarted or state else [world.settings]
        """Of all records of settings in the GCS, those that count for this life, oldest first."""
        self.membership = Membership(
            self.configured[-1],
            incarnation,
            self.clock.now(),
            first=not longest,
            restarted=restarted and longest > 0,
            longest=longest,
            records=True,
            settings_version=len(self.configured) - 1,
            longest_told=max(settings.ttl for settings in (self.configured[-1:] if state else self.configured)),
            state=state,
        )
        self.recorded = 0.0
        """The longest lease that this one may grant, by its record in the GCS."""
        self.settled = False
        """The GCS has a record that nothing is out that this one has granted."""
        self.on_exit: Callable[[], None] = lambda: None
        """Called when it has ended in good order."""
        self.on_state: Callable[[dict[str, Any]], None] = lambda state: None
        """Called with what it hands over."""
        self._ends = False
        self.driver = MembershipDriver(self.membership)
        if state is not None:
            self.driver.take_over(self.clock.now(), state)
        self._lives: Sequence[SimulatedPartitionActor] = lives
        self.counted_alive, self.cut_off = True, False
        self.seen: dict[Client, int] = {}
        self._held: dict[SessionKey, tuple[int, Client]] = {}
        self._timer_at = float("inf")
        self._asking = self._former_settled = False
        self._drains_end: dict[str, float | None] = {}
        """What the GCS has told of that."""
        self._confirmed = 0.0
        self.writes_when_cut_off = world.rng.random() < 0.5
        """Whether the GCS still takes its records while it gives no proof."""
        self.keep_proving()
        lives.append(self)
        self.after()

    def missed(self, handler: Handler, arguments: tuple[Any, ...]) -> None:
        """Ray may hand requests that a dead partition actor never took in to its successor."""
        successor = self._lives[-1]
        if handler.__name__ == "on_request" and successor.alive and self.world.rng.random() < 0.3:
            self.world.later(0.0, successor, successor.on_request, *arguments)

    def on_request(self, worker: Client, request: Request | ShortRequest) -> None:
        """A heartbeat."""
        key, seq = (request["member"], request["session"]), request["seq"]
        try:
            seconds = self.driver.request(self.clock.now(), check_request(request), Where(worker.node))
        except PartitionError as error:
            self.world.send(self, worker, worker.on_refusal, seq, type(error).__name__)
            return
        if seconds is None:
            return
        self._held[key] = (seq, worker)
        if seconds and self.world.conditions.holds:
            self.world.later(seconds, self, self._hold_over, key, seq)
        else:
            self._answer(key)

    def _hold_over(self, key: SessionKey, seq: int) -> bool:
        if self._held.get(key, (None,))[0] != seq:
            return False
        self._answer(key)
        return True

    def _answer(self, key: SessionKey) -> None:
        seq, worker = self._held.pop(key)
        reply = self.driver.reply(self.clock.now(), key, seq)
        if reply is not None:
            self.world.send(self, worker, worker.on_reply, key[1], reply)

    def on_get_subset(self, caller: Client, number: int, group: str, keys: tuple[str, ...], weight: int) -> None:
        """The `get_subset` call of a bare handle. Ray keeps the order of one caller's calls."""
        if number <= self.seen.get(caller, 0):
            return
        self.seen[caller] = number
        key, process = (caller.member_id, caller.session), caller.name
        where: Where | None = Where(caller.node)
        if self.world.rng.random() < 0.1:
            process, where = f"unknown {number} of {caller.name}", None
        steps = self.driver.get_subset(group, key, weight, True, process, where)
        self.driver.begin(self.clock.now(), (caller, number, group, keys), steps)

    def on_bare_heartbeat(self, caller: Client) -> None:
        """The `heartbeat` call of a bare handle."""
        with contextlib.suppress(PartitionActorUnavailable):
            self.driver.heartbeat(self.clock.now(), (caller.member_id, caller.session))

    def on_close(self, member_id: str, session: str) -> None:
        """A session says that it is over."""
        with contextlib.suppress(PartitionActorUnavailable):
            self.driver.close(self.clock.now(), (member_id, session))

    def command(self, name: str, *arguments: Any) -> None:
        """An operator's `drain`, `forget` or `break_lock`; a refusal is only logged."""
        driver = self.driver
        steps = driver.break_lock(*arguments) if name == "break_lock" else driver.change(name, *arguments)
        driver.begin(self.clock.now(), name, steps)

    def configure(self, settings: Settings) -> None:
        """An operator changes the settings: they are recorded before they apply."""
        self.configured.append(settings)
        steps = self.driver.configure(settings, len(self.configured) - 1)
        self.driver.begin(self.clock.now(), "configure", steps)

    def shut_down(self) -> None:
        """End in good order."""
        with contextlib.suppress(PartitionActorUnavailable):
            self.driver.end(self.clock.now())
        if not self._ends and not self.driver.is_handed_over:
            self._ends = True
            self.driver.begin(self.clock.now(), "settled", self.driver.settled())

    def hand_over(self) -> None:
        """Hand the whole state to `on_state`, as the GCS keeps it. It may live on for a while."""
        self.driver.begin(self.clock.now(), "hand over", self.driver.hand_over())

    def _record_end(self) -> None:
        """Write the record, if the GCS can be reached, and then exit."""
        if self.counted_alive and not self.cut_off:
            self.world.later(self.world.rng.uniform(0.0, 0.02), None, self._settle, self._lives.index(self) + 1)
        self.world.later(self.world.rng.uniform(0.02, 0.1), self, self._exit)

    def _settle(self, lives: int) -> None:
        """The record has reached the GCS that the leases of the first `lives` are over."""
        for life in self._lives[:lives]:
            life.settled = True

    def _exit(self) -> None:
        self.alive = self.counted_alive = False
        self.on_exit()

    def on_death(self, key: SessionKey, certain: bool) -> None:
        """The death watch of a session has ended; `certain`: the node of its process is alive."""
        if certain:
            self.driver.died(self.clock.now(), key)

    def on_caller_death(self, key: SessionKey, process: str, replaced: bool) -> None:
        """The process of a bare caller has ended; `replaced`: its actor has the next one."""
        report = self.driver.replaced if replaced else self.driver.died
        report(self.clock.now(), key, process)

    def after(self) -> None:
        """Carry out the driver's actions."""
        if not self.driver.has_actions:
            return
        actions = self.driver.actions(self.clock.now())
        for key in actions.answer:
            if key in self._held:
                self._answer(key)
        for call, result in actions.results:
            if isinstance(call, tuple):
                self._answer_caller(result, *call)
            elif call == "settled":
                self._record_end()
            elif call == "hand over" and isinstance(result, dict):
                self.counted_alive = False
                self.on_state(pickle.loads(pickle.dumps(result)))
            elif isinstance(result, Exception):
                self.world.log(self, call, "refused:", result)
        if actions.prove and not self._asking:  # one question is under way at a time
            self._ask_gcs()
        if actions.wake_at < self._timer_at:
            self._timer_at = actions.wake_at
            delay = max(0.0, actions.wake_at - self.clock.now()) + TIMER_DELAY
            self.world.later(delay, self, self._on_timer, actions.wake_at)

    def _answer_caller(self, result: Any, caller: Client, number: int, group: str, keys: tuple[str, ...]) -> None:
        told = result is not None and not isinstance(result, Exception)
        mine = Share.by(View.of(result), caller.member_id, self.world.settings).of(keys) if told else []
        self.world.send(self, caller, caller.on_subset, number, group, mine)

    def _on_timer(self, at: float) -> bool:
        if at != self._timer_at:
            return False
        self._timer_at = float("inf")
        self.driver.timer(self.clock.now())
        return True

    def keep_proving(self) -> None:
        """Ask the GCS every `node_proof_interval` whether it still counts this node alive, and which are draining."""
        self._ask_gcs()
        world, now, time = self.world, self.clock.now(), self.world.time.now()
        known = self.membership.draining_nodes(now).keys() == world.draining and self._drains_end == world.drains_end
        if self.counted_alive and not self.cut_off and not known:
            self._drains_end = dict(world.drains_end)
            ends = {node: world.drains_end.get(node, time + 30.0) for node in sorted(world.draining)}
            left = {node: None if end is None else max(0.0, end - time) for node, end in ends.items()}
            self.driver.draining(now, left, world.ended)
        self.world.later(self.membership.settings.node_proof_interval, self, self.keep_proving)

    def _ask_gcs(self) -> None:
        self._asking = True
        longest = max(self.membership.longest_wanted, self.membership.longest_allowed)
        if longest > self._confirmed:  # first the record
            self.world.later(self.world.rng.uniform(0.0, 0.4 if self.cut_off else 0.02), None, self._record, longest)
        else:
            self.world.later(self.world.rng.uniform(0.0, 0.02), None, self._reach_gcs, self.clock.now(), longest)

    def _record(self, longest: float) -> None:
        """The record of a longer lease has reached the GCS, which takes it from a node that it counts dead too."""
        if not self.cut_off or self.writes_when_cut_off:
            self.recorded = max(self.recorded, longest)
            self.world.later(self.world.rng.uniform(0.0, 0.02), self, self._on_record, longest)

    def _on_record(self, longest: float) -> None:
        self._confirmed = max(self._confirmed, longest)
        self._ask_gcs()

    def _reach_gcs(self, at: float, recorded: float) -> None:
        """The question sent at `at`, by this process's clock, has reached the GCS."""
        if self.counted_alive and not self.cut_off:
            self.world.later(self.world.rng.uniform(0.0, 0.02), self, self.on_proof, at, recorded)

    def on_proof(self, at: float, recorded: float) -> None:
        """The GCS counted this node alive at or after `at`, with a lease of `recorded` recorded."""
        self._asking = False
        self.driver.proof(self.clock.now(), at, recorded)
        if self.membership.former_are_over(self.clock.now()) and not self._former_settled:
            self._former_settled = True
            self.world.later(self.world.rng.uniform(0.0, 0.02), None, self._settle, self._lives.index(self))
