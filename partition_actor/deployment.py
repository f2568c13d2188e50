"""Start, find and stop the partition actor: a detached named Ray actor."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random_exponential

from partition_actor.arguments import check_seconds, check_text, refuse
from partition_actor.core.messages import check_protocol
from partition_actor.errors import PartitionActorNotFound, PartitionActorUnavailable
from partition_actor.settings import Settings

log = logging.getLogger(__name__)

NAME = "partition-actor"
NAMESPACE = "partition_actor"
ANSWER_WITHIN = 60.0
"""Seconds in which a new actor's process has to start and answer, or a killed one's name to be free."""

# Ray's "get if exists" is safe between processes, and not between the threads of one.
_deploying = threading.Lock()

T = TypeVar("T")


def deploy(name: str = NAME, namespace: str = NAMESPACE, settings: Settings | None = None) -> Any:
    """Get or create the partition actor, and return its handle when it has answered.

    Safe to call from many processes at once: one creates it, all get it. Connects to Ray (``ray.init()``) in a process
    that has not. `settings` (default: ``Settings()``) count when the actor is made; for one that runs with others, a
    warning names the differences.

    Raises ``InvalidArgument``, ``PartitionActorUnavailable`` when the actor does not answer within 60 s (no node may
    have room for it), and ``VersionMismatch``.
    """
    check_text("name", name)
    check_text("namespace", namespace)
    if settings is not None and not isinstance(settings, Settings):
        refuse("settings", settings, "a Settings or None")
    _join_ray()
    wanted = settings or Settings()
    with _deploying:
        handle, answer = _deploy_once(name, namespace, wanted)
    if settings is not None and answer["settings"] != wanted.to_dict():
        differing = sorted(key for key, value in wanted.to_dict().items() if answer["settings"].get(key) != value)
        log.warning(
            "partition actor %r runs already with other settings for %s: call shutdown() first to change them",
            name,
            ", ".join(differing),
        )
    return handle


def connect(name: str = NAME, namespace: str = NAMESPACE, timeout: float = 10.0) -> Any:
    """The handle of the running partition actor, when it has answered.

    `timeout` is in seconds. Raises ``InvalidArgument``, ``PartitionActorNotFound``, ``PartitionActorUnavailable`` when
    it does not answer in time, and ``VersionMismatch``.
    """
    check_text("name", name)
    check_text("namespace", namespace)
    check_seconds("timeout", timeout)
    _join_ray()
    handle = find(name, namespace, timeout)
    _greet(handle, name, timeout)
    return handle


def shutdown(name: str = NAME, namespace: str = NAMESPACE) -> None:
    """Kill the partition actor for good and wait until its name is free; nothing happens when there is none.

    What members hold of it ends with their leases. Raises ``PartitionActorUnavailable`` when the name is not free in 60
    s.
    """
    check_text("name", name)
    check_text("namespace", namespace)
    _join_ray()
    until = time.monotonic() + ANSWER_WITHIN
    while time.monotonic() < until:
        try:
            handle = find(name, namespace, ANSWER_WITHIN)
        except PartitionActorNotFound:
            return
        ray.kill(handle, no_restart=True)
        time.sleep(0.05)
    raise PartitionActorUnavailable(
        f"partition actor {name!r} was killed and Ray still has its name after {ANSWER_WITHIN} s"
    )


def find(name: str, namespace: str, timeout: float) -> Any:
    """The handle, unchecked, within `timeout` seconds: ``ray.get_actor`` alone can block for a minute.

    Raises ``PartitionActorNotFound`` and ``PartitionActorUnavailable``.
    """
    try:
        return _within(timeout, lambda: ray.get_actor(name, namespace=namespace))
    except ValueError:
        raise PartitionActorNotFound(
            f"there is no partition actor {name!r} in namespace {namespace!r}: deploy() it first"
        ) from None
    except concurrent.futures.TimeoutError:
        raise PartitionActorUnavailable(
            f"Ray did not say within {timeout} s where partition actor {name!r} is"
        ) from None


# An actor that is going down still has its name for a moment.
@retry(
    retry=retry_if_exception_type(RayActorError),
    stop=stop_after_delay(ANSWER_WITHIN),
    wait=wait_random_exponential(multiplier=0.05, max=1.0),
    reraise=True,
)
def _deploy_once(name: str, namespace: str, settings: Settings) -> tuple[Any, dict[str, Any]]:
    from partition_actor.actor.partition_actor import PartitionActor  # here, as no worker needs it

    handle = (
        ray.remote(PartitionActor)
        .options(
            name=name,
            namespace=namespace,
            get_if_exists=True,
            lifetime="detached",
            max_restarts=-1,
            max_task_retries=0,
            num_cpus=0,
            scheduling_strategy="DEFAULT",  # else a caller's placement group would hold it, and end it
            enable_task_events=False,  # heartbeats would push users' tasks out of Ray's records
            max_concurrency=2 * settings.max_members + 100,
            resources={"node:__internal_head__": 0.001} if settings.pin_to_head else None,
        )
        .remote(name, settings.to_dict())
    )
    return handle, _greet(handle, name, ANSWER_WITHIN)


def _greet(handle: Any, name: str, timeout: float) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = ray.get(handle.hello.remote(), timeout=timeout)
    except GetTimeoutError:
        raise PartitionActorUnavailable(f"partition actor {name!r} did not answer within {timeout} s") from None
    check_protocol(answer["protocol"], f"partition actor {name!r} runs version {answer['version']}")
    return answer


def _join_ray() -> None:
    if not ray.is_initialized():
        ray.init()


def _within(timeout: float, call: Callable[[], T]) -> T:
    """Run a call that cannot be interrupted, in a thread that may be left behind."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="partition-actor-lookup", daemon=True).start()
    return future.result(timeout)
