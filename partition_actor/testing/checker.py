"""What must hold after every step and once the faults have stopped: rules 1 to 16 of ``docs/guarantees.md``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import NoReturn

from partition_actor.core.epochs import Epoch
from partition_actor.core.events import BEGINS, ENDS
from partition_actor.core.lock_requests import LockRequest
from partition_actor.core.lock_table import LockTable
from partition_actor.core.messages import SessionKey, slot_name, slot_of
from partition_actor.testing.fleets import SimulatedController, SimulatedFleet
from partition_actor.testing.partition_actors import Client, SimulatedPartitionActor
from partition_actor.testing.workers import ForkedChild, Watcher, Worker, key_bits, keys_of
from partition_actor.testing.world import Process, World


class Violation(AssertionError):
    """The simulated cluster broke a rule; the message has the trace and the command that reruns it."""


@dataclass
class _Told:
    events: int = 0
    """The id of the next event."""
    members: dict[str, set[SessionKey]] = field(default_factory=dict)
    epochs: dict[str, Epoch] = field(default_factory=dict)
    """By group, the epoch for which that was compared."""


class Checker:
    """Compares what the processes may do.

    What a process may do grows only when it handles an event, so only that process is compared with the others.
    `clients` are all clients ever started; others append to it.
    """

    def __init__(self, world: World, clients: Sequence[Client]) -> None:
        self._world, self._clients, self._bits = world, clients, key_bits(world)
        self._epochs: dict[tuple[Client, str], Epoch] = {}
        self._tokens: dict[str, tuple[int, Client]] = {}
        """By key: the highest token seen, and who had it."""
        self._lock_tokens: defaultdict[tuple[str, bool], int] = defaultdict(int)
        """By lock, and whether the hold was shared: the highest token seen."""
        self._holds: dict[tuple[str, int], tuple[Worker, int]] = {}
        """By lock and token: who had it, and its ticket."""
        self._slots: set[tuple[str, int]] = set()
        """Slots that partition actors have granted, with the tokens."""
        self._told: dict[SimulatedPartitionActor, _Told] = {}
        """What each partition actor has told by its events."""

    def check(self, process: Process) -> None:
        """Raises ``Violation`` when `process`, which has just handled an event, may do what it must not."""
        if isinstance(process, SimulatedPartitionActor):
            self._check_events(process)
            if self._world.conditions.slots:
                self._check_grants(process)
        if isinstance(process, SimulatedController) and process.wrong:
            self._fail(f"{process} {process.wrong}")
        if not isinstance(process, Client):
            return
        if mine := process.working_on():
            for other in self._others_running(process):
                if shared := mine & other.working_on():
                    self._fail(f"{process} and {other} both work on {', '.join(self._keys(shared))}")
            self._check_tokens(process)
        if isinstance(process, Worker):
            self._check_epochs(process)
            self._check_locks(process)
            if self._world.conditions.slots:
                self._check_slots(process)
            if not isinstance(process, Watcher):
                if process.user.disorder:
                    self._fail(f"{process} {process.user.disorder}")
                self._check_stopped(process)
        if isinstance(process, ForkedChild) and process.holds_anything():
            self._fail(f"{process} holds a lock of its parent, or leads in its place")

    def _check_events(self, actor: SimulatedPartitionActor) -> None:
        """By its events the members of each group are those of the published epoch, and hand-offs end when they do."""
        told, known = self._told.setdefault(actor, _Told()), actor.membership.groups
        first, events = actor.membership.events.since(told.events)
        told.events = first + len(events)
        for event in events:
            members = told.members.setdefault(event.group or "", set())
            if event.cause.what == "recovered" and event.group in known:
                members |= set(known[event.group].sessions.items())  # and what follows tells of newcomers
            elif event.cause.what in BEGINS and event.member is not None and event.session is not None:
                members.add((event.member, event.session))
            elif event.cause.what in ENDS and event.member is not None and event.session is not None:
                members.discard((event.member, event.session))
        for name, group in known.items():
            if group.epoch is not None and group.epoch != told.epochs.get(name):
                told.epochs[name] = group.epoch
                members, published = told.members.get(name, set()), set(group.sessions.items())
                if members != published:
                    self._fail(
                        f"the members of {name} are {sorted(members)} by events, and {sorted(published)} by epoch"
                    )
            if group.exclusive and not group.recovering and group.epoch is not None:
                late = [key for key, each in group.participants.items() if each.acked not in (None, group.epoch)]
                handoff = group.handoff(actor.clock.now())
                if len(late) != (handoff or {"members": 0})["members"]:
                    self._fail(f"{late} have to acknowledge an epoch of {name}, and its hand-off is {handoff}")

    def _others_running(self, process: Process) -> list[Client]:
        return [other for other in self._clients if other is not process and other.alive and not other.paused]

    def _check_stopped(self, worker: Worker) -> None:
        for group in worker.exclusive if not worker.coordinator.is_active() else ():
            if worker.session_of.token(group):
                self._fail(f"{worker} is stopped, and has token {worker.session_of.token(group)} for {group}")

    def _check_tokens(self, client: Client) -> None:
        for bits, token in client.tokens():
            for key in self._keys(bits):
                last, holder = self._tokens.get(key, (0, client))
                if token < last or (token == last and holder is not client):
                    self._fail(f"{client} has token {token} for {key} after {holder} had {last}")
                self._tokens[key] = (token, client)

    def _check_epochs(self, worker: Worker) -> None:
        for group, epoch in worker.epochs().items():
            if epoch < self._epochs.get((worker, group), epoch):
                self._fail(f"{worker} went back to epoch {epoch} in {group}")
            self._epochs[worker, group] = epoch

    def _check_locks(self, worker: Worker) -> None:
        for ticket, mine in worker.locks_held().items():
            for other in self._others_running(worker):
                if isinstance(other, Worker):
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
        # Holds that share a lock may have tokens in any order.
        latest = max(self._lock_tokens[lock.name, shared] for shared in ((False,) if lock.shared else (False, True)))
        if lock.token < latest:
            self._fail(f"{worker} has token {lock.token} for {lock.name} after {latest}")
        kind = (lock.name, lock.shared)
        self._lock_tokens[kind] = max(lock.token, self._lock_tokens[kind])

    def _check_slots(self, worker: Worker) -> None:
        mine = worker.slots_used()
        if len(mine) > len(set(mine)):
            self._fail(f"{worker} uses {mine} in two sessions or groups")
        for other in self._others_running(worker) if mine else ():
            if isinstance(other, Worker) and (both := set(mine).intersection(other.slots_used())):
                self._fail(f"{worker} and {other} both use {sorted(both)}")

    def _check_grants(self, actor: SimulatedPartitionActor) -> None:
        """Who asks for any slot gets the lowest that nobody has or waits for."""
        locks = actor.membership.locks.locks
        for name in [name for name in locks if slot_of(name)]:
            for claim in locks[name].holders:
                if claim.told or (name, claim.token) in self._slots:
                    continue
                self._slots.add((name, claim.token))
                self._world.counts["slot granted"] += 1
                if (slot := slot_of(self._asked_for(claim.key, claim.ticket))) and slot.number is None:
                    granted = slot_of(name)
                    lower = [slot_name(slot.space, each) for each in range((granted and granted.number) or 0)]
                    if free := [each for each in lower if each not in locks]:
                        self._fail(f"{claim.key} asked for any slot and gets {name}, though {free} are free")

    def _asked_for(self, key: SessionKey, ticket: int) -> str:
        for worker in self._clients:
            for session in worker.transport.sessions if isinstance(worker, Worker) else ():
                if (session.member_id, session.session) == key:
                    return getattr(session.locks._requests.get(ticket), "name", "")
        return ""

    def check_converged(self, table: LockTable, dismissed: set[tuple[str, str]]) -> None:
        """Raises ``Violation`` unless every key has one owner, all members hold the same view and no lock is stuck.

        `table` has the locks of the last partition actor. `dismissed` are the ``(member_id, group)`` that an operator
        drained or forgot: only they may be out without a wish of their own.
        """
        workers = [client for client in self._clients if isinstance(client, Worker)]
        for worker in workers:
            stated = [each for each in worker.member_state.locks.stated().values() if not slot_of(each["name"])]
            if worker.alive and stated:
                self._fail(f"{worker} still wants or holds {stated}")
            if worker.alive:
                self._check_told(worker)
        living = {(worker.member_id, worker.member_state.session) for worker in workers if worker.alive}
        holders = {name: {claim.key for claim in lock.holders} for name, lock in table.locks.items()}
        left = [name for name, keys in holders.items() if not (slot_of(name) and keys and keys <= living)]
        if left or table.unverified:
            self._fail(f"the partition actor still has {sorted(left)}, and waits for {sorted(table.unverified)}")
        watchers = [worker for worker in workers if isinstance(worker, Watcher) and worker.alive]
        for group, exclusive in self._world.conditions.groups:
            members = [worker for worker in workers if self._must_be_member(worker, group, dismissed)]
            self._check_views(group, members)
            self._check_wishes(group, members, table)
            if exclusive and members:
                covered = reduce(or_, (worker.working_on() for worker in members))
                if missing := set(keys_of(group)).difference(self._keys(covered)):
                    self._fail(f"nobody works on {', '.join(sorted(missing))}")
            self._check_watchers(group, watchers, members)

    def check_fleet(self, fleet: SimulatedFleet) -> None:
        """Raises ``Violation`` unless each slot has one worker of the wanted version that serves, and no other runs."""
        state = fleet.controller.state
        status = state.status(fleet.controller.clock.now())
        if not status["ready"] or state.version != state.stable:
            self._fail(f"the fleet is not ready: {status}")
        running = sorted((each.fleet_slot, each.version) for each in fleet.workers.values() if each.alive)
        if running != [(slot, state.version) for slot in state.wanted()]:
            self._fail(f"the workers that run are {running}, and are to be {state.wanted()} of {state.version}")

    def check_drained(self, draining: set[str]) -> None:
        """Raises ``Violation`` if a member on a node that is `draining` has a place in a group with a member elsewhere.

        And unless the members elsewhere have all keys. One that stays until it is replaced counts as elsewhere if
        nobody knows when its node ends.
        """
        ends = self._world.drains_end
        leaving = {node for node in draining if ends.get(node, 0.0) is not None}
        workers = [client for client in self._clients if isinstance(client, Worker) and client.alive]
        for group, exclusive in self._world.conditions.groups:
            views = [(worker, worker.member_state.view(group)) for worker in workers]
            members = [worker for worker, view in views if view is not None and view.mine]
            if all(worker.node in draining for worker in members):
                continue
            goes = {worker: worker.node in (leaving if worker.member_state.stays else draining) for worker in members}
            elsewhere = [worker for worker in members if not goes[worker]]
            if left := [worker for worker in members if goes[worker]]:
                self._fail(f"{left} are members of {group} on nodes that drain, though {elsewhere} are others")
            covered = reduce(or_, (worker.working_on() for worker in elsewhere))
            if exclusive and (missing := set(keys_of(group)).difference(self._keys(covered))):
                self._fail(f"nobody works on {', '.join(sorted(missing))} while {sorted(draining)} drain")

    def _check_told(self, worker: Worker) -> None:
        """Users were told of all keys that they may work on, and of no others; no callback or session is left over."""
        for group, told in worker.told.items():
            mine = worker.session_of.share(group).of(keys_of(group))
            if sorted(told) != sorted(mine):
                self._fail(
                    f"{worker} was told that {sorted(told)} are its keys of {group}, and they are {sorted(mine)}"
                )
        if unfinished := worker.driver.unfinished():
            self._fail(f"{worker} has still to run {unfinished}")
        for session in worker.transport.sessions[:-1]:
            if not worker.driver.is_closed(session):
                self._fail(f"session {session.session} of {worker} is not closed")

    def _must_be_member(self, worker: Worker, group: str, dismissed: set[tuple[str, str]]) -> bool:
        held = worker.member_state.groups.get(group)
        if not worker.alive or held is None or held.want != "in":
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

    def _check_wishes(self, group: str, members: list[Worker], table: LockTable) -> None:
        """Every member that wants a slot has it, but for a number that another member has; nobody else has one."""
        for worker in members:
            slot, wish = worker.coordinator.slot(group), worker.wishes.get(group)
            has_another = (wish is None) != (slot is None) or (wish is not True and slot not in (None, wish))
            if not has_another:
                continue
            holders = [] if wish is True else table.holders(slot_name(worker.space_of(group), wish or 0))
            if slot is not None or not holders:
                self._fail(f"{worker} wants slot {wish} of {group}, and has {slot}; {table.locks}")

    def _check_watchers(self, group: str, watchers: list[Watcher], members: list[Worker]) -> None:
        for watcher in watchers:
            view = watcher.member_state.view(group)
            if (view.members if view else {}).keys() != {worker.member_id for worker in members}:
                self._fail(f"{watcher} watches {group} and holds {view}; the members are {members}")
            if members and watcher.epochs()[group] != members[0].epochs()[group]:
                self._fail(f"{watcher} holds epoch {watcher.epochs()[group]} of {group}")

    def _fail(self, what: str) -> NoReturn:
        raise Violation(self._world.explain(what))

    def _keys(self, bits: int) -> list[str]:
        return [key for key, bit in self._bits.items() if bits & bit]
