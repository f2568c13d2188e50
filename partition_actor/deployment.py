"""Deploy, connect to and shut down the partition actor: a detached named Ray actor."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random_exponential

from partition_actor import ray_internals
from partition_actor.arguments import check_seconds, check_text, refuse
from partition_actor.core.messages import PROTOCOL, check_version
from partition_actor.errors import (
    InvalidSettings,
    PartitionActorNotFound,
    PartitionActorReplaced,
    PartitionActorUnavailable,
)
from partition_actor.settings import MOVES_KEYS, Settings, told

log = logging.getLogger(__name__)

NAME = "partition-actor"
NAMESPACE = "partition_actor"
ANSWER_WITHIN = 60.0  # seconds, for a new actor to start and answer, and for Ray to free a killed actor's name

_while_it_ends = retry(
    retry=retry_if_exception_type(RayActorError),
    stop=stop_after_delay(ANSWER_WITHIN),
    wait=wait_random_exponential(multiplier=0.05, max=1.0),
    reraise=True,
)

# Ray's `get_if_exists` is safe between processes, but not between threads of one process.
_deploying = threading.Lock()


def deploy(
    name: str = NAME, namespace: str = NAMESPACE, settings: Settings | None = None, replace: bool = False
) -> Any:
    """Get or create the partition actor, wait until it answers, and return its handle.

    Any number of processes may call it at once. Calls ``ray.init()`` if this process is not connected to Ray.
    `settings` (default: ``Settings()``) apply only on creation; if it already runs, a warning names those that differ.

    With `replace`, one that runs already hands its whole state to a new one and ends: so new code or `settings`
    (default: as they are) come in without a pause. No key moves, and no lease lapses. The new code comes from this
    process's runtime environment, or from what is installed on the node. Before anything else it is tried out; if it
    does not start, the old partition actor goes on. Handles of the old one are of no use any more: members find the
    new one by its name, and so must whoever calls by a bare handle.

    Raises:
        InvalidArgument: an argument has the wrong type or value.
        InvalidSettings: `replace`, and these settings cannot come in without keys moving.
        PartitionActorUnavailable: the actor did not answer within 60 s; no node may have room for it. Or `replace`, and
            the new code does not start, or the old one cannot hand over. Or the Ray that ``ray.init()`` would join
            refuses this process, for its token or its certificate.
        VersionMismatch: the running actor is too many versions away.
    """
    if settings is not None and not isinstance(settings, Settings):
        refuse("settings", settings, "a Settings or None")
    if not isinstance(replace, bool):
        refuse("replace", replace, "True or False")
    _prepare(name, namespace)
    wanted = settings or Settings()
    with _deploying:
        if replace:
            wanted = _end_for_the_next(name, namespace, settings) or wanted
        handle, answer = _deploy_once(name, namespace, wanted)
    if settings is not None and answer["settings"] != wanted.to_dict():
        differing = sorted(key for key, value in wanted.to_dict().items() if answer["settings"].get(key) != value)
        log.warning(
            "partition actor %r runs already with other settings for %s: call shutdown() first to change them",
            name,
            ", ".join(differing),
        )
    return handle


# It may die, and then Ray restarts it. Another process may be replacing it, too.
@_while_it_ends
def _end_for_the_next(name: str, namespace: str, settings: Settings | None) -> Settings | None:
    """Let the partition actor, if there is one, hand over and end; returns the settings of the next one."""
    try:
        handle = find(name, namespace, ANSWER_WITHIN)
    except PartitionActorNotFound:
        return None
    hello = _hello(handle, name, ANSWER_WITHIN)
    if hello["protocol"] != PROTOCOL:  # any minor version will do: who replaces it does not talk to it as a member does
        _check_version(handle, name, ANSWER_WITHIN)
    if "state" not in hello:
        raise PartitionActorUnavailable(
            f"partition actor {name!r} runs version {hello['version']}, which cannot hand over: call shutdown() and "
            "then deploy(), which takes every key from its member for a moment"
        )
    running = Settings.from_dict(hello["settings"])
    wanted = running if settings is None else settings
    for field in MOVES_KEYS:
        if getattr(running, field) != getattr(wanted, field):
            raise InvalidSettings(
                f"{field}: got {getattr(wanted, field)!r}, expected {getattr(running, field)!r} when the partition "
                "actor is replaced: keys would move. Call shutdown() and then deploy()"
            )
    recovers = wanted.max_ttl  # it waits so long at most after a crash
    try:
        state = ray.get(handle.copy_state.remote(), timeout=recovers + ANSWER_WITHIN)
        _try_out(name, wanted, hello["state"], state)
        chosen = None if settings is None else settings.to_dict()
        ray.get(handle.hand_over.remote(chosen), timeout=recovers + ANSWER_WITHIN)
    except GetTimeoutError:
        raise PartitionActorUnavailable(f"partition actor {name!r} did not hand over: it may still do so") from None
    except PartitionActorReplaced:
        pass  # somebody else replaces it
    ray.kill(handle, no_restart=True)
    until = time.monotonic() + ANSWER_WITHIN
    while time.monotonic() < until:
        try:
            if find(name, namespace, ANSWER_WITHIN)._actor_id != handle._actor_id:
                break
        except PartitionActorNotFound:
            break
        time.sleep(0.005)
    return wanted


def _try_out(name: str, settings: Settings, form: int, state: dict[str, Any]) -> None:
    """Start the new code where the next partition actor is to run; its process is then there, and warm."""
    try:
        understood = ray.get(
            ray.remote(_start_new_code)
            .options(num_cpus=0, max_retries=0, enable_task_events=False, **_placement(settings))
            .remote(settings.to_dict(), form, state),
            timeout=ANSWER_WITHIN,
        )
    except Exception as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        raise PartitionActorUnavailable(
            f"the new partition actor does not start, and the old one goes on as {name!r}: {cause!r}"
        ) from error
    if understood != form:
        raise PartitionActorUnavailable(
            f"the new partition actor takes over states of form {understood}, and {name!r} hands over form {form}: "
            "the old one goes on. Call shutdown() and then deploy(), which takes every key from its member for a moment"
        )


def _start_new_code(settings: dict[str, Any], form: int, state: dict[str, Any]) -> int:
    """Runs in a process of the new code: begin with a state. Returns the form of the states that it takes over."""
    from partition_actor.actor.partition_actor import PartitionActor
    from partition_actor.core.driver import STATE, MembershipDriver
    from partition_actor.core.membership import Membership

    PartitionActor("", settings)
    if form == STATE:
        membership = Membership(Settings.from_dict(settings), 1, 0.0, state=state)
        MembershipDriver(membership).take_over(0.0, state)
    return STATE


def connect(name: str = NAME, namespace: str = NAMESPACE, timeout: float = 10.0) -> Any:
    """Return the partition actor's handle once it has answered. Takes up to `timeout` seconds each to find and ask it.

    Raises:
        InvalidArgument: an argument has the wrong type or value.
        PartitionActorNotFound: no partition actor has this name.
        PartitionActorUnavailable: it did not answer in time, or the Ray refuses this process.
        VersionMismatch: it is too many versions away.
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
@_while_it_ends
def _deploy_once(name: str, namespace: str, settings: Settings) -> tuple[Any, dict[str, Any]]:
    from partition_actor.actor.partition_actor import PartitionActor  # not at the top: workers do not need it

    handle = (
        ray_internals.remote_class(PartitionActor)
        .options(
            name=name,
            namespace=namespace,
            get_if_exists=True,
            lifetime="detached",
            max_restarts=-1,
            max_task_retries=0,
            num_cpus=0,
            enable_task_events=False,  # else heartbeats would evict users' tasks from Ray's task history
            max_concurrency=2 * settings.max_members + 100,
            **_placement(settings),
        )
        .remote(name, settings.to_dict(), namespace)
    )
    return handle, _check_version(handle, name, ANSWER_WITHIN)


def _placement(settings: Settings) -> dict[str, Any]:
    return {
        "scheduling_strategy": "DEFAULT",  # else it would run in the caller's placement group and die with it
        "resources": {"node:__internal_head__": 0.001} if settings.pin_to_head else None,
    }


def _hello(handle: Any, name: str, timeout: float) -> dict[str, Any]:
    """Wait for the actor's ``hello``: versions and settings."""
    try:
        answer: dict[str, Any] = ray.get(handle.hello.remote(), timeout=timeout)
    except GetTimeoutError:
        raise PartitionActorUnavailable(f"partition actor {name!r} did not answer within {timeout} s") from None
    answer["settings"] = told(answer)
    return answer


def _check_version(handle: Any, name: str, timeout: float) -> dict[str, Any]:
    """The same. Raises ``VersionMismatch``."""
    answer = _hello(handle, name, timeout)
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
