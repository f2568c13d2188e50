"""What members and the partition actor say to each other: builtins only, so that a caller needs no import.

A member states what it wants and what it holds; the partition actor answers with what differs. Every request may be
lost, repeated or overtaken.

Request, a dict::

    protocol     int   PROTOCOL
    member       str   the member id
    session      str   one life of one process under that id
    seq          int   grows with every request of the session
    incarnation  int   the highest incarnation that this member has had a reply from; 0 for none
    interval     float seconds between two heartbeats, as far as this member knows
    leased       bool  the lease of exclusive groups runs
    groups       {group: report}
    locks        (where there are any) {ticket: [name, shared, waits, token]}: what is wanted, with token 0, and held
    prompt       (when somebody waits for the reply) True: it is not to be held back until there is news

A request that would say nothing but what the latest whole one says, to which there has been a reply since that did not
ask for another, is a dict of `protocol`, `member`, `session`, `seq`, `incarnation` and::

    same         int   the `seq` of that whole request

Report on one group, a dict::

    want         "in" | "out" | "watch": follow the group without being a member since        int   the `seq` at which
    the user last asked to join weight       int exclusive    bool | None have         epoch of the view held, or None;
    of a watcher the latest epoch that it has heard of rev          int   revision of that view; WHOLE: it is to be told
    whole acked        epoch up to which the callbacks for lost keys have returned, or None metadata     (while `have`
    is None, the lease is over, with `views`, or new) what the user told about this member conditional       (while
    `have` is None, if so) True: only into a group that exists, under an id that nobody has there unknown      (of a
    watcher) bool  it has been told that there is no such group views        (when asked for) [[epoch, members, mine],
    ...]: from the view acknowledged to the view held

Reply, a dict::

    seq          int   of the request that it answers
    incarnation  int
    lease        float seconds from sending the request during which the member may act on its views; 0: no grant
    exclusive_lease float  the same for exclusive groups
    interval     float seconds until the next heartbeat is due
    resync       bool  send the next request at once, and whole (with `views`, if the next key says so)
    views        bool  the partition actor has restarted and wants to hear every view
    groups       {group: entry}, only where there is something to say
    locks        (where there is something to say) {ticket: token | "lost" | "refused"}

An entry has either a `view` (and perhaps `rejoined`: the session had been forgotten), or a `state`: "out" (left or
drained), "superseded" (another session has the id), "conflict" (the group is of the other mode), "missing" and "taken"
(told to one that is conditional: there is no such group, another session has the id), "unknown" (told to a watcher:
there is no such group).

View, a dict::

    epoch        (incarnation, counter)
    rev          int   grows when the laggards change and the epoch does not
    exclusive    bool
    mine         bool  the place of this id on the ring belongs to this session
    awaited      int   of how many members, this one among them, others wait for the word that they have let go; 0 when
                       nobody waits for this one, and left out where nobody can
    base         epoch of the view held, which `changed` starts from; None when everybody is in `changed`
    changed      {member_id: weight, None for one that is gone}
    laggards     [(member_id, [epoch, ...]), ...]: who may still act on keys that are this member's now, and the epochs
                 that it may act on; with the epoch of `base`, those of them that still may
    rings        [(epoch, whole, changed), ...]: the members at these epochs, whole or as what differs from those of the
                 view; left out are the epoch of `base`, and with the same epoch as `base` all
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from partition_actor.errors import GroupModeConflict, VersionMismatch
from partition_actor.ring import Ring, ring_of
from partition_actor.settings import Settings

PROTOCOL = 1

WHOLE = -1
"""In place of a revision: lower than each."""

Epoch = tuple[int, int]
"""``(incarnation, counter)``; compares in the order in which epochs were published."""

Members = Mapping[str, int]
"""``{member_id: weight}``: the places on the ring at one epoch."""

SessionKey = tuple[str, str]
"""``(member_id, session)``."""

Want = Literal["in", "out", "watch"]

COUNTER_BITS = 22
"""An incarnation is in milliseconds since 2020 (41 bits last until 2089); a token fits a signed 64-bit column."""

INCARNATION_ZERO = 1_577_836_800.0
"""2020-01-01T00:00Z as a Unix time, in seconds."""


def incarnation_at(unix_time: float) -> int:
    """The incarnation of a partition actor that starts at `unix_time` seconds; at least 1."""
    return max(1, int((unix_time - INCARNATION_ZERO) * 1000))


def fencing_token(epoch: Epoch) -> int:
    """One int that grows with every epoch, incarnation first."""
    return (epoch[0] << COUNTER_BITS) | epoch[1]


def lock_name(name: str) -> str:
    """What a request calls the lock of this name."""
    return f"lock:{name}"


def leader_name(group: str) -> str:
    """What a request calls the lock whose holder leads this group."""
    return f"leader:{group}"


def check_protocol(protocol: object, other: str) -> None:
    """Raise ``VersionMismatch`` when the `other` side, such as "a member runs", has not this process's protocol."""
    if protocol != PROTOCOL:
        raise VersionMismatch(
            f"{other} with protocol {protocol!r}, and this process has protocol {PROTOCOL}: install one version "
            "everywhere, then shutdown() the partition actor and deploy() it again"
        )


def check_same_mode(group: str, is_exclusive: bool, wanted: bool | None) -> None:
    """Raise ``GroupModeConflict`` when a group is of another mode than a join, with None for "as it is", says."""
    if wanted is not None and wanted != is_exclusive:
        raise GroupModeConflict(
            f"group {group!r} is {_mode(is_exclusive)} for its lifetime, and this join says that it is {_mode(wanted)}"
        )


def _mode(exclusive: bool) -> str:
    return "exclusive" if exclusive else "not exclusive"


def ring_for(members: Members, settings: Settings) -> Ring:
    """The hash ring of a view's members."""
    return ring_of(tuple(sorted(members.items())), settings.vnodes, settings.hash_function)


def as_epoch(value: Any) -> Epoch | None:
    """An epoch as it came over the wire, where a tuple may have become a list."""
    return None if value is None else (int(value[0]), int(value[1]))
