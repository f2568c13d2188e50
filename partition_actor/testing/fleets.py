"""A simulated fleet: the production ``FleetState``, and its workers among the members of the simulated cluster."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from partition_actor.core.autoscale import Autoscale
from partition_actor.core.fleet import Action, Drain, End, FleetState, Join, Node, Pace, Start
from partition_actor.testing.partition_actors import SimulatedPartitionActor
from partition_actor.testing.workers import Watcher, Worker
from partition_actor.testing.world import Handler, Process, World

LOOK = 0.1
"""Seconds between two looks of a controller."""
DRAIN_TIMEOUT = 8.0
"""Seconds, with a ttl of 1 s: longer than a callback may take."""
PACE = Pace(first_pause=0.1, longest_pause=1.0, steady_after=2.0, lost_after=0.5)
MAX_SIZE = 3


class SimulatedFleetWorker(Worker):
    """A worker that a fleet has started: it joins when it is told to, and never again after it was told to leave."""

    def __init__(
        self, world: World, name: str, actors: Sequence[SimulatedPartitionActor], start: Start, node: str | None
    ) -> None:
        self.number, self.fleet_slot, self.version = start.number, start.slot, start.version
        self.may_join = self.leaves = False
        self.leaves_since = float("inf")
        """On the world's clock."""
        self._placed_on = node
        super().__init__(world, name, f"fleet/{start.slot}", actors)

    def _begin(self, weight: int) -> None:
        self.node = self._placed_on
        super()._begin(weight)
        self.session_of.stays = self.member_state.stays = True

    def start(self, weight: int = 1) -> None:
        """Start the member; it joins if it may."""
        if not self.leaves:
            self.coordinator.start()
            for group, mode in self.world.conditions.groups:
                self.join(group, weight, mode)

    def join(self, group: str, weight: int, exclusive: bool | None = None) -> None:
        """Join a group, if it may."""
        if self.may_join and not self.leaves and self.coordinator.is_active():
            super().join(group, weight, exclusive)

    def space_of(self, group: str) -> str:
        """The fleet's own."""
        return f"fleet of {group}"

    def _wish(self, group: str) -> bool | int | None:
        self.wishes[group] = self.fleet_slot
        return self.fleet_slot

    # -- what its controller calls ------------------------------------------------------------------------------

    def join_fleet(self) -> None:
        """Join every group."""
        self.may_join = True
        self.start()

    def leave_fleet(self) -> None:
        """Hand over, and leave every group."""
        self.leaves, self.leaves_since = True, self.world.time.now()
        with self.losses():
            self.coordinator.stop()

    def may_take_up(self, group: str) -> int:
        """What it may begin to work on in a group."""
        return self._may_take_up(group) if group in self.exclusive else 0

    @property
    def has_left(self) -> bool:
        """Whether all that it was to do before it ends is done."""
        closed = all(self.driver.is_closed(session) for session in self.transport.sessions)
        return self.leaves and closed and not self.driver.unfinished()


@dataclass
class SimulatedFleet:
    """What stays when the controller of a fleet dies."""

    world: World
    actors: Sequence[SimulatedPartitionActor]
    start_watcher: Callable[[str], Watcher]
    add_worker: Callable[[SimulatedFleetWorker], None]
    kill: Callable[[Process], None]
    rule: Autoscale | None
    size: int
    dice: random.Random
    version: int = 1
    stable: int = 1
    load: float | None = 1.0
    """What each worker reports."""
    broken: set[int] = field(default_factory=set)
    """Versions whose constructor raises."""
    workers: dict[int, SimulatedFleetWorker] = field(default_factory=dict)
    """By number; those that are dead and not yet known to be, too."""
    controllers: list[SimulatedController] = field(default_factory=list)

    def start_controller(self) -> SimulatedController:
        """Start the first controller or the next."""
        for controller in self.controllers:
            controller.die()
        self.controllers.append(SimulatedController(self, len(self.controllers)))
        return self.controllers[-1]

    @property
    def controller(self) -> SimulatedController:
        """The latest."""
        return self.controllers[-1]

    # -- what users and operators do ----------------------------------------------------------------------------

    def act(self) -> None:
        """Scale, update, or kill the controller; and come back later."""
        self.load = 1.0
        if self.world.faults_over:
            return
        self.load = self.dice.choice((None, 0.0, 0.0, 1.0, 5.0))
        self.world.later(self.dice.expovariate(0.5), None, self.act)
        controller, luck = self.controller, self.dice.random()
        now = controller.clock.now()
        if not controller.alive:
            self.world.counts["fleet controller restart"] += 1
            self.start_controller()
        elif controller.paused:
            return
        elif luck < 0.35 and self.rule is None:
            self.world.counts["fleet scaled"] += 1
            controller.state.scale(now, self.dice.randint(1, MAX_SIZE))
        elif luck < 0.7:
            self.world.counts["fleet update"] += 1
            latest = max(self.version, controller.state.version, *self.broken, 0) + 1
            if self.dice.random() < 0.4:
                self.broken.add(latest)
            controller.state.update(now, latest, self.dice.choice((1, 1, 2)))
        else:
            self.world.counts["fleet controller crash"] += 1
            self.kill(controller)


class SimulatedController(Process):
    """The controller of a simulated fleet."""

    def __init__(self, fleet: SimulatedFleet, life: int) -> None:
        super().__init__(fleet.world, f"controller{life}")
        self.fleet = fleet
        self.state = FleetState(
            fleet.size,
            spread="node",
            autoscale=fleet.rule,
            drain_timeout=DRAIN_TIMEOUT,
            numbers_from=1_000 * life + 1,
            pace=PACE,
        )
        self.state.version, self.state.stable = fleet.version, fleet.stable
        self._watcher: Watcher | None = None
        self.wrong = ""
        """What it has done and must not."""
        for number, worker in sorted(fleet.workers.items()):
            if worker.alive:
                phase = "draining" if worker.leaves else "joining" if worker.may_join else "ready"
                self.state.adopt(self.clock.now(), number, worker.fleet_slot, worker.version, phase, worker.node, 0)  # type: ignore[arg-type]
                if phase != "ready":
                    self._carry_out(Drain(number) if worker.leaves else Join(number))
            if worker.alive:
                self._ask(worker)
        self.adopted = set(fleet.workers)
        self.look()

    def die(self) -> None:
        """Its process has ended, and with it its router."""
        if self._watcher is not None:
            self.fleet.kill(self._watcher)

    def look(self) -> None:
        """Look at the cluster, and do what is to be done."""
        world, state, now = self.world, self.state, self.clock.now()
        world.later(LOOK, self, self.look)
        if self._watcher is None or not self._watcher.alive:
            self._watcher = self.fleet.start_watcher(f"router of {self.name}")
        view = self._watcher.member_state.view(world.conditions.groups[0][0])
        slots = range(MAX_SIZE + 1)
        state.seen(
            None if view is None else view.epoch,
            {slot for slot in slots if view is not None and f"fleet/{slot}" in view.members},
        )
        state.take_nodes({node: Node(node in world.draining) for node in world.nodes})
        for number, worker in list(self.fleet.workers.items()):
            if not worker.alive:
                del self.fleet.workers[number]
                state.ended(now, number, "it died")
        actions = state.step(now)
        self._check_update(actions)
        for action in actions:
            world.log(self, action)
            if isinstance(action, Join):
                self._check_join(action)
            self._carry_out(action)
        self.fleet.size, self.fleet.version, self.fleet.stable = state.size, state.version, state.stable
        self._check()

    def _check(self) -> None:
        rule, state = self.fleet.rule, self.state
        if rule is not None and not rule.min <= state.size <= rule.max:
            self.wrong = f"has scaled to {state.size}, and is to have {rule.min} to {rule.max} workers"

    def _check_join(self, join: Join) -> None:
        """Another worker may only be a member in the slot if its node drains, and this one takes over."""
        state = self.state
        slot = state.workers[join.number].slot
        for each in state.workers.values():
            is_member = each.slot == slot and each.phase in ("joining", "serving") and each.number != join.number
            if is_member and each.number not in self.adopted and self._stays(each.node):
                self.wrong = f"lets worker {join.number} join beside {each.number} in slot {slot}"

    def _check_update(self, actions: list[Action]) -> None:
        """An update takes a worker only while enough slots have one."""
        state, wanted = self.state, set(self.state.wanted())
        drained = [state.workers[action.number] for action in actions if isinstance(action, Drain)]
        updated = [
            each
            for each in drained
            if each.slot in wanted and each.version != state.version and not each.is_out and self._stays(each.node)
        ]
        serving = {each.slot for each in state.workers.values() if each.phase == "serving"}
        if any(each.slot not in serving for each in updated) and len(wanted - serving) > state.max_unavailable:
            self.wrong = f"takes {updated} for an update while only {serving} of {wanted} serve"

    def _stays(self, node: str | None) -> bool:
        return node in self.world.nodes and node not in self.world.draining

    def _carry_out(self, action: Action) -> None:
        dice = self.fleet.dice
        if isinstance(action, Start):
            self.world.later(dice.expovariate(5.0), self, self._begin, action)
        elif isinstance(action, End):
            self.world.later(0.0, self, self._end, action)
        else:
            self._tell(action)

    def _begin(self, start: Start) -> None:
        state, world, now = self.state, self.world, self.clock.now()
        worker = state.workers.get(start.number)
        if worker is None or worker.phase != "starting":
            state.ended(now, start.number, "it was killed before it had begun")
        elif start.version in self.fleet.broken:
            state.failed_to(now, start.number, "its constructor has raised")
        else:
            node = start.node if start.node in world.nodes else self.fleet.dice.choice(world.nodes)
            made = SimulatedFleetWorker(world, f"fleet/{start.slot}.{start.number}", self.fleet.actors, start, node)
            self.fleet.workers[start.number] = made
            self.fleet.add_worker(made)
            state.started(now, start.number, str(node), 0)
            self._ask(made)

    def _tell(self, action: Action) -> None:
        """A call arrives in the end, unless the worker dies."""
        worker = self.fleet.workers.get(action.number)
        if worker is None:
            return
        if any(who in (worker, self) for who, _ in self.world.cuts):
            self.world.later(0.3, self, self._tell, action)
            return
        handler: Handler = worker.join_fleet if isinstance(action, Join) else worker.leave_fleet
        self.world.later(self.fleet.dice.expovariate(100.0), worker, handler)

    def _ask(self, worker: SimulatedFleetWorker) -> None:
        self.world.later(self.fleet.dice.uniform(0.05, 0.3), worker, self._report, worker)

    def _report(self, worker: SimulatedFleetWorker) -> None:
        """In the worker: tell what it holds."""
        if not self.alive or self.fleet.workers.get(worker.number) is not worker:
            return
        self._ask(worker)
        if any(who in (worker, self) for who, _ in self.world.cuts):
            return
        group = self.world.conditions.groups[0][0]
        view, session = worker.member_state.view(group), worker.session_of
        settled = view is not None and not view.laggards and worker.coordinator.slot(group) is not None
        state, is_out = session.state(group), not session.active or session.is_out(group)
        report = {
            "joined": worker.may_join and state != "joining",
            "left": worker.has_left,
            "out": worker.may_join and not worker.leaves and is_out and bool(worker.transport.sessions),
            "superseded": state == "superseded",
            "held": (None if view is None else view.epoch, settled, self.fleet.load),
        }
        self.world.later(self.fleet.dice.expovariate(100.0), self, self._take, worker.number, report)

    def _take(self, number: int, report: dict[str, Any]) -> None:
        state, now = self.state, self.clock.now()
        worker = state.workers.get(number)
        if worker is None:
            return
        if report["joined"]:
            state.joined(now, number)
        is_out = report["out"] and worker.phase == "serving"
        state.reported(now, number, *report["held"], out=is_out, superseded=report["superseded"])
        if report["left"]:
            state.drained(now, number)

    def _end(self, end: End) -> None:
        worker = self.fleet.workers.get(end.number)
        if worker is None or not worker.alive:
            self.state.ended(self.clock.now(), end.number, "it is dead")
            return
        in_time = self.world.time.now() - worker.leaves_since < DRAIN_TIMEOUT * 0.9
        group = self.world.conditions.groups[0][0]
        works = worker.working_on() if worker.leaves else worker.may_take_up(group)  # what is lost is out of that one
        if works and in_time and not worker.paused:
            self.wrong = f"ends {worker}, which works on keys"
        self.world.log(worker, "is ended by its fleet")
        self.fleet.kill(worker)


def draw_fleet(world: World, seed: int, **links: Any) -> SimulatedFleet:
    """A fleet of this seed; `links` are what it needs of the cluster."""
    dice = random.Random(f"fleet of {seed}")
    rule = Autoscale(min=1, max=MAX_SIZE, target=1.0, load="any", up_after=0.5, down_after=1.5)
    autoscales = dice.random() < 0.4
    return SimulatedFleet(world, rule=rule if autoscales else None, size=dice.randint(1, MAX_SIZE), dice=dice, **links)
