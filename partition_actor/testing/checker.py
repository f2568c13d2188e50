"""What must hold after every step and once the faults have stopped: rules 1 to 10 of ``docs/guarantees.md``."""

from __future__ import annotations

from collections.abc import Sequence

from partition_actor.core.epochs import Epoch
from partition_actor.core.lock_requests import LockRequest
from partition_actor.core.lock_table import LockTable
from partition_actor.testing.partition_actors import Client
from partition_actor.testing.workers import KEYS_PER_GROUP, Watcher, Worker, keys_of
from partition_actor.testing.world import Process, World


class Violation(AssertionError):
    """The simulated cluster broke a rule; the message has the trace and the command that reruns it."""


class Checker:
    """Compares what the processes may do.

    What a process may do grows only when it handles an event, so only that process is compared with the others.
    `clients` are all clients ever started; others append to it.
    """

    def __init__(self, world: World, clients: Sequence[Client]) -> None:
        self._world, self._clients = world, clients
        self._epochs: dict[tuple[Client, str], Epoch] = {}
        self._tokens: dict[int, tuple[int, Client]] = {}
        """By key: the highest token seen, and who had it."""
        self._lock_tokens: dict[tuple[str, bool], int] = {}
        """By lock, and whether the hold was shared: the highest token seen."""
        self._holds: dict[tuple[str, int], tuple[Worker, int]] = {}
        """By lock and token: who had it, and its ticket."""

    def check(self, process: Process) -> None:
        """Raises ``Violation`` when `process`, which has just handled an event, may do what it must not."""
        if not isinstance(process, Client):
            return
        mine = process.working_on()
        if mine:
            for other in self._clients:
                if other is not process and other.alive and not other.paused:
                    shared = mine & other.working_on()
                    if shared:
                        self._fail(f"{process} and {other} both work on {self._names(shared)}")
            self._check_tokens(process)
        if isinstance(process, Worker):
            self._check_epochs(process)
            self._check_locks(process)

    def _check_tokens(self, client: Client) -> None:
        for bits, token in client.tokens():
            while bits:
                bit = bits & -bits
                bits ^= bit
                last, holder = self._tokens.get(bit, (0, client))
                if token < last or (token == last and holder is not client):
                    self._fail(f"{client} has token {token} for {self._names(bit)} after {holder} had {last}")
                self._tokens[bit] = (token, client)

    def _check_epochs(self, worker: Worker) -> None:
        for group, epoch in worker.epochs().items():
            if epoch < self._epochs.get((worker, group), epoch):
                self._fail(f"{worker} went back to epoch {epoch} in {group}")
            self._epochs[worker, group] = epoch

    # -- locks: rule 10 -----------------------------------------------------------------------------------------

    def _check_locks(self, worker: Worker) -> None:
        for ticket, mine in worker.locks_held().items():
            for other in self._clients:
                if other is not worker and isinstance(other, Worker) and other.alive and not other.paused:
                    for theirs in other.locks_held().values():
                        if theirs.name == mine.name and not (theirs.shared and mine.shared):
                            self._fail(f"{worker} and {other} both hold {mine.name}")
            self._check_lock_token(worker, ticket, mine)

    def _check_lock_token(self, worker: Worker, ticket: int, lock: LockRequest) -> None:
        if (lock.name, lock.token) not in self._holds:
            self._world.counts["lock held"] += 1
        holder = self._holds.setdefault((lock.name, lock.token), (worker, ticket))
        if holder != (worker, ticket):
            self._fail(f"{worker} has token {lock.token} for {lock.name}, which {holder[0]} had")
        latest = self._lock_tokens.get((lock.name, False), 0)
        if not lock.shared:
            latest = max(latest, self._lock_tokens.get((lock.name, True), 0))
        if lock.token < latest:
            self._fail(f"{worker} has token {lock.token} for {lock.name} after {latest}")
        kind = (lock.name, lock.shared)
        self._lock_tokens[kind] = max(lock.token, self._lock_tokens.get(kind, 0))

    def _check_no_locks(self, table: LockTable) -> None:
        for worker in self._clients:
            if worker.alive and isinstance(worker, Worker) and worker.member_state.locks.stated():
                self._fail(f"{worker} still wants or holds {worker.member_state.locks.stated()}")
        if table.locks or table.unverified:
            self._fail(f"the partition actor still has {sorted(table.locks)}")

    # -- once faults have stopped -------------------------------------------------------------------------------

    def check_converged(self, table: LockTable, dismissed: set[tuple[str, str]]) -> None:
        """Raises ``Violation`` unless every key has one owner, all members hold the same view and no lock is stuck.

        `table` has the locks of the last partition actor. `dismissed` are the ``(member_id, group)`` that an operator
        drained or forgot: only they may be out without a wish of their own.
        """
        self._check_no_locks(table)
        workers = [each for each in self._clients if isinstance(each, Worker) and not isinstance(each, Watcher)]
        for group, exclusive in self._world.conditions.groups:
            members = [worker for worker in workers if self._must_be_member(worker, group, dismissed)]
            self._check_views(group, members)
            if exclusive and members:
                self._check_coverage(group, members)
            self._check_watchers(group, members)

    def _must_be_member(self, worker: Worker, group: str, dismissed: set[tuple[str, str]]) -> bool:
        held = worker.member_state.groups.get(group)
        if not worker.alive or held is None or held.want == "out":
            return False
        if held.state in ("superseded", "out"):
            unique = not any(other.member_id == worker.member_id for other in self._clients if other is not worker)
            if unique and (held.state == "superseded" or (worker.member_id, group) not in dismissed):
                self._fail(f"{worker} is {held.state} in {group}, and nobody dismissed it or took its id")
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
        for watcher in self._clients:
            if not isinstance(watcher, Watcher) or not watcher.alive:
                continue
            view = watcher.member_state.view(group)
            if (view.members if view else {}).keys() != {worker.member_id for worker in members}:
                self._fail(f"{watcher} watches {group} and holds {view}; the members are {members}")
            if members and watcher.epochs()[group] != members[0].epochs()[group]:
                self._fail(f"{watcher} holds epoch {watcher.epochs()[group]} of {group}")

    def _check_coverage(self, group: str, members: list[Worker]) -> None:
        index = members[0].holdings[group].index
        wanted = ((1 << KEYS_PER_GROUP) - 1) << (index * KEYS_PER_GROUP)
        covered = 0
        for worker in members:
            covered |= worker.working_on()
        if covered & wanted != wanted:
            self._fail(f"nobody works on {self._names(wanted & ~covered)}")

    def _fail(self, what: str) -> None:
        raise Violation(self._world.explain(what))

    def _names(self, bits: int) -> str:
        exclusive = [name for name, mode in self._world.conditions.groups if mode]
        keys = [key for name in exclusive for key in keys_of(name)]
        return ", ".join(key for at, key in enumerate(keys) if bits >> at & 1)
