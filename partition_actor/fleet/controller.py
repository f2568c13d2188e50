"""Runs a fleet: one thread that hands events to ``core.fleet`` and carries out its actions with Ray.

Each worker has one call under way that ends only with news: first that its constructor has returned, then its reports.
So a death is known as soon as Ray fails that call.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from partition_actor import clock, ray_internals
from partition_actor.core.fleet import Action, Drain, End, FleetState, Join, Node, Phase, Start
from partition_actor.deployment import connect
from partition_actor.errors import FleetNotReady, NotStarted, PartitionError
from partition_actor.fleet.spec import FleetSpec, Version
from partition_actor.fleet.store import NUMBERS_A_LIFE, Store, Wanted
from partition_actor.fleet.teller import StatusTeller
from partition_actor.fleet.worker import CALLS_AT_ONCE, CONCURRENCY_GROUP, Post, WorkerReport, worker_class
from partition_actor.processes import future_of, ray_stays
from partition_actor.router.router import Router

log = logging.getLogger(__name__)

T = TypeVar("T")

TICK = 0.25
"""Seconds between two looks when nothing happens."""
LONGEST_REASON = 300
"""Characters."""
REPORT_INTERVAL = 1.0
"""Seconds within which a worker reports, also when it has no news."""
NODES_INTERVAL = 1.0
"""Seconds between two looks at the nodes of the cluster."""
RETRY_PAUSE = 0.5
"""Seconds before a call is repeated that did not reach a worker."""
ANSWER_WITHIN = 20.0
"""Seconds in which the thread takes an event in, while the GCS answers."""
GRACE = 5.0
"""Seconds in which a worker that has handed over may end the calls that it has received."""


class Controller:
    """A fleet that runs: its workers are this process's, or detached actors."""

    def __init__(self, spec: FleetSpec, wanted: Wanted, store: Store | None = None) -> None:
        """`wanted`: what is wanted at first, or what a former controller has left in the `store`."""
        self.spec, self._wanted, self._store = spec, wanted, store
        self._fleet = FleetState(
            wanted.size,
            per_node=spec.per_node,
            spread=spec.spread,
            autoscale=spec.autoscale,
            drain_timeout=spec.drain_timeout,
            start_timeout=spec.start_timeout,
            numbers_from=wanted.lives * NUMBERS_A_LIFE + 1,
        )
        self._fleet.version, self._fleet.stable = wanted.version, wanted.stable
        self._fleet.max_unavailable, self._fleet.stopping = wanted.max_unavailable, wanted.stopping
        self._saved: tuple[object, ...] = ()
        self._on_over: Callable[[], None] = lambda: None
        self._handles: dict[int, Any] = {}
        self._classes: dict[int, Any] = {}
        """The actor classes by version."""
        self._events: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        """Each returns False if it has no news."""
        self._then: list[Callable[[], None]] = []
        """Called when the status has been published."""
        self._changed = threading.Condition()
        self._was_ready, self._times_ready = False, 0
        self._status = self._status_now(over=False)
        self._logged = self._next_look = 0.0
        self._teller = StatusTeller(spec)
        self._over = threading.Event()
        self._router = Router(spec.group, actor=spec.actor, namespace=spec.namespace, settings=spec.settings)
        self._partition_actor: Any = None
        self._threads = [
            threading.Thread(target=self._run, name=f"fleet {spec.name}", daemon=True),
            threading.Thread(target=self._watch_nodes, name=f"nodes of fleet {spec.name}", daemon=True),
        ]

    # -- what callers use ---------------------------------------------------------------------------------------

    def start(self, on_over: Callable[[], None] = lambda: None) -> None:
        """Begin to start workers. `on_over` is called when the fleet has ended."""
        self._on_over = on_over
        for thread in self._threads:
            thread.start()

    def scale(self, size: int) -> None:
        """There are to be so many workers."""
        self._do_and_wait(lambda: self._fleet.scale(clock.now(), size))

    def update(self, version: Version, max_unavailable: int) -> int:
        """Replace all workers by those of a version; returns its number."""

        def begin() -> int:
            latest = max(self._wanted.versions) + 1
            self._wanted.versions[latest] = version
            self._fleet.update(clock.now(), latest, max_unavailable)
            return latest

        return self._do_and_wait(begin)

    def stop(self, timeout: float) -> bool:
        """Drain and end all workers; returns whether all have ended within so many seconds."""
        self._do(lambda: self._fleet.stop(clock.now()))
        over = self._over.wait(timeout)
        if not over:
            log.warning("fleet %r has not ended within %g s", self.spec.name, timeout)
        for thread in self._threads if over else ():
            thread.join(GRACE)
        return over

    def status(self) -> dict[str, Any]:
        """The latest ``core.fleet.FleetState.status``, with what the fleet is."""
        return self._status

    def wait(self, done: Callable[[dict[str, Any]], bool], timeout: float | None = None) -> bool:
        """Wait until the status is `done`; returns whether it is within so many seconds, without end for None."""
        with self._changed:
            return self._changed.wait_for(lambda: done(self._status), timeout)

    def handles(self) -> dict[int, Any]:
        """The serving workers' actors, by slot."""
        serving = [each for each in self._status["workers"] if each["phase"] == "serving"]
        handles = dict(self._handles)
        return {each["slot"]: handles[each["number"]] for each in serving if each["number"] in handles}

    # -- the thread ---------------------------------------------------------------------------------------------

    def _do(self, event: Callable[[], object]) -> None:
        self._events.put(event)

    def _do_and_wait(self, event: Callable[[], T]) -> T:
        """What an event returns, once the status tells of what it has brought about."""
        done: Future[T] = Future()

        def run() -> None:
            result = event()
            self._then.append(lambda: done.set_result(result))

        self._do(run)
        until = clock.now() + ANSWER_WITHIN
        while True:
            with contextlib.suppress(TimeoutError, FutureTimeout):
                return done.result(TICK)
            if self._over.is_set() or not all(thread.is_alive() for thread in self._threads[:1]):
                raise NotStarted(f"fleet {self.spec.name!r} has ended, or its process has left Ray")
            if clock.now() > until:
                raise FleetNotReady(f"fleet {self.spec.name!r}: its controller waits for Ray; the change comes late")

    def _run(self) -> None:
        adopted = self._store is None
        while not self._fleet.is_over:
            events = self._wait_for_events()
            with ray_stays() as connected:
                if not connected:
                    break
                try:
                    if not adopted:
                        self._adopt()
                        adopted = True
                    has_news = False
                    while events:  # each holds a reference, which must not be freed while Ray shuts down
                        has_news |= self._handle(events.pop(0))
                    if has_news or clock.now() >= self._next_look:
                        self._look()
                except Exception:  # as when the GCS is away: what is wanted stays, so the next round does it
                    log.exception("the controller of fleet %r goes on after an error", self.spec.name)
                    self._next_look = clock.now() + RETRY_PAUSE
        self._end_run()

    def _handle(self, event: Callable[[], object]) -> bool:
        """Handle an event; returns whether it has news."""
        try:
            return event() is not False
        except Exception:
            log.exception("the controller of fleet %r goes on after an error", self.spec.name)
            return True

    def _look(self) -> None:
        """Do what is to be done, and tell of it."""
        self._next_look = clock.now() + TICK
        self._follow()
        for action in self._fleet.step(clock.now()):
            self._carry_out(action)
        self._save()
        self._publish()
        while self._then:
            self._then.pop()()

    def _end_run(self) -> None:
        with contextlib.suppress(Exception):
            self._router.stop()
        if self._fleet.is_over and self._store is not None:
            with contextlib.suppress(Exception):
                self._store.remove()
        self._publish(over=True)
        self._over.set()
        self._on_over()

    def _wait_for_events(self) -> list[Callable[[], object]]:
        """The events that have come, or that come before the next look."""
        events: list[Callable[[], object]] = []
        with contextlib.suppress(queue.Empty):
            events.append(self._events.get(timeout=max(0.001, self._next_look - clock.now())))
            while True:
                events.append(self._events.get_nowait())
        return events

    def _follow(self) -> None:
        """Tell the fleet who is in the group."""
        if self._partition_actor is not None:
            epoch, members = self._router.epoch(), set(self._router.members())
            slots = {worker.slot for worker in self._fleet.workers.values()}
            self._fleet.seen(epoch, {slot for slot in slots if self.spec.member_id(slot) in members})

    def _watch_nodes(self) -> None:
        """Keep the fleet informed about nodes; in a thread of its own, since the GCS may be away."""
        ask = ray_internals.draining_nodes_asker()
        while not self._over.is_set():
            try:
                with ray_stays() as connected:
                    if not connected:
                        return
                    handle = self._partition_actor or connect_to(self.spec)
                if self._partition_actor is None:
                    self._router.start()  # its heartbeats need that lock
                    self._partition_actor = handle
                draining = set() if ask is None else set(ask(GRACE))  # neither starts Ray anew
                nodes = {
                    each["NodeID"]: Node(each["NodeID"] in draining, dict(each.get("Labels") or {}))
                    for each in ray.nodes()  # type: ignore[no-untyped-call]
                    if each["Alive"]
                }
                self._do(partial(self._fleet.take_nodes, nodes))
            except (RayError, PartitionError, ConnectionError) as error:
                log.info("fleet %r: cannot look at the cluster, trying again: %s", self.spec.name, error)
            except Exception:
                log.exception("fleet %r: cannot look at the cluster, trying again", self.spec.name)
            self._over.wait(NODES_INTERVAL)

    def _save(self) -> None:
        """Keep what is wanted for the next controller, if it has changed."""
        fleet, before = self._fleet, self._wanted
        used = {fleet.version, fleet.stable, max(before.versions), *(each.version for each in fleet.workers.values())}
        wanted = replace(
            before,
            size=fleet.size,
            version=fleet.version,
            stable=fleet.stable,
            max_unavailable=fleet.max_unavailable,
            stopping=fleet.stopping,
            versions={number: version for number, version in before.versions.items() if number in used},
        )
        signature = (fleet.size, fleet.version, fleet.stable, fleet.max_unavailable, fleet.stopping, {*wanted.versions})
        if signature != self._saved and self._store is not None:
            self._store.save(self.spec, wanted)
        self._wanted, self._saved = wanted, signature

    def _publish(self, *, over: bool = False) -> None:
        for at, what in self._fleet.events:
            if at > self._logged:
                log.info("fleet %r: %s", self.spec.name, what)
        self._logged = max([self._logged, *(at for at, _ in self._fleet.events)])
        with self._changed:
            self._status = self._status_now(over)
            self._changed.notify_all()
        self._teller.tell(self._status)

    def _status_now(self, over: bool) -> dict[str, Any]:
        status = self._fleet.status(clock.now())
        status["ready"] = status["ready"] and not over
        self._times_ready += status["ready"] and not self._was_ready
        self._was_ready = status["ready"]
        status.update(name=self.spec.name, group=self.spec.group, over=over, times_ready=self._times_ready)
        for worker in status["workers"]:
            worker["member_id"] = self.spec.member_id(worker["slot"])
        return status

    # -- actions ------------------------------------------------------------------------------------------------

    def _carry_out(self, action: Action) -> None:
        try:
            if isinstance(action, Start):
                self._start(action)
            elif isinstance(action, Join):
                self._call(action.number, "join", self._joined)
            elif isinstance(action, Drain):
                self._call(action.number, "drain", self._drained)
            elif isinstance(action, End):
                self._end(action)
        except Exception as error:
            log.exception("fleet %r: %s", self.spec.name, action)
            self._fleet.failed_to(clock.now(), action.number, _reason(error))

    def _start(self, start: Start) -> None:
        spec, version = self.spec, self._wanted.versions[start.version]
        options = dict(version.options)
        groups = {**(options.pop("concurrency_groups", None) or {}), CONCURRENCY_GROUP: CALLS_AT_ONCE}
        if start.node is not None:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(start.node, soft=not spec.per_node)
        if spec.detached:
            options.update(
                name=spec.worker_name(start.slot, start.number, start.version),
                namespace=spec.namespace,
                lifetime="detached",
            )
        options.setdefault("num_cpus", 0)
        options.update(max_restarts=0, max_task_retries=0)
        try:
            if start.version not in self._classes:  # Ray keeps each class that it is given
                make: Any = ray.remote
                self._classes[start.version] = make(concurrency_groups=groups)(worker_class(version.worker))
            actor = self._classes[start.version].options(**options)
            post = Post(spec, start.slot, start.number, start.version)
            handle = actor.remote(post, *version.args, **version.kwargs)
        except Exception as error:
            log.exception("fleet %r: cannot start a worker", spec.name)
            self._fleet.ended(clock.now(), start.number, _reason(error))
            return
        self._handles[start.number] = handle
        self._call(start.number, "begin", self._started)

    def _end(self, end: End) -> None:
        if end.drained:
            self._call(end.number, "close", self._closed)
        else:
            self._kill(end.number)

    def _closed(self, number: int, _: Any) -> None:
        self._handles[number].__ray_terminate__.remote()  # after the calls that it has received
        self._later(partial(self._kill, number), GRACE)

    def _kill(self, number: int, _: Any = None) -> None:
        if number in self._handles:
            ray.kill(self._handles[number])
            self._call(number, "phase", self._not_dead_yet)

    def _not_dead_yet(self, number: int, _: Any) -> None:
        self._later(partial(self._kill, number))

    # -- what calls bring ---------------------------------------------------------------------------------------

    def _call(self, number: int, method: str, then: Callable[[int, Any], object], *arguments: Any) -> None:
        """Call a worker, and have `then` called with the result; what fails is told to the fleet."""
        if number not in self._handles:
            return

        def returned(future: Future[Any]) -> None:
            self._do(partial(self._returned, number, future, then, again, call))

        again = partial(self._call, number, method, then, *arguments)
        handle = self._handles[number]
        call = getattr(handle, f"_partition_actor_{method}").remote(*arguments)
        future_of(call).add_done_callback(returned)

    def _returned(
        self,
        number: int,
        future: Future[Any],
        then: Callable[[int, Any], object],
        again: Callable[[], None],
        _reference: Any,
    ) -> object:
        if number not in self._handles:
            return False
        try:
            result = future.result()
        except ActorUnavailableError:  # it may be alive
            self._later(again)
        except RayTaskError as error:
            log.warning("fleet %r: a worker has failed: %s", self.spec.name, _reason(error))
            self._fleet.failed_to(clock.now(), number, _reason(error))
        except RayError as error:  # it is dead, or could not be started
            del self._handles[number]
            self._fleet.ended(clock.now(), number, _reason(error))
        else:
            return then(number, result)
        return True

    def _started(self, number: int, where: tuple[str, int]) -> None:
        self._fleet.started(clock.now(), number, *where)
        self._call(number, "report", self._reported, None, REPORT_INTERVAL)

    def _joined(self, number: int, _: None) -> None:
        self._fleet.joined(clock.now(), number)

    def _drained(self, number: int, _: None) -> None:
        self._fleet.drained(clock.now(), number)

    def _reported(self, number: int, report: WorkerReport) -> bool:
        is_news = self._fleet.reported(
            clock.now(),
            number,
            report.epoch,
            report.is_settled,
            report.load,
            out=report.out,
            superseded=report.is_superseded,
        )
        self._call(number, "report", self._reported, report, REPORT_INTERVAL)
        return is_news

    def _later(self, event: Callable[[], None], seconds: float = RETRY_PAUSE) -> None:
        timer = threading.Timer(seconds, lambda: self._do(event))
        timer.daemon = True
        timer.start()

    # -- a controller that Ray has restarted --------------------------------------------------------------------

    def _adopt(self) -> None:
        """Take over the workers that a former controller has started."""
        if self._store is None:
            return
        self._wanted = replace(self._wanted, lives=self._wanted.lives + 1)
        self._store.save(self.spec, self._wanted)
        prefix = self.spec.worker_prefix
        calls: dict[int, tuple[int, int, Any, Any]] = {}
        for each in ray.util.list_named_actors(all_namespaces=True):
            if each["namespace"] != self.spec.namespace or not each["name"].startswith(prefix):
                continue
            slot, _, rest = each["name"].removeprefix(prefix).partition("#")
            number, _, version = rest.partition("@")
            with contextlib.suppress(ValueError):  # it has just ended
                handle = ray.get_actor(each["name"], self.spec.namespace)
                calls[int(number)] = (int(slot), int(version), handle, handle._partition_actor_phase.remote())
        asked = [call for *_, call in calls.values()]
        if asked:
            ray.wait(asked, num_returns=len(asked), timeout=GRACE)
        for number, (slot, version, handle, call) in sorted(calls.items()):
            self._handles[number] = handle
            try:
                phase: Phase = ray.get(call, timeout=0.1)
            except RayActorError:
                del self._handles[number]
                continue
            except RayError:
                phase = "joining"  # it may have joined: so it hands over before it is ended
            self._fleet.adopt(clock.now(), number, slot, version, phase, None, None)
            self._call(number, "begin" if phase == "starting" else "whereabouts", self._started)
            if phase in ("joining", "draining"):
                self._carry_out(Join(number) if phase == "joining" else Drain(number))


def connect_to(spec: FleetSpec) -> Any:
    """The partition actor's handle. Raises what ``connect`` raises."""
    return connect(spec.actor, spec.namespace) if isinstance(spec.actor, str) else spec.actor


def _reason(error: BaseException) -> str:
    """The line of an error that says most, without Ray's advice."""
    if isinstance(error, RayTaskError):
        error = error.cause
        if not isinstance(error, PartitionError):
            return f"{type(error).__name__}: {error}"[:LONGEST_REASON]
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    said = (lines[-1] if lines else repr(error)).partition(" Some common causes")[0]
    said = said.rpartition("Worker exit detail: ")[2]
    return said if len(said) <= LONGEST_REASON else f"{said[:LONGEST_REASON]}…"


def is_decided(status: Mapping[str, Any]) -> bool:
    """Whether all workers serve and hold one epoch, or none will."""
    return bool(status["ready"] or status["cannot_start"] or status["over"])
