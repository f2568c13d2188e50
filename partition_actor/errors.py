"""Every error that this library raises on purpose.

::

    PartitionError
    ├── InvalidArgument          (ValueError)       an argument of a call: names it, its value, what was expected
    ├── InvalidSettings          (ValueError)       a setting: names the field and, from a file, its line
    ├── NotStarted               (RuntimeError)     a PartitionCoordinator was used before start()
    ├── PartitionActorNotFound      (LookupError)      there is no such actor; deploy() it first
    ├── PartitionActorUnavailable   (ConnectionError)  the actor did not answer in time; the call may have run
    ├── VersionMismatch          (RuntimeError)     the actor runs another protocol than this process
    ├── GroupNotFound            (LookupError)      nobody has joined a group of that name
    ├── MemberNotFound           (LookupError)      the group has no such member
    ├── GroupModeConflict        (ValueError)       the group is exclusive and the call says it is not, or the reverse
    ├── GroupFull                (RuntimeError)     the partition actor serves as many members as its settings allow
    ├── SessionSuperseded        (RuntimeError)     another process has taken this member's id
    ├── NotOwner                 (RuntimeError)     the member called may not work on the key; the call has not run
    ├── NoOwner                  (TimeoutError)     nobody was found in time that may; the call has not run
    ├── MemberHasNoActor         (LookupError)      the owner of the key is a task or a driver, which nobody can call
    ├── CallMayHaveRun           (ConnectionError)  the owner died under a call that is not safe to repeat
    └── TooManyCalls             (RuntimeError)     the owner has as many calls under way as the router allows

All of them take one ``str``, so they cross a Ray call and pickle unchanged.
"""

from __future__ import annotations

from typing import Any


class PartitionError(Exception):
    """Base of every error that this library raises on purpose."""


class InvalidArgument(PartitionError, ValueError):
    """An argument is not what the call takes: the message has its name, its value and what was expected."""


class InvalidSettings(PartitionError, ValueError):
    """A setting is unknown, of the wrong type or impossible: the message has the field and, from a file, the line."""


class NotStarted(PartitionError, RuntimeError):
    """A ``PartitionCoordinator`` was used before ``start()``."""


class PartitionActorNotFound(PartitionError, LookupError):
    """No partition actor actor has this name in this namespace: ``deploy()`` it first."""


class PartitionActorUnavailable(PartitionError, ConnectionError):
    """The partition actor did not answer in time; what was asked of it may or may not have been done."""


class VersionMismatch(PartitionError, RuntimeError):
    """The running actor speaks another protocol version: shut it down and deploy it again."""


class GroupNotFound(PartitionError, LookupError):
    """Nobody has joined a group of this name, or it has been empty for longer than a lease."""


class MemberNotFound(PartitionError, LookupError):
    """The group has no member of this id."""


class GroupModeConflict(PartitionError, ValueError):
    """A group is exclusive or not for its lifetime, and the call asked for the other mode."""


class GroupFull(PartitionError, RuntimeError):
    """The partition actor already serves ``max_members`` sessions; those that it has are not disturbed."""


class SessionSuperseded(PartitionError, RuntimeError):
    """Another process joined under the same member id; this one owns nothing any more and stays out."""


class NotOwner(PartitionError, RuntimeError):
    """A call reached a member that may not work on its key now: the call has not run."""

    epoch: tuple[int, int] | None = None
    """The epoch of the view by which the member judged; None when it had none."""
    task: str | None = None
    """Ray's id, in hex, of the task that did not run; None where some of the work may have been done."""
    call: tuple[Any, str, tuple[Any, ...], dict[str, Any]] | None = None
    """Key, method, positional and keyword arguments of the call, for its sender to send it elsewhere."""


class NoOwner(PartitionError, TimeoutError):
    """Nobody was found in time that may work on the key: the group is empty, or a hand-off takes long; nothing ran."""


class MemberHasNoActor(PartitionError, LookupError):
    """The owner of the key is a member that is no actor but a task or a driver, which nobody can call."""


class CallMayHaveRun(PartitionError, ConnectionError):
    """The owner died or went out of reach under a call whose method was not declared safe to repeat."""


class TooManyCalls(PartitionError, RuntimeError):
    """The owner of the key has as many of this router's calls under way as its limit allows; nothing ran."""
