"""What must hold after every step, and once the faults have stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partition_actor.core.messages import Epoch
from partition_actor.testing.lockers import LockChecker
from partition_actor.testing.process import KeyHolder
from partition_actor.testing.workers import KEYS_A_GROUP, Worker, keys_of

if TYPE_CHECKING:
    from partition_actor.testing.cluster import SimulatedCluster


class Violation(AssertionError):
    """The simulated cluster did what it must never do; the message has the trace and how to rerun it."""


class Checker:
    """Compares what the actors may do.

    What an actor may do grows only when something happens to it, so only that actor is compared with the others.
    """

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._epochs: dict[tuple[KeyHolder, str], Epoch] = {}
        self._tokens: dict[int, tuple[int, KeyHolder]] = {}
        self._locks = LockChecker(cluster)

    def check(self, actor: KeyHolder) -> None:
        """Raises ``Violation`` when `actor` may do what it must not, now that something has happened to it."""
        mine = actor.working_on()
        if mine:
            for other in self._cluster.holders:
                if other is not actor and other.alive and not other.paused:
                    shared = mine & other.working_on()
                    if shared:
                        self._fail(f"{actor} and {other} both work on {_names(self._cluster, shared)}")
            self._check_tokens(actor)
        if isinstance(actor, Worker):
            self._check_epochs(actor)
            wrong = self._locks.check(actor)
            if wrong:
                self._fail(wrong)

    def _check_tokens(self, actor: KeyHolder) -> None:
        for mask, token in actor.tokens():
            while mask:
                bit = mask & -mask
                mask ^= bit
                last, holder = self._tokens.get(bit, (0, actor))
                if token < last or (token == last and holder is not actor):
                    name = _names(self._cluster, bit)
                    self._fail(f"{actor} has token {token} for {name} after {holder} had {last}")
                self._tokens[bit] = (token, actor)

    def _check_epochs(self, worker: Worker) -> None:
        for group, epoch in worker.epochs().items():
            if epoch < self._epochs.get((worker, group), epoch):
                self._fail(f"{worker} went back to epoch {epoch} in {group}")
            self._epochs[worker, group] = epoch

    # -- once faults have stopped -------------------------------------------------------------------------------

    def check_settled(self) -> None:
        """Raises ``Violation`` unless every key has one owner, all members hold the same view and no lock is stuck."""
        wrong = self._locks.check_settled()
        if wrong:
            self._fail(wrong)
        for group, exclusive in self._cluster.conditions.groups:
            members = [worker for worker in self._cluster.workers if self._is_member(worker, group)]
            self._check_views(group, members)
            if exclusive and members:
                self._check_coverage(group, members)
            self._check_watchers(group, members)

    def _is_member(self, worker: Worker, group: str) -> bool:
        """Whether this worker has to be a member by now; one that is out must have a reason to be."""
        standing = worker.member_state.groups.get(group)
        if not worker.alive or standing is None or standing.want == "out":
            return False
        if standing.state in ("superseded", "out"):
            alone = not any(
                other.member_id == worker.member_id for other in self._cluster.holders if other is not worker
            )
            if alone and (standing.state == "superseded" or (worker.member_id, group) not in self._cluster.dismissed):
                self._fail(f"{worker} is {standing.state} in {group}; nobody sent it away or took its id")
            return False
        return True

    def _check_views(self, group: str, members: list[Worker]) -> None:
        ids = sorted(worker.member_id for worker in members)
        for worker in members:
            view = worker.member_state.view(group)
            if view is None:
                self._fail(f"{worker} has no view of {group}; its state is {worker.member_state.groups[group].state}")
            elif sorted(view.members) != ids or not view.mine or view.laggards:
                self._fail(f"{worker} holds {view} of {group}, whose members should be {ids}")
        if len({worker.epochs()[group] for worker in members}) > 1:
            self._fail(f"the members of {group} hold {[(worker, worker.epochs()[group]) for worker in members]}")

    def _check_watchers(self, group: str, members: list[Worker]) -> None:
        for watcher in self._cluster.watchers:
            view = watcher.member_state.view(group)
            if watcher.alive and (view.members if view else {}).keys() != {worker.member_id for worker in members}:
                self._fail(f"{watcher} watches {group} and holds {view}; the members are {members}")
            if watcher.alive and members and watcher.epochs()[group] != members[0].epochs()[group]:
                self._fail(f"{watcher} holds epoch {watcher.epochs()[group]} of {group}")

    def _check_coverage(self, group: str, members: list[Worker]) -> None:
        place = members[0].holdings[group].place
        wanted = ((1 << len(keys_of(group))) - 1) << (place * KEYS_A_GROUP)
        covered = 0
        for worker in members:
            covered |= worker.working_on()
        if covered & wanted != wanted:
            self._fail(f"nobody works on {_names(self._cluster, wanted & ~covered)}")

    def _fail(self, what: str) -> None:
        raise Violation(self._cluster.explain(what))


def _names(cluster: SimulatedCluster, mask: int) -> str:
    exclusive = [name for name, mode in cluster.conditions.groups if mode]
    keys = [key for name in exclusive for key in keys_of(name)]
    return ", ".join(key for place, key in enumerate(keys) if mask >> place & 1)
