"""A fleet's decisions: one worker in each slot, of the wanted version, on nodes that stay.

Events change what is known, and `step` compares that with what is wanted: so a lost or late event costs time and
nothing else. A worker goes through these phases:

- starting: its process is being started and its constructor runs;
- ready: it may join, and waits for the one that has its slot;
- joining: it is asked to join the group;
- serving: it is a member;
- draining: it hands its keys over and leaves;
- ending: its process is being ended. A new one may start in the slot, whose fencing does not depend on the fleet.

Two workers of a slot are members of the group at the same time only while one takes over from the other, whose node is
draining: they share the member id, so that the keys go from one to the other and nowhere else.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from partition_actor.core.autoscale import Autoscale, Scaler
from partition_actor.core.epochs import Epoch

UPDATE_ATTEMPTS = 3
"""Workers of a new version that may fail before the update is rolled back."""
KEPT_EVENTS = 100

Phase = Literal["starting", "ready", "joining", "serving", "draining", "ending"]
_MEMBER: tuple[Phase, ...] = ("joining", "serving")
_GOING: tuple[Phase, ...] = ("draining", "ending")


class Start(NamedTuple):
    """Start a process and let its constructor run; then ``started``, or ``ended``."""

    number: int
    slot: int
    version: int
    node: str | None
    """Where; None: wherever Ray likes."""


class Join(NamedTuple):
    """Let a worker join its group; then ``joined``, or ``ended``."""

    number: int


class Drain(NamedTuple):
    """Let a worker hand over and leave; then ``drained``, or ``ended``."""

    number: int


class End(NamedTuple):
    """End a process; then ``ended``."""

    number: int
    drained: bool
    """It has handed over and may end what it is at; else it is killed."""


Action = Start | Join | Drain | End


@dataclass(frozen=True)
class Pace:
    """How fast a fleet acts; in seconds."""

    first_pause: float = 0.5
    """Before a worker is started that has crashed twice in a row; doubled with each further crash."""
    longest_pause: float = 60.0
    steady_after: float = 10.0
    """Of service, after which a crash is the first one again."""
    lost_after: float = 2.0
    """Without a report, after which a worker that is no member any more is given up, with its host."""


@dataclass(frozen=True)
class Node:
    """A node of the cluster."""

    draining: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class FleetWorker:
    """One process of a fleet."""

    number: int
    """Unique in the life of the fleet."""
    slot: int
    version: int
    phase: Phase
    since: float
    """When the phase began."""
    heard: float
    """When it was last heard of."""
    node: str | None = None
    """The one asked for, and from ``started`` on the one that it runs on."""
    pid: int | None = None
    epoch: Epoch | None = None
    """Of the view that it holds."""
    is_settled: bool = False
    """Whether it may use its slot, and waits for nobody's hand-off."""
    load: float | None = None
    is_drained: bool = False
    is_out: bool = False
    """It is no member any more, though nobody here asked, or cannot be one."""


@dataclass(slots=True)
class SlotRecord:
    """What has happened in a slot."""

    restarts: int = 0
    """Workers started there after one that had failed."""
    failures: int = 0
    """Of these, in a row."""
    retry_at: float = float("-inf")
    reason: str = ""
    """Why the last one failed."""


class FleetState:
    """The state of one fleet.

    `size`: how many workers, or how many on each node if `per_node`. `spread`: "node" or the name of a label of nodes,
    over whose values new workers are spread evenly. `drain_timeout`: seconds after which a worker that has not handed
    over is ended all the same. `start_timeout`: after which one that has not started or joined counts as failed.
    `numbers_from`: above every number that the fleet has ever used.
    """

    def __init__(
        self,
        size: int,
        *,
        per_node: bool = False,
        spread: str | None = None,
        autoscale: Autoscale | None = None,
        drain_timeout: float = 60.0,
        start_timeout: float = 300.0,
        numbers_from: int = 1,
        pace: Pace | None = None,
    ) -> None:
        self.size, self.per_node, self.spread = size, per_node, spread
        self.drain_timeout, self.start_timeout = drain_timeout, start_timeout
        self.scaler = None if autoscale is None else Scaler(autoscale)
        self.workers: dict[int, FleetWorker] = {}
        """By number."""
        self._in_slot: defaultdict[int, list[FleetWorker]] = defaultdict(list)
        """By slot, the same, oldest first."""
        self.version = self.stable = 1
        """The wanted version of the workers, and the latest that all of them have been."""
        self.max_unavailable = 1
        self.stopping = False
        self.slots: dict[int, SlotRecord] = {}
        self.events: deque[tuple[float, str]] = deque(maxlen=KEPT_EVENTS)
        """When something happened, and what; latest last."""
        self.update_failed = ""
        """Why the last update was rolled back."""
        self.cannot_start = ""
        """Why no worker has ever served, after as many have failed as roll an update back."""
        self.pace = pace or Pace()
        self._failed_starts = 0
        self._has_served = False
        self._next = numbers_from
        self._nodes: dict[str, Node] = {}
        self._places: dict[int, str] = {}
        """With `per_node`: the node of each slot."""
        self._stepped: float | None = None
        self._seen: Epoch | None = None
        self._members: Set[int] = frozenset()
        self._actions: list[Action] = []

    # -- what users want ----------------------------------------------------------------------------------------

    def scale(self, now: float, size: int) -> None:
        """There are to be so many workers, or so many on each node."""
        if size != self.size:
            self._note(now, f"scales from {self.size} to {size}")
        self.size = size

    def update(self, now: float, version: int, max_unavailable: int) -> None:
        """All workers are to be of this version, higher than all before; at most so many slots are without one."""
        self.version, self.max_unavailable = version, max_unavailable
        self._failed_starts, self.update_failed = 0, ""
        self._note(now, f"updates to version {version}")
        for slot in self.slots.values():
            slot.failures, slot.retry_at = 0, now

    def stop(self, now: float) -> None:
        """Drain and end all workers."""
        if not self.stopping:
            self._note(now, "stops")
        self.stopping = True

    @property
    def is_over(self) -> bool:
        """Whether it is stopped and no worker is left."""
        return self.stopping and not self.workers

    # -- what happens -------------------------------------------------------------------------------------------

    def adopt(
        self, now: float, number: int, slot: int, version: int, phase: Phase, node: str | None, pid: int | None
    ) -> None:
        """A former controller of this fleet has started this worker."""
        self._has_served |= phase == "serving"
        self._add(FleetWorker(number, slot, version, phase, now, now, node, pid))
        self._next = max(self._next, number + 1)

    def _add(self, worker: FleetWorker) -> None:
        self.workers[worker.number] = worker
        self._in_slot[worker.slot].append(worker)

    def started(self, now: float, number: int, node: str, pid: int) -> None:
        """The worker's constructor has returned."""
        worker = self.workers.get(number)
        if worker is not None:
            worker.node, worker.pid, worker.heard = node, pid, now
            if self.per_node:  # one of a former controller's keeps its slot
                self._places.setdefault(worker.slot, node)
            if worker.phase == "starting":
                self._enter(worker, "ready", now)

    def joined(self, now: float, number: int) -> None:
        """The worker has joined the group."""
        worker = self.workers.get(number)
        if worker is not None:
            worker.heard = now
            if worker.phase == "joining":
                self._enter(worker, "serving", now)
                self._has_served, self.cannot_start = True, ""

    def reported(
        self,
        now: float,
        number: int,
        epoch: Epoch | None,
        is_settled: bool,
        load: float | None,
        *,
        out: bool = False,
        superseded: bool = False,
    ) -> bool:
        """A worker says what it holds; returns whether that is news.

        `out`: it is no member of its group any more, though nobody here asked. `superseded`: another process has its
        member id.
        """
        worker = self.workers.get(number)
        if worker is None:
            return False
        is_news = (worker.epoch, worker.is_settled) != (epoch, is_settled) or out or superseded
        worker.heard, worker.epoch, worker.is_settled, worker.load = now, epoch, is_settled, load
        if superseded and worker.phase in _MEMBER:
            self._failed(now, worker, "another process has its member id")
            worker.is_out = True
            self._retire(worker, now)
        elif out and worker.phase == "serving" and not worker.is_out:
            worker.is_out = True
            self._note(now, f"the worker in slot {worker.slot} is replaced: it was drained or has left its group")
        return is_news

    def drained(self, now: float, number: int) -> None:
        """The worker has handed over and left."""
        worker = self.workers.get(number)
        if worker is not None:
            worker.heard, worker.is_drained = now, True

    def ended(self, now: float, number: int, reason: str) -> None:
        """The worker's process is over, or could not be started, or cannot do what it is there for."""
        worker = self.workers.pop(number, None)
        if worker is None:
            return
        self._in_slot[worker.slot].remove(worker)
        if worker.phase not in _GOING:
            self._failed(now, worker, reason)

    def failed_to(self, now: float, number: int, reason: str) -> None:
        """The process runs, but its constructor has failed, or it could not join or hand over: it is to go."""
        worker = self.workers.get(number)
        if worker is None:
            return
        if worker.phase == "ending":
            self._kill(worker)
        elif worker.phase == "draining":
            self._end(worker, now)
        else:
            self._failed(now, worker, reason)
            worker.is_out = True
            self._retire(worker, now)

    def seen(self, epoch: Epoch | None, slots: Set[int]) -> None:
        """The epoch of the group's latest view, and the slots whose member ids are in it; None: nobody knows."""
        self._seen, self._members = epoch, slots

    def take_nodes(self, nodes: Mapping[str, Node]) -> None:
        """The cluster's nodes that are alive."""
        self._nodes = dict(nodes)

    def _failed(self, now: float, worker: FleetWorker, reason: str) -> None:
        slot = self.slots.setdefault(worker.slot, SlotRecord())
        was_steady = worker.phase == "serving" and now - worker.since >= self.pace.steady_after
        slot.restarts += 1
        slot.failures = 1 if was_steady else slot.failures + 1
        slot.reason = reason
        doubled = self.pace.first_pause * 2.0 ** min(slot.failures - 2, 20)
        pause = 0.0 if slot.failures < 2 else min(self.pace.longest_pause, doubled)
        slot.retry_at = now + pause
        again = "another starts" if not pause else f"another starts in {pause:g} s"
        self._note(now, f"the worker in slot {worker.slot} has failed: {reason}; {again}")
        if worker.version != self.version or was_steady:
            return
        self._failed_starts += 1
        if self._failed_starts >= UPDATE_ATTEMPTS and self.version != self.stable:
            self._roll_back(now, reason)
        elif self._failed_starts >= UPDATE_ATTEMPTS and not self._has_served:
            self.cannot_start = reason

    def _roll_back(self, now: float, reason: str) -> None:
        self.update_failed = f"version {self.version} was rolled back to version {self.stable}: {reason}"
        self._note(now, self.update_failed)
        self.version = self.stable
        for slot in self.slots.values():
            slot.failures, slot.retry_at = 0, now

    # -- what is to be done -------------------------------------------------------------------------------------

    def step(self, now: float) -> list[Action]:
        """What is to be done now. Call it after events, and at least twice within `Pace.lost_after`."""
        self._mind_stall(now)
        self._autoscale(now)
        self._place_slots()
        self._give_up_lost(now)
        wanted = set(self.wanted())
        for slot in sorted({*wanted, *(worker.slot for worker in self.workers.values())}, reverse=True):
            if slot in wanted:
                self._mind(now, slot)
            else:
                for worker in self._in(slot):
                    self._retire(worker, now)
        self._roll(now, wanted)
        actions, self._actions = self._actions, []
        return actions

    def _mind_stall(self, now: float) -> None:
        """If nobody has called for long, the time passed for this process alone: what workers said is yet to come."""
        stall, self._stepped = now - (now if self._stepped is None else self._stepped), now
        if stall > self.pace.lost_after / 2:
            for worker in self.workers.values():
                worker.heard, worker.since = now, worker.since + stall

    def wanted(self) -> list[int]:
        """The slots that are to have a worker."""
        if self.stopping:
            return []
        return sorted(self._places.keys() | self._unplaced()) if self.per_node else list(range(self.size))

    def _in(self, slot: int) -> list[FleetWorker]:
        return list(self._in_slot.get(slot, ()))

    def _serving(self, slot: int) -> FleetWorker | None:
        return next((worker for worker in reversed(self._in(slot)) if worker.phase == "serving"), None)

    def _autoscale(self, now: float) -> None:
        if self.scaler is None or self.stopping:
            return
        loads = [worker.load if worker.phase == "serving" else None for worker in self.workers.values()]
        self.scale(now, self.scaler.decide(now, self.size, loads))

    def _place_slots(self) -> None:
        """With `per_node`: give the slots of nodes that are gone up, and each other node its slots."""
        if not self.per_node or not self._nodes or self._unplaced():
            return
        staying = [name for name, node in sorted(self._nodes.items()) if not node.draining]
        kept: dict[str, list[int]] = {name: [] for name in staying}
        for slot, node in sorted(self._places.items()):
            if node in kept and len(kept[node]) < self.size:
                kept[node].append(slot)
        self._places = {slot: node for node, slots in kept.items() for slot in slots}
        free = self._free_slots()
        for node, slots in kept.items():
            for _ in range(self.size - len(slots)):
                self._places[next(free)] = node

    def _unplaced(self) -> set[int]:
        """The slots of a former controller's workers that have not told their nodes yet."""
        return {each.slot for each in self.workers.values() if each.node is None and each.phase not in _GOING}

    def _free_slots(self) -> Iterator[int]:
        """Those that no node and no worker has, the lowest first."""
        taken = {*self._places, *(worker.slot for worker in self.workers.values())}
        return (slot for slot in range(len(taken) + self.size * (len(self._nodes) + 1)) if slot not in taken)

    def _give_up_lost(self, now: float) -> None:
        """End the workers whose lease is over and that do not answer: their hosts are lost, or they are stopped."""
        for worker in self.workers.values():
            late = now - worker.since > self.start_timeout
            if late and worker.phase in ("starting", "joining"):
                self._failed(now, worker, f"it is still {worker.phase} after {self.start_timeout:g} s")
                self._end(worker, now)
            silent = now - worker.heard > self.pace.lost_after
            if silent and worker.phase == "serving" and self._is_out(worker):
                self._failed(now, worker, "its lease has ended and it does not answer")
                self._end(worker, now)
            elif worker.phase == "ending" and worker.is_drained and now - worker.since >= self.drain_timeout:
                self._kill(worker)  # its close() does not return

    def _is_out(self, worker: FleetWorker) -> bool:
        """Whether the worker's group has gone on without it since it last reported."""
        later = self._seen is not None and (worker.epoch is None or self._seen > worker.epoch)
        return later and worker.slot not in self._members

    def _mind(self, now: float, slot: int) -> None:
        workers = [worker for worker in self._in(slot) if worker.phase not in _GOING]
        going = [worker for worker in self._in(slot) if worker.phase == "draining"]
        for worker in going:
            self._retire(worker, now)
        members = [worker for worker in workers if worker.phase in _MEMBER]
        waiting = [worker for worker in workers if worker.phase not in _MEMBER]
        if len(members) > 1 and members[-1].phase == "serving":  # it has taken over
            for worker in members[:-1]:
                self._retire(worker, now)
            return
        current = members[-1] if members else None
        if current is not None and current.is_out:
            self._retire(current, now)
            return
        if self.per_node:
            misplaced = [worker for worker in workers if worker.node not in (None, self._places.get(slot))]
            for worker in misplaced:
                self._retire(worker, now)
            waiting = [worker for worker in waiting if worker not in misplaced]
        leaves = current is not None and not self.per_node and self._drains(current.node)
        if current is not None and not leaves:
            for worker in waiting:  # the drain was taken back
                self._end(worker, now)
            return
        for worker in waiting[:-1]:
            self._end(worker, now)
        if not waiting:
            if not going and now >= self.slots.setdefault(slot, SlotRecord()).retry_at:
                self._start(now, slot)
        elif waiting[-1].phase == "ready" and not going and (current is None or current.phase == "serving"):
            self._enter(waiting[-1], "joining", now)
            self._actions.append(Join(waiting[-1].number))

    def _drains(self, node: str | None) -> bool:
        return node is not None and node in self._nodes and self._nodes[node].draining

    def _start(self, now: float, slot: int) -> None:
        if self.spread is not None and not self._nodes:
            return  # it will soon be known where the first one may go
        worker = FleetWorker(self._next, slot, self.version, "starting", now, now, self._place(slot))
        self._next += 1
        self._add(worker)
        self._actions.append(Start(worker.number, slot, worker.version, worker.node))

    def _place(self, slot: int) -> str | None:
        """The node for a new worker: with `spread`, in the domain with the fewest, on its node with the fewest."""
        if self.per_node:
            return self._places[slot]
        if self.spread is None:
            return None
        on_node = {name: 0 for name, node in self._nodes.items() if not node.draining}
        in_domain: dict[str, int] = {}
        for worker in self.workers.values():
            if worker.phase not in _GOING and worker.node in on_node:
                on_node[worker.node] += 1
        for name, count in on_node.items():
            in_domain[self._domain(name)] = in_domain.get(self._domain(name), 0) + count
        return min(on_node, key=lambda name: (in_domain[self._domain(name)], on_node[name], name), default=None)

    def _domain(self, name: str) -> str:
        return name if self.spread == "node" else self._nodes[name].labels.get(str(self.spread), "")

    def _retire(self, worker: FleetWorker, now: float) -> None:
        """Let a worker go: first it hands over, if it has ever joined."""
        if worker.phase in ("starting", "ready"):
            self._end(worker, now)
        elif worker.phase in _MEMBER:
            self._enter(worker, "draining", now)
            self._actions.append(Drain(worker.number))
        elif worker.phase == "draining" and worker.is_drained:
            self._end(worker, now)
        elif worker.phase == "draining" and now - worker.since >= self.drain_timeout:
            self._note(now, f"the worker in slot {worker.slot} is ended, and has not handed over in time")
            self._end(worker, now)

    def _end(self, worker: FleetWorker, now: float) -> None:
        if worker.phase != "ending":
            self._enter(worker, "ending", now)
            self._actions.append(End(worker.number, worker.is_drained))

    def _kill(self, worker: FleetWorker) -> None:
        if worker.is_drained:
            worker.is_drained = False
            self._actions.append(End(worker.number, drained=False))

    def _roll(self, now: float, wanted: Set[int]) -> None:
        """Replace workers of another version, as long as enough slots have one that serves."""
        if not self.is_updating:
            if self.version != self.stable and wanted:
                self._note(now, f"all workers are of version {self.version}")
                self.stable = self.version
            return
        serving = {slot: worker for slot in sorted(wanted) if (worker := self._serving(slot)) is not None}
        may_go = self.max_unavailable - (len(wanted) - len(serving))
        for worker in serving.values():
            if worker.version == self.version:
                continue
            if may_go <= 0:
                break
            self._retire(worker, now)
            may_go -= 1
        for slot in wanted:
            for worker in self._in(slot):
                if worker.phase in ("starting", "ready") and worker.version != self.version:
                    self._end(worker, now)

    @property
    def is_updating(self) -> bool:
        """Whether some slot has no serving worker of the wanted version."""
        served = ((self._serving(slot)) for slot in self.wanted())
        return any(worker is None or worker.version != self.version for worker in served)

    @staticmethod
    def _enter(worker: FleetWorker, phase: Phase, now: float) -> None:
        worker.phase, worker.since = phase, now

    def _note(self, now: float, what: str) -> None:
        self.events.append((now, what))

    # -- what is known ------------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether every slot has a worker that may use it, all hold one epoch, and none waits for a hand-off."""
        serving = [self._serving(slot) for slot in self.wanted()]
        epochs = {worker.epoch for worker in serving if worker is not None and worker.is_settled}
        if self.stopping or (self.per_node and not (self._nodes and self._places)):
            return False
        all_serve = all(worker is not None and worker.is_settled for worker in serving)
        return all_serve and len(epochs) <= 1 and None not in epochs

    def status(self, now: float) -> dict[str, Any]:
        """What an operator wants to know; times are ages in seconds."""
        wanted = set(self.wanted())
        return {
            "size": len(wanted),
            "per_node": self.size if self.per_node else None,
            "ready": self.is_ready,
            "serving": sum(self._serving(slot) is not None for slot in wanted),
            "version": self.version,
            "updating": self.is_updating and self.version != self.stable,
            "update_failed": self.update_failed,
            "cannot_start": self.cannot_start,
            "stopping": self.stopping,
            "needed": None if self.scaler is None else self.scaler.last_need,
            "restarts": sum(slot.restarts for slot in self.slots.values()),
            "workers": [self._worker_status(now, worker) for worker in sorted(self.workers.values(), key=_by_slot)],
            "waiting": [
                {"slot": slot, "seconds": max(0.0, record.retry_at - now), "reason": record.reason}
                for slot, record in sorted(self.slots.items())
                if slot in wanted and not self._in(slot)
            ],
            "events": [{"seconds_ago": now - at, "what": what} for at, what in self.events],
        }

    def _worker_status(self, now: float, worker: FleetWorker) -> dict[str, Any]:
        record = self.slots.get(worker.slot, SlotRecord())
        return {
            "slot": worker.slot,
            "number": worker.number,
            "phase": worker.phase,
            "seconds": now - worker.since,
            "version": worker.version,
            "node": worker.node,
            "pid": worker.pid,
            "epoch": worker.epoch,
            "is_settled": worker.is_settled,
            "load": worker.load,
            "restarts": record.restarts,
            "reason": record.reason,
        }


def _by_slot(worker: FleetWorker) -> tuple[int, int]:
    return worker.slot, worker.number
