"""Every interleaving of a small model on the production state machines, breadth first.

A few processes and two keys of one exclusive group. All processes but the last are members already; one joins, one
leaves, one crashes and the partition actor restarts, each at any moment or never. Each process may send a few more
requests; messages are lost, delayed or overtaken, callbacks take as long as they like, and time goes by in steps of a
third of the partition actor's lease. Two states are one when no rule can tell them apart: times count from now, and
numbers that only put messages in order are left out.

    python tests/simulation/exhaustive.py                                        # the large searches, one after another
    python tests/simulation/exhaustive.py --members 2 --requests 2 --steps 2 --events join leave
"""

from __future__ import annotations

import argparse
import gc
import io
import pickle
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from partition_actor.core.member import MemberState
from partition_actor.core.membership import Membership
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
    """A process. One message is under way at most: one that is lost is one that a later request overtakes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.member_state = MemberState(name, name, SETTINGS)
        self.member_state.join(GROUP, exclusive=True)
        self.alive = True
        self.under_way: tuple[str, Any] = ("nothing", None)
        """What became of the latest request: "request", "held" or "reply", and the message."""
        self.letting_go: list[tuple[Any, frozenset[str]]] = []

    def acts_on(self, now: float, keys: list[str]) -> frozenset[str]:
        """The keys that it may take up, and those that it is letting go."""
        if not self.alive:
            return frozenset()
        if now >= self.member_state.exclusive_until:
            self.letting_go = [(epoch, frozenset()) for epoch, _ in self.letting_go]
        return frozenset(self.member_state.subset(now, GROUP, keys)).union(*(lost for _, lost in self.letting_go))


class Model:
    """The whole of a small world; `left` is what may still happen to it, each once."""

    def __init__(self, members: int, keys: list[str], requests: int, steps: int, events: Iterable[str]) -> None:
        self.now = 0.0
        self.keys = keys
        self.incarnations = 1
        self.partition_actor = Membership(SETTINGS, 1, 0.0, first=True)
        self.partition_actor.prove(0.0)
        self.members = [Member(f"m{number}") for number in range(members - 1)]
        self.left = set(events)
        self.requests = {f"m{number}": 9 for number in range(members)}
        self.steps = 0
        for _ in range(3):  # start where the first members have met
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
        """Let one thing happen."""
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
        self.partition_actor.prove(self.now)
        self.partition_actor.tick(self.now)
        self.partition_actor.take_news()

    def _send(self, member: Member) -> None:
        self.requests[member.name] -= 1
        member.under_way = ("request", member.member_state.request(self.now))

    def _deliver(self, member: Member) -> None:
        request = member.under_way[1]
        self.partition_actor.sync(self.now, request)
        member.under_way = ("held", request["seq"])

    def _answer(self, member: Member) -> None:
        key = (member.name, member.name)
        member.under_way = (
            "reply",
            self.partition_actor.reply(self.now, self.partition_actor.session(key), member.under_way[1]),
        )

    def _hear(self, member: Member) -> None:
        before = frozenset(member.member_state.subset(self.now, GROUP, self.keys))
        if self.now >= member.member_state.exclusive_until:
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
        self.partition_actor = Membership(SETTINGS, self.incarnations, self.now, restarted=True)
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

    def identity(self) -> str:
        """Equal for two states that no rule can tell apart."""
        partition_actor = self.partition_actor
        end = partition_actor._recovery_end
        parts: list[Any] = [
            sorted(self.left),
            (self.steps, self.requests),
            (partition_actor.incarnation, partition_actor._counter, sorted(partition_actor._ended)),
            None if end is None else end - self.now + partition_actor.stalled,
        ]
        parts += map(self._member_identity, self.members)
        parts += map(self._session_identity, sorted(partition_actor.sessions))
        parts += map(self._group_identity, partition_actor.groups.values())
        return repr(parts)

    def _member_identity(self, member: Member) -> Any:
        if not member.alive:
            return member.name
        own, (kind, message) = member.member_state, member.under_way
        held = own.groups[GROUP]
        lease = max(0.0, own.exclusive_until - self.now)
        sent = min(SETTINGS.ttl, self.now - own._sent) if kind != "nothing" and own._sent is not None else None
        said = None if kind in ("nothing", "held") else {**message, "seq": 0}
        views = [(view.epoch, view.rev, view.mine, view.members, view.laggards, view.rings) for view in held.views]
        letting_go = [(epoch, sorted(lost)) for epoch, lost in member.letting_go]
        return (kind, said, sent, lease, own.incarnation, own._tell_views, letting_go, held.want, held.state, views)

    def _session_identity(self, key: Any) -> Any:
        session, lease = self.partition_actor.sessions[key], self.partition_actor.lease_left(self.now, key)
        told = session.standings.get(GROUP)
        standing = told and (
            told.have,
            told.rev,
            told.wants_in,
            told.state,
            told.resync,
            told.want_views,
            told.rejoined,
        )
        return (key, lease, session.lease, standing)

    def _group_identity(self, group: Any) -> Any:
        seats = []
        for key, seat in sorted({**group.seats, **group.joiners}.items()):
            lag = self.now - (group.lagging_since(key) or self.now)
            standing = (seat.acked, seat.first, seat.last, seat.reported, seat.leaving, seat.rev)
            seats.append((key, key in group.joiners, standing, min(lag, SETTINGS.handoff_timeout + STEP)))
        return (group.recovering, group.epoch, group.desired, seats, group._handoff._history)


def _saved(model: Model) -> bytes:
    buffer = io.BytesIO()
    Snapshot(buffer, protocol=5).dump(model)
    return buffer.getvalue()


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
    """Visit every state; the result has the numbers, and under `clash` the way to a bad one.

    `limit` is the number of states after which to stop, with `complete` False.
    """
    started = time.perf_counter()
    root = Model(members, ["a", "f"], requests, steps, events)
    states = {hash(root.identity()): None}
    frontier: deque[tuple[bytes, tuple[Any, ...]]] = deque([(_saved(root), ())])
    transitions = 0
    while frontier and (limit is None or len(states) < limit):
        saved, way = frontier.popleft()
        for action in pickle.loads(saved).actions():
            model = pickle.loads(saved)
            model.act(*action)
            transitions += 1
            clash = model.owners_clash()
            if clash is not None:
                return {"clash": f"{clash} after {[*_path(way), action]}", "states": len(states)}
            identity = hash(model.identity())
            if identity in states:
                continue
            states[identity] = None
            frontier.append((_saved(model), (way, action)))
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


LARGE = ((2, 2, 1, EVENTS), (2, 1, 3, EVENTS), (3, 1, 1, EVENTS))

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
