"""Every interleaving of a small model on the production state machines, breadth first.

The model has a few processes and two keys of one exclusive group. All processes but the last are members at the start.
One joins, one leaves, one crashes and the partition actor restarts, each at any moment or never. Each process may send
a few more requests. Messages are lost, delayed or overtaken, callbacks take any time, and time passes in steps of a
third of the partition actor's lease. Two states count as one only if they agree in every field that can influence
what follows, those of the messages under way included.

Searched completely: two processes with two requests each and one step of time, two with one request each and four
steps (a whole lease, and longer than `handoff_timeout`), and three with one request each and one step.

    python tests/simulation/exhaustive.py                                             # all of LARGE
    python tests/simulation/exhaustive.py --members 2 --requests 2 --steps 2 --events join leave
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import io
import pickle
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from partition_actor.core.driver import MembershipDriver
from partition_actor.core.group import Group
from partition_actor.core.handoff import Handoff
from partition_actor.core.lock_table import LockTable
from partition_actor.core.member import MemberState
from partition_actor.core.membership import Membership, SessionRecord
from partition_actor.core.views import View
from partition_actor.settings import Settings

SETTINGS = Settings(
    ttl=2.0,
    hold=0.9,
    clock_rate_margin=0.5,
    handoff_timeout=3.0,
    publish_window=0.0,
    node_proof_interval=0.1,
    max_members=10,
    vnodes=2,
)
GROUP = "g"
EVENTS = ("join", "leave", "crash", "restart")
STEP = 1.0
TICKS_A_STEP = 2


def _settings() -> Settings:
    return SETTINGS


class Snapshot(pickle.Pickler):
    """Copies a model; all copies share the settings."""

    dispatch_table = {Settings: lambda settings: (_settings, ())}  # noqa: RUF012


class Member:
    """A process. At most one of its messages is under way; a lost one is one that a later request overtakes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.member_state = MemberState(name, name, SETTINGS)
        self.member_state.join(GROUP, exclusive=True)
        self.alive = True
        self.under_way: tuple[str, Any] = ("nothing", None)
        """What has become of the latest request ("request", "held" or "reply"), and the message."""
        self.letting_go: list[tuple[Any, frozenset[str]]] = []

    def acts_on(self, now: float, keys: list[str]) -> frozenset[str]:
        """The keys that it may take up, and those that it is still letting go."""
        if not self.alive:
            return frozenset()
        if now >= self.member_state.acts_until(GROUP):
            self.letting_go = [(epoch, frozenset()) for epoch, _ in self.letting_go]
        return frozenset(self.member_state.subset(now, GROUP, keys)).union(*(lost for _, lost in self.letting_go))


class Model:
    """The partition actor, its members and their messages. Each event in `left` may still happen, once."""

    def __init__(self, members: int, keys: list[str], requests: int, steps: int, events: Iterable[str]) -> None:
        self.now = 0.0
        self.keys = keys
        self.incarnations = 1
        self.driver = MembershipDriver(Membership(SETTINGS, 1, 0.0, first=True))
        self.driver.proof(0.0, 0.0)
        self.members = [Member(f"m{number}") for number in range(members - 1)]
        self.left = set(events)
        self.requests = {f"m{number}": 9 for number in range(members)}
        self.steps = 0
        for _ in range(3):  # start when the members know each other
            for member in self.members:
                for action in ("send", "deliver", "answer", "hear"):
                    self.act(action, member.name)
                self._let_everything_go(member)
        self.requests = {f"m{number}": requests for number in range(members)}
        self.steps = steps

    # -- what may happen ----------------------------------------------------------------------------------------

    def actions(self) -> list[tuple[str, str]]:
        """Everything that may happen next."""
        found = [("time", "")] if self.steps else []
        for member in self.members:
            if member.alive:
                found += [(action, member.name) for action in self._actions_of(member)]
        if "join" in self.left:
            found.append(("join", f"m{len(self.members)}"))
        if "restart" in self.left:
            found.append(("restart", ""))
        return found

    def _actions_of(self, member: Member) -> list[str]:
        found = ["send"] if self.requests[member.name] else []
        if member.under_way[0] != "nothing":
            found.append({"request": "deliver", "held": "answer", "reply": "hear"}[member.under_way[0]])
        if member.letting_go:
            found.append("let go")
        if "leave" in self.left and member.name == "m0":
            found.append("leave")
        if "crash" in self.left and member.name == "m1":
            found.append("crash")
        return found

    def act(self, action: str, name: str) -> None:
        """Let one action happen."""
        member = next((each for each in self.members if each.name == name), None)
        if action in self.left:
            self.left.discard(action)
        if action == "time":
            self.steps -= 1
            for _ in range(TICKS_A_STEP):
                self.now += STEP / TICKS_A_STEP
                self._tick()
        elif action == "join":
            self.members.append(Member(name))
        elif action == "restart":
            self._restart()
        elif member is not None:
            getattr(self, f"_{action.replace(' ', '_')}")(member)
        self._tick()

    def _tick(self) -> None:
        self.driver.proof(self.now, self.now)
        self.driver.actions(self.now)

    def _send(self, member: Member) -> None:
        self.requests[member.name] -= 1
        member.under_way = ("request", member.member_state.request(self.now))

    def _deliver(self, member: Member) -> None:
        request = member.under_way[1]
        self.driver.request(self.now, request)
        member.under_way = ("held", request["seq"])

    def _answer(self, member: Member) -> None:
        reply = self.driver.reply(self.now, (member.name, member.name), member.under_way[1])
        member.under_way = ("nothing", None) if reply is None else ("reply", reply)

    def _hear(self, member: Member) -> None:
        before = frozenset(member.member_state.subset(self.now, GROUP, self.keys))
        if self.now >= member.member_state.acts_until(GROUP):
            member.letting_go = [(epoch, frozenset()) for epoch, _ in member.letting_go]
        changes = member.member_state.receive(member.under_way[1]) or ()
        member.under_way = ("nothing", None)
        after = frozenset(member.member_state.subset(self.now, GROUP, self.keys))
        for change in changes:
            member.letting_go.append((change.after.epoch if change.after else None, before - after))
        while member.letting_go and not member.letting_go[0][1]:
            self._let_go(member)

    def _let_go(self, member: Member) -> None:
        epoch, _ = member.letting_go.pop(0)
        if epoch is not None:
            member.member_state.acknowledge(GROUP, epoch)

    def _let_everything_go(self, member: Member) -> None:
        while member.letting_go:
            self._let_go(member)

    def _leave(self, member: Member) -> None:
        member.member_state.leave(GROUP)

    def _crash(self, member: Member) -> None:
        member.alive = False
        member.under_way = ("nothing", None)

    def _restart(self) -> None:
        self.incarnations += 1
        self.driver = MembershipDriver(Membership(SETTINGS, self.incarnations, self.now, restarted=True))
        for member in self.members:
            if member.under_way[0] == "held":
                member.under_way = ("nothing", None)

    # -- what must hold -----------------------------------------------------------------------------------------

    def owners_clash(self) -> str | None:
        """Which members may act on one key, if two may."""
        sets = [(member.name, member.acts_on(self.now, self.keys)) for member in self.members]
        for place, (name, mine) in enumerate(sets):
            for other, theirs in sets[place + 1 :]:
                if mine & theirs:
                    return f"{name} and {other} both act on {sorted(mine & theirs)}"
        return None

    # -- identity -----------------------------------------------------------------------------------------------

    def identity(self) -> bytes:
        """The same for two states with the same future: a digest of every field of every object but `LEFT_OUT`.

        Moments and message numbers are compared as they are: states with equally many steps and requests left have
        the same `now` and have numbered their requests alike.
        """
        return hashlib.blake2b(repr(_fields_of(self)).encode(), digest_size=16).digest()


LEFT_OUT: dict[type, frozenset[str]] = {
    Model: frozenset({"now", "keys"}),  # `steps` tells the time; the keys never change
    MemberState: frozenset({"settings"}),  # the settings never change
    Membership: frozenset({"settings", "events", "_lock_changes"}),  # what is told to operators decides nothing
    SessionRecord: frozenset({"where", "ending"}),
    MembershipDriver: frozenset({"_now"}),  # the moment of a step that is over
    # A method and a field of the Membership; what is told to operators.
    Group: frozenset({"settings", "_note", "_changed", "_events", "_causes", "handed_over", "opened_at", "_survivors"}),
    # A field of the Group; a ring of known members, and how they differ from earlier ones; what is told to operators.
    Handoff: frozenset(
        {"_settings", "_participants", "_published", "_only_left", "laggards", "unfinished", "finished"}
    ),
    LockTable: frozenset({"_news", "_changes"}),  # references to fields of the Membership
    View: frozenset({"_rings", "_former", "shares"}),  # worked out from `members`, `laggards` and `rings`
}
"""What `Model.identity` leaves out of each class. All else counts, whatever fields the classes may get."""

PLAIN = frozenset({str, int, float, bool, type(None)})


def _fields_of(value: Any) -> Any:
    """`value` as nested tuples, with the fields of every object in it."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind in (tuple, list, deque):
        return tuple([each if type(each) in PLAIN else _fields_of(each) for each in value])
    if kind in (dict, OrderedDict):  # in order of the keys: no rule depends on the order of a dict but the one below
        return tuple([(key, _fields_of(value[key])) for key in sorted(value)])
    if kind in (set, frozenset):
        return tuple(sorted(value))
    if kind is Member and not value.alive:
        return value.name  # whatever it knew has no effect any more
    parts = [kind.__name__]
    for name in names_of(value):
        each = getattr(value, name)
        parts.append(each if type(each) in PLAIN else _fields_of(each))
    if kind is Handoff:
        parts.append(tuple(value._history))  # ``trim`` stops at the first epoch that it keeps
    return tuple(parts)


_names: dict[type, list[str]] = {}


def names_of(value: Any) -> list[str]:
    """The fields of an object that count for its identity."""
    kind = type(value)
    if kind not in _names:
        every = [each.name for each in fields(value)] if is_dataclass(value) else sorted(vars(value))
        _names[kind] = [name for name in every if name not in LEFT_OUT.get(kind, ())]
    return _names[kind]


def saved(model: Model) -> bytes:
    """A copy of a model, from which any number can be made."""
    buffer = io.BytesIO()
    Snapshot(buffer, protocol=5).dump(model)
    return buffer.getvalue()


def successors(state: bytes) -> Iterator[tuple[tuple[str, str], Model]]:
    """Everything that may happen next in a saved model, and the model in which it has happened."""
    model: Model | None = pickle.loads(state)
    assert model is not None
    for action in model.actions():
        model = model or pickle.loads(state)
        model.act(*action)
        yield action, model
        model = None


@contextmanager
def _little_garbage_collection() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(200_000)
    yield
    gc.set_threshold(*before)


@_little_garbage_collection()
def search(
    members: int, requests: int, steps: int, events: Iterable[str] = EVENTS, limit: int | None = None
) -> dict[str, Any]:
    """Visit every state. The result has the numbers, and under `clash` the path to a state with two owners of a key.

    After `limit` states it stops, and `complete` is False.
    """
    started = time.perf_counter()
    root = Model(members, ["a", "f"], requests, steps, events)
    states = {root.identity()}
    frontier: deque[tuple[bytes, tuple[Any, ...]]] = deque([(saved(root), ())])
    transitions = 0
    while frontier and (limit is None or len(states) < limit):
        state, way = frontier.popleft()
        for action, model in successors(state):
            transitions += 1
            clash = model.owners_clash()
            if clash is not None:
                return {"clash": f"{clash} after {[*_path(way), action]}", "states": len(states)}
            identity = model.identity()
            if identity not in states:
                states.add(identity)
                frontier.append((saved(model), (way, action)))
    return {
        "clash": None,
        "members": members,
        "states": len(states),
        "transitions": transitions,
        "complete": not frontier,
        "seconds": round(time.perf_counter() - started, 1),
    }


def _path(way: Any) -> list[Any]:
    path = []
    while way:
        way, action = way
        path.append(action)
    return path[::-1]


LARGE = ((2, 2, 1, EVENTS), (2, 1, 4, EVENTS), (3, 1, 1, EVENTS))
"""``(members, requests, steps, events)`` of the searches that `make simulate` completes."""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, help="processes, the one that joins among them")
    parser.add_argument("--requests", type=int, default=2, help="that each process may send (default 2)")
    parser.add_argument("--steps", type=int, default=2, help="of time (default 2)")
    parser.add_argument("--events", nargs="*", choices=EVENTS, default=EVENTS, help="which may happen (default all)")
    given = parser.parse_args()
    chosen = LARGE if given.members is None else ((given.members, given.requests, given.steps, given.events),)
    results = []
    for each in chosen:
        results.append(search(*each))
        print(results[-1], flush=True)
    sys.exit(any(result["clash"] for result in results))
