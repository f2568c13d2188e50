"""Deploy, connect to and shut down the partition actor: a detached named Ray actor."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random_exponential

from partition_actor.arguments import check_seconds, check_text, refuse
from partition_actor.core.messages import check_version
from partition_actor.errors import PartitionActorNotFound, PartitionActorUnavailable
from partition_actor.settings import Settings

log = logging.getLogger(__name__)

NAME = "partition-actor"
NAMESPACE = "partition_actor"
ANSWER_WITHIN = 60.0  # seconds, for a new actor to start and answer, and for Ray to free a killed actor's name

# Ray's `get_if_exists` is safe between processes, but not between threads of one process.
_deploying = threading.Lock()


def deploy(name: str = NAME, namespace: str = NAMESPACE, settings: Settings | None = None) -> Any:
    """Get or create the partition actor, wait until it answers, and return its handle.

    Any number of processes may call it at once. Calls ``ray.init()`` if this process is not connected to Ray.
    `settings` (default: ``Settings()``) apply only on creation; if it already runs, a warning names those that differ.

    Raises:
        InvalidArgument: an argument has the wrong type or value.
        PartitionActorUnavailable: the actor did not answer within 60 s; no node may have room for it. Or the Ray that
            ``ray.init()`` would join refuses this process, for its token or its certificate.
        VersionMismatch: the running actor speaks another protocol version.
    """
    if settings is not None and not isinstance(settings, Settings):
        refuse("settings", settings, "a Settings or None")
    _prepare(name, namespace)
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
    """Return the partition actor's handle once it has answered. Takes up to `timeout` seconds each to find and ask it.

    Raises:
        InvalidArgument: an argument has the wrong type or value.
        PartitionActorNotFound: no partition actor has this name.
        PartitionActorUnavailable: it did not answer in time, or the Ray refuses this process.
        VersionMismatch: it speaks another protocol version.
    """
    check_seconds("timeout", timeout)
    _prepare(name, namespace)
    handle = find(name, namespace, timeout)
    _check_version(handle, name, timeout)
    return handle


def shutdown(name: str = NAME, namespace: str = NAMESPACE, force: bool = False) -> None:
    """End the partition actor for good and wait until its name is free; do nothing if there is none.

    It ends in good order: it withdraws every lease, so that no key is any member's, and waits until members have let go
    of what they held in exclusive groups, and of locks. That takes until their callbacks for lost keys and their
    `owned_by` calls have returned, and their locks are released; at most until the last lease has ended, which is one
    longest lease (10 s by default, `Settings.max_ttl`). The next ``deploy()`` then waits for nothing. With `force` it
    is killed instead: members keep their keys until their leases end, and the next partition actor waits for that.

    Any number of processes may call it at once.

    Raises:
        InvalidArgument: an argument has the wrong type or value.
        PartitionActorUnavailable: it does not answer within 60 s, or still holds its name 60 s after the last lease has
            ended. It may end later; `force` ends it now.
    """
    if not isinstance(force, bool):
        refuse("force", force, "True or False")
    _prepare(name, namespace)
    ended, first, until = force, None, time.monotonic() + ANSWER_WITHIN
    while time.monotonic() < until:
        try:
            handle = find(name, namespace, ANSWER_WITHIN)
        except PartitionActorNotFound:
            return
        first = first or handle
        if handle._actor_id != first._actor_id:  # somebody has deployed the next one since
            return
        if force or not hasattr(handle, "shut_down"):  # one of a version that cannot end in good order
            ray.kill(handle, no_restart=True)
        elif (seconds := _ask_to_end(handle, name)) is not None and not ended:
            ended, until = True, time.monotonic() + seconds + ANSWER_WITHIN
        time.sleep(0.05)
    raise PartitionActorUnavailable(
        f"partition actor {name!r} was shut down, but Ray still holds its name after {ANSWER_WITHIN} s"
        + ("" if force else ": shutdown(force=True) kills it")
    )


def _ask_to_end(handle: Any, name: str) -> float | None:
    """The seconds until the partition actor is gone, at most; None if it has died, and Ray may restart it."""
    try:
        seconds: float = ray.get(handle.shut_down.remote(), timeout=ANSWER_WITHIN)
    except GetTimeoutError:
        raise PartitionActorUnavailable(
            f"partition actor {name!r} did not answer within {ANSWER_WITHIN} s: shutdown(force=True) kills it"
        ) from None
    except RayActorError:
        return None
    return seconds


def find(name: str, namespace: str, timeout: float) -> Any:
    """Look up the handle without asking the actor, within `timeout` seconds; ``ray.get_actor`` can block for 60 s.

    Raises:
        PartitionActorNotFound: no partition actor has this name.
        PartitionActorUnavailable: Ray did not answer in time.
    """
    found: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def look_up() -> None:
        try:
            found.set_result(ray.get_actor(name, namespace=namespace))
        except BaseException as error:
            found.set_exception(error)

    # In a thread of its own, which is left behind after the timeout: the call cannot be interrupted.
    threading.Thread(target=look_up, name="partition-actor-lookup", daemon=True).start()
    try:
        return found.result(timeout)
    except ValueError:
        raise PartitionActorNotFound(
            f"there is no partition actor {name!r} in namespace {namespace!r}: call deploy() first"
        ) from None
    except concurrent.futures.TimeoutError:
        raise PartitionActorUnavailable(f"Ray did not look up partition actor {name!r} within {timeout} s") from None


# An actor that is shutting down keeps its name for a moment.
@retry(
    retry=retry_if_exception_type(RayActorError),
    stop=stop_after_delay(ANSWER_WITHIN),
    wait=wait_random_exponential(multiplier=0.05, max=1.0),
    reraise=True,
)
def _deploy_once(name: str, namespace: str, settings: Settings) -> tuple[Any, dict[str, Any]]:
    from partition_actor.actor.partition_actor import PartitionActor  # not at the top: workers do not need it

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
            scheduling_strategy="DEFAULT",  # else it would run in the caller's placement group and die with it
            enable_task_events=False,  # else heartbeats would evict users' tasks from Ray's task history
            max_concurrency=2 * settings.max_members + 100,
            resources={"node:__internal_head__": 0.001} if settings.pin_to_head else None,
        )
        .remote(name, settings.to_dict(), namespace)
    )
    return handle, _check_version(handle, name, ANSWER_WITHIN)


def _check_version(handle: Any, name: str, timeout: float) -> dict[str, Any]:
    """Wait for the actor's ``hello`` and return it: version, protocol and settings."""
    try:
        answer: dict[str, Any] = ray.get(handle.hello.remote(), timeout=timeout)
    except GetTimeoutError:
        raise PartitionActorUnavailable(f"partition actor {name!r} did not answer within {timeout} s") from None
    check_version(answer, f"partition actor {name!r}", "this process", by_actor=True)
    return answer


def _prepare(name: str, namespace: str) -> None:
    check_text("name", name)
    check_text("namespace", namespace)
    if not ray.is_initialized():
        from partition_actor.ray_access import refusal_at  # not at the top: it loads gRPC, which workers do not need

        if refusal := refusal_at():
            raise PartitionActorUnavailable(refusal)
        ray.init()
