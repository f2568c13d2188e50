"""What members and the partition actor say to each other.

A member states what it wants and what it holds; the partition actor answers with what differs. Every request may be
lost, repeated or overtaken. Messages are dicts of builtins. A reader ignores fields that it does not know, and
`check_request` and `check_reply` refuse a message that lacks a field.

Messages have a version, `PROTOCOL`.`MINOR`. Two sides of one `PROTOCOL` whose `MINOR` is at most 1 apart work together,
so that a cluster can be updated process by process. Any others refuse each other with a ``VersionMismatch``. A change
of a message, or of a method that one side calls of the other, raises one of them:

- `MINOR`, when a peer of the version before does what is right without knowing of the change, and may be without it: a
  field that is optional and that it may ignore, or a method that is called only if it is there. What is kept only for
  peers of the version before goes when `MINOR` is raised the next time.
- `PROTOCOL`, and `MINOR` starts again with 0, when such a peer could not read the message, or could break a guarantee
  because it ignores what is new: a required field that comes, goes or changes its meaning.

A whole request and the partition actor's ``hello`` tell the version; without `minor`, it is 0.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypedDict, cast, final, get_args

from partition_actor.arguments import (
    MAX_ID_BYTES,
    MAX_WEIGHT,
    check_flag,
    check_mode,
    check_number,
    check_packed_metadata,
    check_seconds,
    check_text,
    check_weight,
    refuse,
)
from partition_actor.core.epochs import COUNTER_BITS, Epoch
from partition_actor.errors import GroupModeConflict, VersionMismatch
from partition_actor.version import __version__

PROTOCOL = 4
MINOR = 1

WHOLE = -1
"""In place of a view's revision: lower than each, so that the view is told whole."""

Members = Mapping[str, int]
"""``{member_id: weight}``: who is on the ring at one epoch."""

Changes = Mapping[str, int | None]
"""``{member_id: weight}`` of those that are new or weigh otherwise, and None for those that are gone."""

SessionKey = tuple[str, str]
"""``(member_id, session)``."""


Want = Literal["in", "out", "watch"]
"""Be a member; be none; follow the group without being a member."""

LockAnswer = int | Literal["lost", "refused"]
"""The fencing token of a lock that is granted, or why it is not held."""


class HeldView(TypedDict):
    """A view that a member holds, told to a partition actor that has restarted."""

    epoch: Epoch
    members: Members
    mine: bool


class _GroupReport(TypedDict):
    want: Want
    since: int  # the `seq` at which the user last asked to join
    weight: int
    exclusive: bool | None
    have: Epoch | None  # the epoch of the view held; of a group watcher the latest epoch that it has heard of
    rev: int  # the revision of that view; WHOLE: tell it whole
    acked: Epoch | None  # the epoch up to which the callbacks for lost keys have returned


class GroupReport(_GroupReport, total=False):
    """What a request says of one group."""

    metadata: bytes | None  # packed; while `have` is None, the lease is over, with `views`, or when it is new
    conditional: bool  # while `have` is None: join only a group that exists, and under an id that nobody has there
    lapsed: bool  # fenced in this group, and its lease there is over
    unknown: bool  # a group watcher has been told that there is no such group
    views: list[HeldView]  # when asked for: from the view acknowledged to the view held


class LockReport(TypedDict):
    """A lock that a session wants, with `token` 0, or holds."""

    name: str
    shared: bool
    waits: bool  # whether it waits its turn; if not, it is refused when it cannot have the lock at once
    token: int


class Heading(TypedDict):
    """What every request begins with."""

    protocol: int
    member: str
    session: str  # one life of one process under that id
    seq: int  # grows with every request of the session
    incarnation: int  # the highest incarnation that has replied to this member; 0 for none


@final
class ShortRequest(Heading):
    """A request that says the same as whole request number `same`, which has had a reply."""

    same: int


class _Statement(TypedDict):
    interval: float  # seconds between two heartbeats, as far as this member knows
    leased: bool  # the lease of exclusive groups runs
    groups: dict[str, GroupReport | None]  # None: it has nothing to do with that group any more


class Statement(_Statement, total=False):
    """What a whole request says beyond its heading."""

    minor: int  # of the version of its messages
    version: str  # of the member's library
    groups_base: int  # `groups` tells what has changed since that request; 0: everything
    locks_base: int  # `locks` tells what has changed since that request; 0: everything
    locks: dict[int, LockReport | None]  # by ticket; None: neither wanted nor held any more
    prompt: bool  # answer at once: somebody waits for the reply
    withdrawn: bool  # its leases were withdrawn, and none granted since; True: and all that ran by them has returned
    stays: bool  # it keeps its place on a draining node for a while: its successor is being started elsewhere


@final
class Request(Heading, Statement):
    """A whole request. It alone tells `minor` and `version`: a short one follows it, and comes from the same code."""


class Laggard(TypedDict):
    """A member that may still act on keys that are the addressee's now, by the rings of these epochs."""

    member: str
    epochs: list[Epoch]


class RingMessage(TypedDict):
    """The members at an epoch: all of them if `whole`, else what differs from the view's."""

    epoch: Epoch
    whole: bool
    members: Changes


class _ViewMessage(TypedDict):
    epoch: Epoch
    rev: int  # grows when the laggards change and the epoch does not
    exclusive: bool
    mine: bool  # the ring gives the keys of this id to this session
    base: Epoch | None  # the epoch of the view held, from which `changed` starts; None: all members are in `changed`
    changed: Changes
    laggards: list[Laggard]  # with the epoch of `base`: those of them that still may act
    rings: list[RingMessage]  # of the laggards' epochs; left out are that of `base`, and all if the view has its epoch


class ViewMessage(_ViewMessage, total=False):
    """A view as it is told, whole or as what has changed."""

    awaited: int  # how many members others wait for to acknowledge; 0 if this one is not among them


class GroupEntry(TypedDict, total=False):
    """What a reply says of one group: a `view` or a `state`."""

    view: ViewMessage
    rejoined: bool  # beside a view: the session had been forgotten
    state: Literal["out", "superseded", "conflict", "missing", "taken", "unknown", "joining"]
    """Left or drained; another session has the id; the group is of the other mode; of a conditional join: there is no
    such group, another session has the id; of a group watcher: there is no such group; it has no place while its node
    is draining."""
    exclusive: bool  # beside "conflict"


class _Reply(TypedDict):
    seq: int  # of the request that it answers
    incarnation: int
    lease: float  # seconds from sending the request for which the member may act on its views; 0: none
    exclusive_lease: float  # the same for exclusive groups
    interval: float  # seconds until the next heartbeat is due
    resync: bool  # send the next request at once, and whole
    views: bool  # and with every view: the partition actor has restarted
    groups: dict[str, GroupEntry]  # only where there is something to say


class Reply(_Reply, total=False):
    """The answer to one request."""

    fenced: list[str]  # exclusive groups for which `exclusive_lease` does not count
    more: bool  # there is more to tell: send the next request at once
    locks: dict[int, LockAnswer]  # by ticket, where there is something to say
    slots: dict[int, int]  # by ticket, the number of each slot that `locks` says is granted
    wait: float  # while it recovers: seconds from receipt of the request until it admits members, at most
    withdrawn: bool  # every lease granted before is over: the partition actor is being shut down
    settings: int  # how often its settings have changed; `hello` tells the present ones
    draining: bool  # the member's node is draining: it gets no new place


def check_request(value: object) -> Request | ShortRequest:
    """`value`, if every field of it is as a request's is. Fields that no request has are ignored.

    Raises ``InvalidArgument`` that names the field, and ``VersionMismatch`` for another protocol.
    """
    if not isinstance(value, dict):
        refuse("request", value, f"a dict, not {type(value).__name__}")
    if "protocol" not in value:
        refuse("request", value, "a protocol in it")
    if "same" in value and type(value["protocol"]) is int and value["protocol"] == PROTOCOL:
        if not _is_plain(value):
            _check_all("request", value, _SHORT_REQUEST)
        return cast(ShortRequest, value)
    check_version(value, "this member", "the partition actor", by_actor=False)
    _check_all("request", value, _REQUEST)
    return cast(Request, value)


def check_reply(value: object) -> Reply:
    """`value`, if it is a reply. Raises ``InvalidArgument`` when it lacks a field."""
    _check_fields("reply", value, Reply.__required_keys__)
    return cast(Reply, value)


def _check_fields(name: str, value: Any, required: frozenset[str]) -> None:
    if not isinstance(value, dict) or not required <= value.keys():
        lacking = sorted(required - value.keys()) if isinstance(value, dict) else sorted(required)
        refuse(name, value, f"a dict with {', '.join(lacking)}")


def _is_plain(short: dict[str, Any]) -> bool:
    """Whether a short request is as nearly all are, which is found out fast. The texts are those of a whole one."""
    try:
        seq, incarnation, same = short["seq"], short["incarnation"], short["same"]
        return (
            type(short["member"]) is type(short["session"]) is str
            and type(seq) is type(incarnation) is type(same) is int
            and 0 <= same <= seq <= _MOST
            and 0 <= incarnation <= _MOST_INCARNATION
        )
    except KeyError:
        return False


class _Fields(NamedTuple):
    """The fields of one kind of message; each check gets the field's name and value."""

    required: frozenset[str]
    checks: dict[str, Callable[[str, Any], object]]


def _check_all(name: str, value: Any, fields: _Fields) -> None:
    _check_fields(name, value, fields.required)
    for field, check in fields.checks.items():
        if field in value:
            check(f"{name}, {field}", value[field])


def _check_seq(name: str, value: object) -> None:
    check_number(name, value, 0, _MOST)


def _check_incarnation(name: str, value: object) -> None:
    check_number(name, value, 0, _MOST_INCARNATION)


def _check_interval(name: str, value: object) -> None:
    check_seconds(name, value, _LONGEST_INTERVAL)


def _check_epoch(name: str, value: object) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        refuse(name, value, "a pair of an incarnation and a counter")
    check_number(name, value[0], 0, _MOST_INCARNATION)
    check_number(name, value[1], 0, _MOST_COUNTER)


def _check_epoch_or_none(name: str, value: object) -> None:
    if value is not None:
        _check_epoch(name, value)


def _check_want(name: str, value: object) -> None:
    if not isinstance(value, str) or value not in get_args(Want):
        refuse(name, value, f"one of {', '.join(get_args(Want))}")


def _check_dict(name: str, value: object) -> dict[Any, Any]:
    if not isinstance(value, dict):
        refuse(name, value, f"a dict, not {type(value).__name__}")
    return value


def _check_groups(name: str, value: object) -> None:
    for group, report in _check_dict(name, value).items():
        check_text(f"{name}, a group", group)
        if report is not None:
            _check_all(f"request, group {group!r}", report, _REPORT)


def _check_locks(name: str, value: object) -> None:
    for ticket, lock in _check_dict(name, value).items():
        check_number(f"{name}, a ticket", ticket, 0, _MOST)
        if lock is not None:
            _check_all(f"request, lock {ticket!r}", lock, _LOCK)


def _check_views(name: str, value: object) -> None:
    if not isinstance(value, (list, tuple)):
        refuse(name, value, f"a list, not {type(value).__name__}")
    for view in value:
        _check_all(name.replace(", views", ", a view"), view, _VIEW)


def _check_members(name: str, value: object) -> None:
    """There may be thousands, and each member of a group tells them after a restart."""
    members = _check_dict(name, value)
    if {*map(type, members)} <= {str} and {*map(type, members.values())} <= {int} and "" not in members:
        joined = "".join(members)
        short = joined.isascii() and max(map(len, members), default=0) <= MAX_ID_BYTES
        if short and min(members.values(), default=1) >= 1 and max(members.values(), default=1) <= MAX_WEIGHT:
            return
    for member, weight in members.items():
        check_text(f"{name}, a member", member)
        check_weight(weight, f"{name}, weight of {member!r}")


_LONGEST_VERSION = 64  # characters
_MOST = (1 << 63) - 1
_MOST_COUNTER = (1 << COUNTER_BITS) - 1
_MOST_INCARNATION = (1 << 63 - COUNTER_BITS) - 1  # of a token that fits 64 bits
_LONGEST_INTERVAL = 1_000_000.0  # seconds, by the largest settings

_HEADING: dict[str, Callable[[str, Any], object]] = {
    "member": check_text,
    "session": check_text,
    "seq": _check_seq,
    "incarnation": _check_incarnation,
}
_SHORT_REQUEST = _Fields(ShortRequest.__required_keys__, {**_HEADING, "same": _check_seq})
_REQUEST = _Fields(
    Request.__required_keys__,
    {
        **_HEADING,
        "interval": _check_interval,
        "leased": check_flag,
        "minor": _check_seq,
        "version": check_text,
        "groups_base": _check_seq,
        "groups": _check_groups,
        "locks_base": _check_seq,
        "locks": _check_locks,
        "prompt": check_flag,
        "withdrawn": check_flag,
        "stays": check_flag,
    },
)
_REPORT = _Fields(
    GroupReport.__required_keys__,
    {
        "want": _check_want,
        "since": _check_seq,
        "weight": lambda name, value: check_weight(value, name),
        "exclusive": lambda name, value: check_mode(value, name),
        "have": _check_epoch_or_none,
        "rev": lambda name, value: check_number(name, value, WHOLE, _MOST),
        "acked": _check_epoch_or_none,
        "metadata": lambda _, value: check_packed_metadata(value),
        "conditional": check_flag,
        "lapsed": check_flag,
        "unknown": check_flag,
        "views": _check_views,
    },
)
_VIEW = _Fields(HeldView.__required_keys__, {"epoch": _check_epoch, "members": _check_members, "mine": check_flag})
_LOCK = _Fields(
    LockReport.__required_keys__,
    {
        "name": lambda name, value: check_text(name, value, limit=MAX_ID_BYTES + len(leader_name(""))),
        "shared": check_flag,
        "waits": check_flag,
        "token": _check_seq,
    },
)


def check_version(told: Mapping[str, Any], other: str, here: str, *, by_actor: bool) -> None:
    """Raise ``VersionMismatch`` when two sides, with these names, cannot work together by their versions.

    The `other` side has `told` its version, the partition actor if `by_actor` in the answer of its ``hello``, a member
    in a whole request. `here` is this side.
    """
    theirs = told["protocol"], told.get("minor", 0)
    is_readable = all(type(part) is int and 0 <= part <= _MOST for part in theirs)
    if is_readable and theirs[0] == PROTOCOL and abs(theirs[1] - MINOR) <= 1:
        return
    said, ours = told.get("version"), (PROTOCOL, MINOR)
    version = said if isinstance(said, str) and len(said) <= _LONGEST_VERSION else "unknown"
    if not is_readable:
        raise VersionMismatch(
            f"{other} runs version {version} with a protocol that {here} cannot read: install "
            f"partition-actor=={__version__} everywhere, then shutdown() the partition actor and deploy() it again"
        )
    is_older = theirs < ours
    install = f"install partition-actor=={__version__ if is_older else version}"
    if is_older is not by_actor:
        advice = f"{install} where {other if is_older else here} runs"
    elif theirs[0] == PROTOCOL and min(theirs, ours)[1] > 0:  # minor version 0 cannot hand its state over
        replace = "deploy(replace=True) or `partition-actor deploy --replace`"
        advice = f"{install} on the head, then {replace} puts a new one in without a pause"
    else:
        advice = f"{install} everywhere, then shutdown() the partition actor and deploy() it again"
    raise VersionMismatch(
        f"{other} runs version {version} with protocol {theirs[0]}.{theirs[1]}, "
        f"{'older' if is_older else 'newer'} than version {__version__} with protocol {PROTOCOL}.{MINOR} of {here}: "
        f"{advice}"
    )


def check_same_mode(group: str, is_exclusive: bool, wanted: bool | None) -> None:
    """Raise ``GroupModeConflict`` when a group is of another mode than a join, with None for "as it is", says."""
    if wanted is not None and wanted != is_exclusive:
        raise GroupModeConflict(
            f"group {group!r} is {_mode(is_exclusive)} for its lifetime, and this join says that it is {_mode(wanted)}"
        )


def _mode(exclusive: bool) -> str:
    return "exclusive" if exclusive else "not exclusive"


def lock_name(name: str) -> str:
    """What a request calls the lock of this name."""
    return f"lock:{name}"


def leader_name(group: str) -> str:
    """What a request calls the lock whose holder leads this group."""
    return f"leader:{group}"


MAX_SLOT = 99_999
"""The highest number of a slot. Its name is then no longer than a leader's, so peers that know no slots take it."""
_SLOT = re.compile(r"s(\*|0|[1-9][0-9]{0,4}):(.+)", re.DOTALL)


class Slot(NamedTuple):
    """A slot, which is a lock of its own."""

    space: str
    """Within it no two sessions have the same number: a group's name, or a fleet's."""
    number: int | None
    """None: the lowest that nobody has or waits for."""


def slot_name(space: str, number: int | None) -> str:
    """What a request calls a slot; None: the lowest number that nobody has or waits for."""
    return f"s{'*' if number is None else number}:{space}"


def slot_of(name: str) -> Slot | None:
    """The slot whose lock has this name; None for any other lock."""
    found = _SLOT.fullmatch(name)
    return None if found is None else Slot(found[2], None if found[1] == "*" else int(found[1]))


def is_former(session: str, other: str) -> bool:
    """Whether `session` is an earlier one of the same process: such names are that of the process and a number."""
    (process, _, number), (others, _, later) = session.rpartition("."), other.rpartition(".")
    return bool(process) and process == others and number.isdigit() and later.isdigit() and int(number) < int(later)
