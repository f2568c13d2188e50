"""Every error that this library raises on purpose.

::

    PartitionError
    ├── InvalidArgument            (ValueError)       an argument: names it, its value and what was expected
    ├── InvalidSettings            (ValueError)       a setting: names the field and, from a file, its line
    ├── NotStarted                 (RuntimeError)     a PartitionCoordinator was used before start()
    ├── PartitionActorNotFound     (LookupError)      no partition actor has this name: deploy() it first
    ├── PartitionActorUnavailable  (ConnectionError)  the partition actor did not answer in time; the call may have run
    ├── PartitionActorReplaced     (ConnectionError)  another one has its place: look its name up again
    ├── VersionMismatch            (RuntimeError)     the partition actor and this process are too many versions apart
    ├── GroupNotFound              (LookupError)      the group has no members
    ├── MemberNotFound             (LookupError)      the group has no such member
    ├── GroupModeConflict          (ValueError)       the group is exclusive and the call says it is not, or vice versa
    ├── GroupFull                  (RuntimeError)     the partition actor already serves `max_members` sessions
    ├── SessionSuperseded          (RuntimeError)     another process has taken this member's id
    ├── NotOwner                   (RuntimeError)     the called member does not own the key; the call has not run
    ├── NoOwner                    (TimeoutError)     the key had no owner within the timeout; the call has not run
    ├── MemberHasNoActor           (LookupError)      the owner of the key is a task or a driver: it cannot be called
    ├── CallMayHaveRun             (ConnectionError)  the owner died during a call that is not safe to repeat
    ├── TooManyCalls               (RuntimeError)     the owner already has as many calls as the router allows
    ├── FleetNotFound              (LookupError)      no fleet of this name is deployed, or its controller is away
    └── FleetNotReady              (TimeoutError)     not all workers of a fleet serve yet

Every error takes one ``str``, so it crosses a Ray call and pickles unchanged.

One warning, ``NoPlaceYet`` (``UserWarning``): a join has ended without a place.
"""

from __future__ import annotations

from typing import Any


class PartitionError(Exception):
    """Base of every error that this library raises on purpose."""


class InvalidArgument(PartitionError, ValueError):
    """An argument has the wrong type or value. The message names it, its value and what was expected."""


class InvalidSettings(PartitionError, ValueError):
    """A setting is unknown, of the wrong type or impossible. The message names the field and, from a file, the line."""


class NotStarted(PartitionError, RuntimeError):
    """A ``PartitionCoordinator`` was used before ``start()``."""


class PartitionActorNotFound(PartitionError, LookupError):
    """No partition actor has this name in this namespace: call ``deploy()`` first."""


class PartitionActorUnavailable(PartitionError, ConnectionError):
    """The partition actor did not answer in time. The call may or may not have taken effect."""


class PartitionActorReplaced(PartitionActorUnavailable, ConnectionError):
    """Another partition actor has this one's place, by ``deploy(replace=True)``: look its name up again."""


class VersionMismatch(PartitionError, RuntimeError):
    """The versions of this process and of the partition actor are too far apart. The message says which to install
    where. A partition actor of a newer version takes over without a pause: ``deploy(replace=True)``."""


class GroupNotFound(PartitionError, LookupError):
    """Nobody has joined a group of this name, or it has been empty for longer than a lease."""


class MemberNotFound(PartitionError, LookupError):
    """The group has no member with this id."""


class GroupModeConflict(PartitionError, ValueError):
    """A group is exclusive or not for its lifetime, and the call asked for the other mode."""


class GroupFull(PartitionError, RuntimeError):
    """The partition actor already serves ``max_members`` sessions; existing members are not affected."""


class SessionSuperseded(PartitionError, RuntimeError):
    """Another process has joined under this member id; this process owns nothing and does not rejoin."""


class NotOwner(PartitionError, RuntimeError):
    """The called member may not work on the key now. The call has not run."""

    epoch: tuple[int, int] | None = None
    """The epoch of the view that the member decided by; None when it had none."""
    task: str | None = None
    """Ray's id, in hex, of the task that did not run; None when some of the worker's code may have run."""
    method: str | None = None
    """The method that Ray called."""
    call: tuple[Any, str, tuple[Any, ...], dict[str, Any]] | None = None
    """Key, method, positional and keyword arguments, so that the caller can send the call elsewhere; None when they are
    large."""


class NoOwner(PartitionError, TimeoutError):
    """The key had no owner within the timeout: the group is empty or a hand-off takes long. The call has not run."""


class MemberHasNoActor(PartitionError, LookupError):
    """The owner of the key is a task or a driver, not an actor, and cannot be called."""


class CallMayHaveRun(PartitionError, ConnectionError):
    """The owner died or became unreachable during a call whose method was not declared safe to repeat."""


class TooManyCalls(PartitionError, RuntimeError):
    """The owner of the key already has as many of this router's calls as its limit allows. The call has not run."""


class FleetNotFound(PartitionError, LookupError):
    """No fleet of this name is deployed, or its controller does not answer; its workers go on without it."""


class FleetNotReady(PartitionError, TimeoutError):
    """Not every slot of a fleet has a worker that serves, or they hold different epochs. The message says which."""


class NoPlaceYet(UserWarning):
    """``join_group`` has ended before this member was admitted: until it is, no key of the group is its own.

    It goes on trying. Seconds are only known when the partition actor recovers from a crash. To have it raised instead:
    ``warnings.simplefilter("error", NoPlaceYet)``.
    """

    def __init__(self, message: str, group: str = "", seconds: float | None = None) -> None:
        super().__init__(message, group, seconds)
        self.group = group
        self.seconds = seconds
        """Until members are admitted, at most; None when nobody knows, as when the partition actor is away."""

    def __str__(self) -> str:
        return str(self.args[0])
