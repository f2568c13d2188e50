"""A partition actor that a test plays: groups that live and lose members, without Ray."""

import random
import time

from fleet_statuses import fleet

from partition_actor.operate.page.source import Away, Refused
from partition_actor.settings import Settings

EVENTS_AT_ONCE = 500


class PlayedPartitionActor:
    """A source of the page. What the test does to it is what the page is told."""

    def __init__(self, seed=0):
        self.random = random.Random(seed)
        self.calls = []
        """The groups of each call."""
        self.away = None
        self.changes = []
        """What was drained and forgotten."""
        self.fleets = {}
        self.gone = 0
        """Events that are kept no longer."""
        self.restart()

    def restart(self, keep_members=False):
        """Another incarnation."""
        self.incarnation = getattr(self, "incarnation", 1_700_000_000_000) + 1
        self.started = time.time()
        self.counter = 0
        self.events = []
        self.locks = {}
        self.heartbeats = 0
        if not keep_members:
            self.groups = {}
        self._event("started", None, why="the first of its name")

    # -- what the test does ---------------------------------------------------------------------------------------

    def group(self, name, members=(), exclusive=True):
        self.groups[name] = {
            "exclusive": exclusive,
            "members": {},
            "epoch": self._epoch(),
            "leader": None,
            "handoff": None,
        }
        for member in members:
            self.join(name, member)
        return self.groups[name]

    def join(self, group, member, weight=1, ago=0.0, **fields):
        number = self.random.randrange(10**6)
        self.groups[group]["members"][member] = {
            "id": member,
            "session": f"{member[:8]}-{number}",
            "has_place": True,
            "weight": weight,
            "metadata": None,
            "joined": time.time() - ago,
            "lease": self.random.uniform(8.0, 10.0),
            "leaving": False,
            "waits_for": [],
            "node": f"{self.random.randrange(16**8):08x}" + "0" * 48,
            "pid": 1000 + number % 30_000,
            "watched_by": self.random.choice(["actor", "process", "connection"]),
            "lag": 0.0,
            "heartbeat_age": self.random.uniform(0.0, 2.0),
            **fields,
        }
        session = self.groups[group]["members"][member]["session"]
        self._change("joined", group, member, ago=ago, session=session, why="it asked to join")

    def end(
        self,
        group,
        member,
        what="died",
        why="the kernel of its node closed its connection to Ray, 1 ms after the first word of it",
        ago=0.0,
        **fields,
    ):
        session = self.groups[group]["members"].pop(member)["session"]
        self._change(what, group, member, ago=ago, why=why, session=session, **fields)

    def elect(self, group, member):
        self.groups[group]["leader"] = member
        self._event("leader", group, member, why="the first that asked")

    def hand_off(self, group, seconds, *held_up_by):
        self.groups[group]["handoff"] = {
            "seconds": seconds,
            "held_up_by": list(held_up_by[:5]),
            "members": len(held_up_by),
        }

    def lock(self, name, holder, *waiting):
        self.locks[f"lock:{name}"] = {
            "holders": [{"id": holder, "session": "s", "shared": False, "token": 7, "broken": False}],
            "waiting": list(waiting),
        }

    def fleet(self, name, group, workers=2, **said):
        self.fleets[name] = fleet(name, group, workers, **said)

    def note(self, what, group=None, member=None, **fields):
        self._event(what, group, member, **fields)

    # -- what the page asks ---------------------------------------------------------------------------------------

    async def observe(self, groups, since):
        self.calls.append(list(groups))
        self.heartbeats += 40
        if self.away:
            raise Away(self.away)
        return {
            "status": self._status(),
            "groups": {name: self._details(name) for name in groups},
            "events": self._events_since(since),
            "fleets": self.fleets,
        }

    async def drain(self, group, member_id):
        self._leave("drained", group, member_id, "an operator drained it")

    async def forget(self, group, member_id):
        self._leave("forgotten", group, member_id, "an operator said so")

    # -- insides --------------------------------------------------------------------------------------------------

    def _leave(self, what, group, member_id, why):
        if self.away:
            raise Away(self.away)
        if member_id not in self.groups.get(group, {"members": {}})["members"]:
            raise Refused(f"group {group!r} has no member {member_id!r}")
        self.changes.append((what, group, member_id))
        self.end(group, member_id, what, why)

    def _epoch(self):
        self.counter += 1
        return (self.incarnation, self.counter)

    def _change(self, what, group, member, ago=0.0, **fields):
        self.groups[group]["epoch"] = self._epoch()
        self._event(what, group, member, ago, **fields)

    def _event(self, what, group, member=None, ago=0.0, **fields):
        event = {"group": group, "epoch": None, "member": member, "session": None, "node": None, "pid": None}
        event |= {"why": "", "seconds": None, "lock": None, **fields}
        if group is not None:
            event["epoch"] = self.groups[group]["epoch"]
        self.events.append({"id": len(self.events), "time": time.time() - ago, "what": what, **event})

    def _events_since(self, since):
        missed = max(0, self.gone - since)
        if since > len(self.events):
            since, missed = 0, -1
        since = max(since, self.gone)
        events = self.events[since : since + EVENTS_AT_ONCE]
        upto = since + len(events)
        return {"events": events, "next": upto, "missed": missed, "more": upto < len(self.events)}

    def _status(self):
        members = sum(len(group["members"]) for group in self.groups.values())
        return {
            "name": "partition-actor",
            "namespace": "partition_actor",
            "version": "0.1.0",
            "node": "ab" * 28,
            "pid": 4242,
            "watched": members,
            "settings": Settings().to_dict(),
            "incarnation": self.incarnation,
            "uptime": time.time() - self.started,
            "recovering": False,
            "stalled": False,
            "sessions": members,
            "max_members": 1000,
            "interval": 2.0,
            "ttl": 10.0,
            "heartbeats": self.heartbeats,
            "held": members,
            "late": 0.004,
            "longest_step": 0.0031,
            "events": len(self.events),
            "locks": self.locks,
            "groups": {name: self._summary(name) for name in sorted(self.groups)},
        }

    def _summary(self, name):
        group = self.groups[name]
        return {
            "exclusive": group["exclusive"],
            "recovering": False,
            "epoch": group["epoch"],
            "members": len(group["members"]),
            "watchers": 1,
            "waiting": 0,
            "leader": group["leader"],
            "handoff": group["handoff"],
        }

    def _details(self, name):
        if name not in self.groups:
            return None
        group, now = self.groups[name], time.time()
        return {
            **self._summary(name),
            "members": [
                {
                    **{field: value for field, value in member.items() if field != "joined"},
                    "age": now - member["joined"],
                    "acknowledged": group["epoch"],
                    "share": 0.0,
                }
                for _, member in sorted(group["members"].items())
            ],
            "waiting": [],
        }
