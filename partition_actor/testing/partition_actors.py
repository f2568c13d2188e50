"""The simulated partition actor: a driver of the production ``Membership``, as the Ray actor is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from partition_actor.core.membership import Membership
from partition_actor.core.messages import SessionKey
from partition_actor.core.share import Share
from partition_actor.core.views import View
from partition_actor.errors import PartitionError
from partition_actor.testing.process import Process

if TYPE_CHECKING:
    from partition_actor.testing.cluster import SimulatedCluster
    from partition_actor.testing.workers import BareCaller, Worker


ALARM_DELAY = 1e-6
"""Seconds that an alarm comes late: never early, however the clocks round."""


@dataclass(slots=True)
class SubsetCall:
    """A call of `get_subset` that waits for its answer."""

    caller: BareCaller
    number: int
    group: str
    keys: tuple[str, ...]
    received: float


class SimulatedPartitionActor(Process):
    """One life of the actor. `counted_alive` is the GCS's opinion of its node."""

    def __init__(self, cluster: SimulatedCluster, incarnation: int, *, first: bool, restarted: bool) -> None:
        super().__init__(cluster, f"partition-actor-{len(cluster.partition_actors)}")
        self.membership = Membership(cluster.settings, incarnation, self.clock.now(), first=first, restarted=restarted)
        self.counted_alive = True
        self.cut_off = False
        self.seen: dict[SessionKey, int] = {}
        self._held: dict[SessionKey, tuple[int, Worker]] = {}
        self._calls: list[SubsetCall] = []
        self._alarm_at = float("inf")
        self.prove()
        self.after()

    # -- calls --------------------------------------------------------------------------------------------------

    def on_request(self, worker: Worker, request: dict[str, Any]) -> None:
        """A heartbeat."""
        key = (request["member"], request["session"])
        now = self.clock.now()
        try:
            if not self.membership.sync(now, request):
                return
        except PartitionError as error:
            self.cluster.send(self, worker, worker.on_refusal, request["seq"], type(error).__name__)
            return
        self._held[key] = (request["seq"], worker)
        seconds = self.membership.hold_for(self.membership.session(key)) if self.cluster.conditions.holds else 0.0
        if seconds:
            self.cluster.later(seconds, self, self._hold_over, key, request["seq"])
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
        self.cluster.send(self, worker, worker.on_reply, reply)

    def on_get_subset(self, caller: BareCaller, number: int, group: str, keys: tuple[str, ...], weight: int) -> None:
        """A call of somebody with a bare handle. Ray keeps the order of one caller's calls."""
        key = (caller.member_id, caller.session)
        if number <= self.seen.get(key, 0):
            return
        self.seen[key] = number
        now = self.clock.now()
        self._calls = [call for call in self._calls if (call.caller, call.group) != (caller, group)]
        try:
            if not self.membership.is_drained(group, key):
                self.membership.tick(now)  # which may forget the group, and whoever joins then decides its mode
                mode = None if group in self.membership.groups else True
                self.membership.join(now, group, key, weight, None, mode)
        except PartitionError:
            return
        self._calls.append(SubsetCall(caller, number, group, keys, now))

    def _serve(self, call: SubsetCall) -> bool:
        if not self._may_answer(call):
            return False
        caller, settings = call.caller, self.cluster.settings
        try:
            view = self.membership.use(self.clock.now(), call.group, (caller.member_id, caller.session))
        except PartitionError:
            view = None
        mine = [] if view is None else Share.by(View.of(view), caller.member_id, settings).of(call.keys)
        self.cluster.send(self, caller, caller.on_subset, call.number, call.group, mine)
        return True

    def _may_answer(self, call: SubsetCall) -> bool:
        return self.membership.settled(call.group) and self.membership.proven_since(call.received)

    def on_bare_heartbeat(self, caller: BareCaller) -> None:
        """The `heartbeat` call of a bare handle."""
        self.membership.heartbeat(self.clock.now(), (caller.member_id, caller.session))

    def command(self, name: str, *arguments: Any) -> None:
        """An operator's `drain` or `forget`, or the `leave` of a bare caller; a refusal is the operator's affair."""
        try:
            getattr(self.membership, name)(self.clock.now(), *arguments)
        except PartitionError as error:
            self.cluster.log(self, name, *arguments, "refused:", error)

    def on_death(self, key: SessionKey, certain: bool) -> None:
        """The death watch of a session has ended; `certain` when the node of its process is alive."""
        if certain:
            self.membership.release(self.clock.now(), key)

    # -- time ---------------------------------------------------------------------------------------------------

    def after(self) -> None:
        """Do what is due, answer those who wait for it, and set the alarm for the next."""
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
            self.cluster.later(max(0.0, due - self.clock.now()) + ALARM_DELAY, self, self._alarm, due)

    def _alarm(self, due: float) -> bool:
        if due != self._alarm_at:
            return False
        self._alarm_at = float("inf")
        return True

    def prove(self) -> None:
        """Ask the GCS whether it still counts this node alive; again and again."""
        cluster = self.cluster
        cluster.later(cluster.rng.uniform(0.0, 0.02), None, cluster.ask_gcs, self, self.clock.now())
        cluster.later(cluster.settings.node_proof_interval, self, self.prove)

    def on_proof(self, at: float) -> None:
        """The GCS counted this node alive at or after `at`."""
        self.membership.prove(at)
