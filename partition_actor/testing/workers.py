"""The simulated members: drivers of the production ``MemberState``, and callers of a bare handle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from partition_actor.core.member import Change, MemberState
from partition_actor.core.messages import Epoch
from partition_actor.core.share import Share
from partition_actor.core.views import View
from partition_actor.testing.lockers import Locker
from partition_actor.testing.partition_actors import SimulatedPartitionActor
from partition_actor.testing.process import KeyHolder

if TYPE_CHECKING:
    from partition_actor.testing.cluster import SimulatedCluster

KEYS_A_GROUP = 6


def keys_of(group: str) -> tuple[str, ...]:
    """The keys that a simulated group shares out."""
    return tuple(f"{group}/{number}" for number in range(KEYS_A_GROUP))


def mask_of(mine: list[str], keys: tuple[str, ...], place: int) -> int:
    """A set of the keys of the group at `place` as a bit mask."""
    return sum(1 << (place * KEYS_A_GROUP + keys.index(key)) for key in mine)


_masks: dict[Any, int] = {}
MASKS_KEPT = 20_000


@dataclass(slots=True)
class Holding:
    """What a worker holds of one exclusive group."""

    place: int
    keys: tuple[str, ...]
    view: View | None = None
    mask: int = 0
    """What `view` lets the worker take up while its lease runs."""
    letting_go: list[list[Any]] = field(default_factory=list)
    """``[epoch, keys]`` for each change whose callbacks have not returned, oldest first; the first ones run."""


class Worker(KeyHolder):
    """A process with an ``MemberState``. It works on every key as soon and as long as it may."""

    def __init__(self, cluster: SimulatedCluster, member_id: str, route: SimulatedPartitionActor, weight: int) -> None:
        super().__init__(cluster, f"{member_id}#{len(cluster.workers)}")
        self.member_id = member_id
        self.session = self.name
        self.route = route
        self.watched = cluster.rng.random() < 0.5
        self.member_state = MemberState(member_id, self.session, cluster.settings)
        exclusive = [name for name, mode in cluster.conditions.groups if mode]
        self.holdings = {name: Holding(place, keys_of(name)) for place, name in enumerate(exclusive)}
        self.lost_for_good: set[str] = set()
        self._generation = 0
        self.locker: Locker | None = None
        for name, mode in cluster.conditions.groups:
            self.member_state.join(name, weight, exclusive=mode)
        self.send_soon()
        if cluster.conditions.locks:
            self.locker = Locker(self)

    # -- the exchange with the partition actor ----------------------------------------------------------------------

    def send_soon(self, delay: float = 0.001) -> None:
        """Let the next request go out `delay` seconds from now, and no other before."""
        self._generation += 1
        self.cluster.later(delay, self, self._send, self._generation)

    def _send(self, generation: int) -> bool:
        if generation != self._generation:
            return False
        cluster = self.cluster
        if cluster.conditions.any_route and cluster.rng.random() < 0.15:
            self.route = cluster.rng.choice([each for each in cluster.partition_actors if each.alive] or [self.route])
        route = self.route
        cluster.send(self, route, route.on_request, self, self.member_state.request(self.clock.now()))
        settings = cluster.settings
        self.send_soon(self.member_state.interval * settings.ttl / settings.hold / 2)
        return True

    def on_refusal(self, seq: int, error: str) -> None:
        """The partition actor has raised; the next request goes out when it is due."""
        self.cluster.log(self, "was refused", seq, error)

    def on_reply(self, reply: dict[str, Any]) -> None:
        """A reply has come."""
        self._end_work_after_lapse()
        working = {name: self._may_take_up(name) for name in self.holdings}
        changes = self.member_state.receive(reply)
        if changes is None:
            return
        adopted = [self._take(change, working.get(change.group, 0)) for change in changes]
        if any(adopted) or reply["resync"] or self.cluster.conditions.holds:
            self.send_soon()
        else:
            self.send_soon(self.member_state.interval * self.cluster.rng.uniform(0.9, 1.0))

    # -- work and callbacks -------------------------------------------------------------------------------------

    def _take(self, change: Change, working: int) -> bool:
        if change.after is None and change.state != "conflict":
            self.lost_for_good.add(change.group)
        holding = self.holdings.get(change.group)
        if holding is None:
            return change.after is not None and self.member_state.acknowledge(change.group, change.after.epoch) > 0
        lost = working & ~self._mask(change.group)
        holding.letting_go.append([change.after.epoch if change.after else None, lost])
        return len(holding.letting_go) == 1 and self._run_callbacks(change.group)

    def _run_callbacks(self, group: str) -> bool:
        """Run the callbacks of the oldest change; True when it is through and the partition actor waits to hear of
        it."""
        holding, cluster, adopted = self.holdings[group], self.cluster, False
        while holding.letting_go:
            luck = cluster.rng.random() if holding.letting_go[0][1] else 0.9
            if luck > 0.98:
                cluster.count("raising callback")  # it has returned then, as far as the driver is concerned
            if luck < cluster.conditions.slow_callbacks:
                cluster.count("slow callback")
                duration = cluster.rng.uniform(0.0, 2 * cluster.settings.handoff_timeout)
                cluster.later(duration, self, self._callbacks_returned, group)
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

    # -- what the checker asks ----------------------------------------------------------------------------------

    def working_on(self) -> int:
        """What it may take up, and what it is still letting go while its lease runs."""
        self._end_work_after_lapse()
        mask = 0
        for name, holding in self.holdings.items():
            mask |= self._may_take_up(name)
            for entry in holding.letting_go:
                mask |= entry[1]
        return mask

    def tokens(self) -> list[tuple[int, int]]:
        """For each exclusive group: the keys that it may take up, and the fencing token."""
        now = self.clock.now()
        return [
            (mask, self.member_state.token(now, name)) for name in self.holdings if (mask := self._may_take_up(name))
        ]

    def epochs(self) -> dict[str, Epoch]:
        """The epochs of the views held, by group."""
        return {name: view.epoch for name in self.member_state.groups if (view := self.member_state.view(name))}

    def _may_take_up(self, group: str) -> int:
        return self._mask(group) if self.member_state.acting(self.clock.now(), group) else 0

    def _mask(self, group: str) -> int:
        holding, view = self.holdings[group], self.member_state.view(group)
        if view is not holding.view:
            holding.view, holding.mask = view, 0 if view is None else self._mask_by(view, holding)
        return holding.mask

    def _mask_by(self, view: View, holding: Holding) -> int:
        if not view.mine:
            return 0
        laggards = tuple(
            (name, tuple(tuple(view.rings[at].items()) for at in epochs)) for name, epochs in view.laggards
        )
        decide = Share.by
        identity = (decide, self.member_id, holding.place, tuple(view.members.items()), laggards)
        mask = _masks.get(identity)
        if mask is None:
            if len(_masks) >= MASKS_KEPT:
                _masks.clear()
            mine = decide(view, self.member_id, self.cluster.settings).of(holding.keys)
            mask = _masks[identity] = mask_of(mine, holding.keys, holding.place)
        return mask


class Watcher(Worker):
    """A process that follows every group and is a member of none: it never works."""

    def __init__(self, cluster: SimulatedCluster, member_id: str, route: SimulatedPartitionActor) -> None:
        super().__init__(cluster, member_id, route, weight=1)
        self.holdings.clear()
        for name in list(self.member_state.groups):
            self.member_state.watch(name)


class BareCaller(KeyHolder):
    """A process that has nothing but the actor's handle, and calls `get_subset` in exclusive groups now and then."""

    def __init__(self, cluster: SimulatedCluster, member_id: str, route: SimulatedPartitionActor) -> None:
        super().__init__(cluster, f"{member_id}?{len(cluster.callers)}")
        self.member_id = member_id
        self.session = cluster.rng.choice(("", self.name))
        self.route = route
        self._groups = [name for name, mode in cluster.conditions.groups if mode]
        self._weight = cluster.rng.choice((1, 2))
        self._number = 0
        self._calls: dict[str, tuple[int, float]] = {}
        """By group: the number of the latest call, and when it was made."""
        self._subsets: dict[str, tuple[int, float]] = {}
        """By group: the keys, and until when they are this caller's."""
        self.call()

    def call(self) -> None:
        """Be done with the former subset of a group and ask for the next."""
        cluster, route = self.cluster, self.route
        group = cluster.rng.choice(self._groups)
        self._subsets.pop(group, None)
        self._number += 1
        self._calls[group] = (self._number, self.clock.now())
        cluster.send(self, route, route.on_get_subset, self, self._number, group, keys_of(group), self._weight)
        if cluster.rng.random() < 0.3:
            cluster.send(self, route, route.on_bare_heartbeat, self)
        cluster.later(cluster.rng.uniform(0.1, 1.5), self, self.call)

    def on_subset(self, number: int, group: str, mine: list[str]) -> None:
        """The reply of `get_subset`: good for one ttl from the call."""
        latest, sent = self._calls[group]
        if number == latest:
            mask = mask_of(mine, keys_of(group), self._groups.index(group))
            self._subsets[group] = (mask, sent + self.cluster.settings.ttl)

    def working_on(self) -> int:
        """The latest subsets while they are good."""
        now = self.clock.now()
        return sum(mask for mask, until in self._subsets.values() if now < until)

    def tokens(self) -> list[tuple[int, int]]:
        """Nothing: a bare handle's caller gets no token."""
        return []
