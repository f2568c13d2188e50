"""What users call: a group's workers, kept alive."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError

from partition_actor import arguments
from partition_actor.core.autoscale import MAX_SIZE, Autoscale
from partition_actor.deployment import NAME, NAMESPACE
from partition_actor.errors import FleetNotFound, FleetNotReady, InvalidArgument, NotStarted, PartitionError
from partition_actor.fleet.controller import RETRY_PAUSE, Controller, connect_to, is_decided
from partition_actor.fleet.spec import FleetSpec, Version, controller_name
from partition_actor.fleet.store import Store, Wanted, pack, unpack
from partition_actor.router.router import Router
from partition_actor.settings import Settings

log = logging.getLogger(__name__)

ANSWER_WITHIN = 30.0
"""Seconds in which a detached controller must answer."""
GCS_BACK_WITHIN = 60.0
"""Seconds in which a controller that Ray restarts must hear from the GCS."""
STOP_MARGIN = 30.0
"""Seconds beyond the time to hand over and to close in which a fleet must have ended."""


class Fleet:
    """Keeps the workers of a group alive: one worker actor in each slot, 0 to size - 1.

    ::

        class Biller:
            def __init__(self, coordinator, currency):      # a started PartitionCoordinator comes first
                self.coordinator = coordinator

        with Fleet("tenants", Biller, size=4, exclusive=True, args=("EUR",)) as fleet:
            fleet.scale(8)
            with fleet.router() as router: ...

    The fleet starts each worker, and lets it join `group` when its constructor has returned; so register callbacks in
    the constructor. A worker that dies is replaced at once, one that keeps crashing after growing pauses, and one whose
    host is lost when its lease has ended. The replacement has the slot and the member id of the dead one, so it gets
    the same keys. A worker's slot, ``coordinator.slot(group)``, is fenced like a key; ``coordinator.my_id`` is
    ``"<fleet>/<slot>"``, also before it joins. A worker that is to go hands its
    keys over and leaves; then its method ``close()`` is called, if it has one, and its process ends.

    Give one of: `size`, how many workers there are; `per_node`, how many on each node, as nodes come and go; and
    `autoscale`. `spread` is "node" or the name of a label of Ray's nodes: workers are spread evenly over its values.
    `exclusive` is as in ``join_group``. `args` and `kwargs` are the rest of the constructor's arguments, `options`
    those of the workers' actors, as ``num_cpus``, which is 0 by default. `name` is the fleet's, by default that of the
    group: several fleets of different names may share a group. `actor`, `namespace` and `settings` are as in
    ``PartitionCoordinator``.

    `start` or ``with`` runs the fleet as long as this process lives; `deploy` makes it outlive the process, and
    `connect` finds it again. `on_ready` is called with the fleet whenever all workers serve and hold one epoch, in a
    thread of its own. `ready_timeout`, `drain_timeout` and `start_timeout` are in seconds: for the first workers to be
    ready, for a worker to hand over and again for its ``close()``, and for one to start and join.

    Any thread may call any method. Raises ``InvalidArgument``.
    """

    def __init__(
        self,
        group: str,
        worker: type,
        *,
        size: int | None = None,
        per_node: int | None = None,
        autoscale: Autoscale | None = None,
        exclusive: bool | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        name: str | None = None,
        spread: str | None = None,
        actor: Any = NAME,
        namespace: str = NAMESPACE,
        settings: Settings | None = None,
        on_ready: Callable[[Fleet], Any] | None = None,
        ready_timeout: float = 60.0,
        drain_timeout: float = 60.0,
        start_timeout: float = 300.0,
    ) -> None:
        arguments.check_text("group", group)
        arguments.check_actor(actor, namespace, settings)
        if autoscale is not None and not isinstance(autoscale, Autoscale):
            arguments.refuse("autoscale", autoscale, "an Autoscale or None")
        if sum(each is not None for each in (size, per_node, autoscale)) != 1:
            given = {"size": size, "per_node": per_node, "autoscale": autoscale}
            arguments.refuse("size, per_node, autoscale", given, "exactly one of the three")
        if spread is not None:
            arguments.check_text("spread", spread)
        if on_ready is not None:
            arguments.check_callback(on_ready)
        self._spec = FleetSpec(
            name=_check_name(group if name is None else name),
            group=group,
            exclusive=arguments.check_mode(exclusive),
            actor=actor,
            namespace=namespace,
            settings=settings,
            per_node=per_node is not None,
            spread=spread,
            autoscale=autoscale,
            drain_timeout=arguments.check_seconds("drain_timeout", drain_timeout),
            start_timeout=arguments.check_seconds("start_timeout", start_timeout),
        )
        if autoscale is not None:
            number = autoscale.min
        elif per_node is not None:
            number = arguments.check_number("per_node", per_node, least=1, most=MAX_SIZE)
        else:
            number = arguments.check_number("size", size, least=0, most=MAX_SIZE)
        self._wanted: Wanted | None = Wanted(number, 1, 1, 1, {1: Version.of(worker, args, kwargs, options)})
        self._ready_timeout = arguments.check_seconds("ready_timeout", ready_timeout)
        self._on_ready = on_ready
        self._controller: Controller | _Remote | None = None
        self._starts = threading.RLock()

    def __repr__(self) -> str:
        return f"<Fleet {self.name!r} of group {self.group!r}: {'started' if self._controller else 'not started'}>"

    @property
    def name(self) -> str:
        """The fleet's."""
        return self._spec.name

    @property
    def group(self) -> str:
        """The group's."""
        return self._spec.group

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers, which live as long as this process; waits until they are ready.

        Does nothing if it is started. Raises ``FleetNotReady``, after which the fleet is stopped, and what ``connect``
        of the partition actor raises.
        """
        with self._starts:
            if self._controller is None:
                connect_to(self._spec)
                self._spec = replace(self._spec, detached=False)
                self._begin(Controller(self._spec, self._to_start()), is_ours=True)

    def deploy(self, name: str | None = None) -> Fleet:
        """Start the workers as detached actors, and a detached controller; waits until they are ready.

        `name`: the fleet's from now on; None keeps the one that it has.

        The fleet then lives until somebody calls `stop`. If one of this name runs already, that is this one's from now
        on, as it is. Raises as `start` does, and ``InvalidArgument`` for `on_ready`, which has no process to run in.
        """
        if self._on_ready is not None:
            arguments.refuse("on_ready", self._on_ready, "None for a fleet that is deployed")
        with self._starts:
            if self._controller is None:
                connect_to(self._spec)
                named = self.name if name is None else _check_name(name)
                remote, is_ours = _deployed(replace(self._spec, name=named, detached=True), self._to_start())
                self._spec = remote.spec()
                self._begin(remote, is_ours=is_ours)
        return self

    def _to_start(self) -> Wanted:
        if self._wanted is None:
            raise NotStarted(f"fleet {self.name!r} was found by connect() and has been stopped: make a new Fleet")
        return replace(self._wanted, versions=dict(self._wanted.versions))

    @classmethod
    def connect(cls, name: str, namespace: str = NAMESPACE) -> Fleet:
        """The fleet that was deployed under this name. Raises ``FleetNotFound`` and ``InvalidArgument``."""
        arguments.check_text("namespace", namespace)
        _check_name(name)
        try:
            remote = _Remote(ray.get_actor(controller_name(name), namespace), name)
        except ValueError as error:
            raise FleetNotFound(f"no fleet {name!r} is deployed in namespace {namespace!r}") from error
        if remote.status()["over"]:
            raise FleetNotFound(f"fleet {name!r} of namespace {namespace!r} has been stopped")
        spec = remote.spec()
        fleet = cls.__new__(cls)
        fleet._spec, fleet._controller, fleet._wanted = spec, remote, None
        fleet._ready_timeout, fleet._on_ready, fleet._starts = 60.0, None, threading.RLock()
        return fleet

    def _begin(self, controller: Controller | _Remote, *, is_ours: bool) -> None:
        self._controller = controller
        controller.start()
        try:
            self.wait_until_ready(self._ready_timeout)
        except BaseException:
            if is_ours:
                self.stop()
            raise
        if self._on_ready is not None:
            threading.Thread(target=self._tell_ready, name=f"on_ready of fleet {self.name}", daemon=True).start()

    def _tell_ready(self) -> None:
        controller, callback, told = self._running, self._on_ready, 0

        def has_news(status: Mapping[str, Any]) -> bool:
            return bool(status["times_ready"] > told or status["over"])

        assert callback is not None
        while controller.wait(has_news):
            status = controller.status()
            if status["over"]:
                return
            told = status["times_ready"]
            try:
                callback(self)
            except Exception:
                log.exception("on_ready of fleet %r", self.name)

    def stop(self) -> None:
        """Let all workers hand over, and end them and the fleet. Does nothing if it is not started."""
        controller, self._controller = self._controller, None
        if controller is not None:
            controller.stop(2 * self._spec.drain_timeout + STOP_MARGIN)

    def __enter__(self) -> Fleet:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- change -------------------------------------------------------------------------------------------------

    def scale(self, size: int) -> None:
        """Have so many workers, or with `per_node` so many on each node.

        The highest slots go first: their workers hand over, leave and are ended. Does not wait. Raises
        ``InvalidArgument``, also for a fleet with `autoscale`, and ``NotStarted``.
        """
        least = 1 if self._spec.per_node else 0
        arguments.check_number("size", size, least=least, most=MAX_SIZE)
        if self._spec.autoscale is not None:
            arguments.refuse("size", size, "none: this fleet scales by itself")
        self._running.scale(size)

    def update(
        self,
        worker: type,
        *,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        max_unavailable: int = 1,
    ) -> int:
        """Replace all workers by those of a new version; returns its number.

        Slot by slot a worker hands over, is ended, and one of the new version starts, while fewer than
        `max_unavailable` slots are without a serving worker, for whatever reason. When three workers of the new
        version have failed, those that run are replaced by the version before, and `status` says why. Does not wait.
        Raises ``InvalidArgument`` and ``NotStarted``.
        """
        version = Version.of(worker, args, kwargs, options)
        arguments.check_number("max_unavailable", max_unavailable, least=1)
        return self._running.update(version, max_unavailable)

    # -- what is known ------------------------------------------------------------------------------------------

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Wait until every slot has a serving worker, and all hold one epoch.

        Raises ``FleetNotReady`` after `timeout` seconds, or when three workers have failed and none has ever served;
        ``NotStarted`` and ``InvalidArgument``.
        """
        arguments.check_seconds("timeout", timeout)
        controller = self._running
        began = time.monotonic()
        while (left := began + timeout - time.monotonic()) > 0 and not (status := controller.status())["ready"]:
            if status["cannot_start"] or status["over"]:
                break
            controller.wait(is_decided, left)
        if not (status := controller.status())["ready"]:
            raise FleetNotReady(_not_ready(status, time.monotonic() - began))

    def status(self) -> dict[str, Any]:
        """What an operator wants to know, as builtins: the size, whether it is `ready`, each worker, recent events.

        ``status()["workers"]`` has a dict for each: `slot`, `member_id`, `phase` ("starting", "ready", "joining",
        "serving", "draining" or "ending"), the `seconds` it has been in that, `version`, `node`, `pid`, `epoch`,
        `load`, `restarts` of the slot, and the `reason` of the last one. Raises ``NotStarted``.
        """
        return self._running.status()

    def slots(self) -> dict[int, str]:
        """The member ids of the serving workers by slot. Raises ``NotStarted``."""
        workers = self.status()["workers"]
        return {each["slot"]: each["member_id"] for each in workers if each["phase"] == "serving"}

    def workers(self) -> dict[int, Any]:
        """The actor handles of the serving workers by slot. Raises ``NotStarted``."""
        return self._running.handles()

    def router(self, **options: Any) -> Router:
        """A ``Router`` to this fleet's group, not started; `options` are its keyword arguments."""
        spec = self._spec
        return Router(spec.group, actor=spec.actor, namespace=spec.namespace, settings=spec.settings, **options)

    @property
    def _running(self) -> Controller | _Remote:
        if self._controller is None:
            raise NotStarted(f"fleet {self.name!r}: call start() or deploy() first, or use `with Fleet(...)`")
        return self._controller


def _check_name(name: object) -> str:
    return arguments.check_text("name", name, limit=arguments.MAX_ID_BYTES // 2)


def _not_ready(status: Mapping[str, Any], seconds: float) -> str:
    phases = [f"slot {each['slot']} is {each['phase']}" for each in status["workers"] if each["phase"] != "serving"]
    failed = [f"slot {each['slot']}: {each['reason']}" for each in status["waiting"]]
    reasons = [f"slot {each['slot']}: {each['reason']}" for each in status["workers"] if each["reason"]]
    shown = "; ".join([*failed, *reasons, *phases][:5]) or "the workers hold different epochs"
    if status["over"]:
        shown = "it has ended, or its process has left Ray"
    serve = f"{status['serving']} of {status['size']} workers serve after {seconds:.1f} s"
    return f"fleet {status['name']!r}: {serve}; {shown}"


def _deployed(spec: FleetSpec, wanted: Wanted) -> tuple[_Remote, bool]:
    """The controller of the fleet of this name, and whether this has made it."""
    until = time.monotonic() + ANSWER_WITHIN
    while time.monotonic() < until:
        with contextlib.suppress(ValueError):
            found = _Remote(ray.get_actor(controller_name(spec.name), spec.namespace), spec.name)
            with contextlib.suppress(FleetNotFound):
                if not found.status()["over"]:
                    return found, False
            time.sleep(RETRY_PAUSE)  # somebody has just stopped it
            continue
        with contextlib.suppress(ValueError):  # another process makes one
            return _made(spec, wanted), True
    raise FleetNotReady(f"fleet {spec.name!r}: a former one of this name has ended and still has the name")


def _made(spec: FleetSpec, wanted: Wanted) -> _Remote:
    deployment = uuid.uuid4().hex
    store = Store(deployment)
    store.save(spec, wanted)  # as an argument it would end with this process
    try:
        options = ray.remote(FleetActor).options(
            name=controller_name(spec.name),
            namespace=spec.namespace,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=100,
            scheduling_strategy="DEFAULT",
            enable_task_events=False,
        )
        actor: Any = options.remote(deployment)
    except ValueError:
        store.remove()
        raise
    made = _Remote(actor, spec.name)
    try:
        made.spec()
    except FleetNotReady:
        ray.kill(actor)
        store.remove()
        raise
    return made


class FleetActor:
    """The detached actor that runs a fleet's controller."""

    def __init__(self, deployment: str) -> None:
        self._failure = ""
        self._controller: Controller | None = None
        try:
            store = Store(deployment)
            self._controller = Controller(*unpack(self._load(store)), store)
            actor = ray.get_runtime_context().current_actor
            self._controller.start(lambda: self._end(actor))
        except Exception as error:  # a constructor that raises would be started again without end
            log.exception("the controller of a fleet cannot start")
            self._failure = f"{type(error).__name__}: {error}"

    @staticmethod
    def _load(store: Store) -> bytes:
        """Load the record, also if the GCS has yet to come back."""
        until = time.monotonic() + GCS_BACK_WITHIN
        while True:
            try:
                return store.load()
            except PartitionError:
                raise
            except Exception:
                if time.monotonic() > until:
                    raise
                time.sleep(RETRY_PAUSE)

    @staticmethod
    def _end(actor: Any) -> None:
        time.sleep(RETRY_PAUSE)  # whoever has stopped the fleet is to hear of it
        ray.kill(actor)

    def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the controller returns."""
        if self._controller is None:
            raise FleetNotReady(f"the controller cannot start: {self._failure}")
        return self._controller.spec if method == "spec" else getattr(self._controller, method)(*arguments)

    def update(self, packed: bytes, max_unavailable: int) -> int:
        """See ``Controller``."""
        try:
            version = cloudpickle.loads(packed)
        except Exception as error:
            raise InvalidArgument(f"worker: the controller cannot load it: {type(error).__name__}: {error}") from None
        return int(self.ask("update", version, max_unavailable))


class _Remote:
    """The controller of a deployed fleet, as ``Controller``."""

    def __init__(self, actor: Any, name: str) -> None:
        self._actor, self._name = actor, name

    def _ask(self, method: str, *arguments: Any, timeout: float = ANSWER_WITHIN) -> Any:
        """What a method of the controller returns; asked again while Ray restarts its actor."""
        until = time.monotonic() + timeout
        while True:
            left = max(0.1, until - time.monotonic())
            try:
                return ray.get(self._actor.ask.remote(method, *arguments), timeout=left)
            except ActorUnavailableError as error:
                if time.monotonic() > until:
                    raise self._lost(error) from error
                time.sleep(RETRY_PAUSE)
            except PartitionError:
                raise
            except RayError as error:
                raise self._lost(error) from error

    def _lost(self, error: Exception) -> FleetNotFound:
        return FleetNotFound(f"the controller of fleet {self._name!r} does not answer: {error}")

    def spec(self) -> FleetSpec:
        """What the fleet is."""
        spec: FleetSpec = self._ask("spec")
        return spec

    def start(self) -> None:
        """It is started."""

    def scale(self, size: int) -> None:
        """See ``Controller``."""
        self._ask("scale", size)

    def update(self, version: Version, max_unavailable: int) -> int:
        """See ``Controller``."""
        try:
            return int(ray.get(self._actor.update.remote(pack(version), max_unavailable), timeout=ANSWER_WITHIN))
        except PartitionError:
            raise
        except RayError as error:
            raise self._lost(error) from error

    def stop(self, timeout: float) -> bool:
        """See ``Controller``; then the controller's actor ends. Somebody else may have stopped the fleet before."""
        try:
            over = bool(self._ask("stop", timeout, timeout=timeout + ANSWER_WITHIN))
        except FleetNotFound as error:
            if isinstance(error.__cause__, GetTimeoutError):
                raise
            return True
        return over

    def status(self) -> dict[str, Any]:
        """See ``Controller``."""
        return dict(self._ask("status"))

    def wait(self, done: Callable[[dict[str, Any]], bool], timeout: float | None = None) -> bool:
        """See ``Controller``; it always has a timeout here."""
        assert timeout is not None
        return bool(self._ask("wait", done, timeout, timeout=timeout + ANSWER_WITHIN))

    def handles(self) -> dict[int, Any]:
        """See ``Controller``."""
        return dict(self._ask("handles"))
