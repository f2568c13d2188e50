"""The settings of a partition actor, with their units, defaults and reasons.

Pass them once, to ``deploy(settings=...)``. Members have no settings of their own: the partition actor tells each of
them its lease and when its next heartbeat is due.
"""

from __future__ import annotations

import operator
import os
import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from partition_actor.errors import InvalidSettings
from partition_actor.yaml_models import Document, Rule, fill

# Actor calls cannot keep times below a millisecond, and nobody means to wait longer than a day.
Seconds = Annotated[float, Field(ge=0.001, le=86_400.0)]


class Settings(BaseModel):
    """The settings of a partition actor; immutable, and checked as a whole on construction.

    All arguments are optional and keyword-only. The same names are the keys of a YAML file for ``Settings.load``.
    To change one field: ``Settings(**{**settings.to_dict(), "ttl": 5.0})``.

    Raises:
        InvalidSettings: a field is unknown, has the wrong type (``True`` and ``"5"`` are no numbers, but an ``int`` is
            a ``float``) or is out of bounds, or two fields clash. The message has a line for every problem.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    ttl: Seconds = 10.0
    """Seconds. The lease: how long a member may act on its view, counted from sending an answered heartbeat.

    More than 2 * hold, so that one lost heartbeat costs no member its keys. A longer lease leaves keys unserved for
    longer if only silence tells of a death; a shorter one expires workers that hold the GIL for a few seconds.
    """

    hold: Seconds = 2.0
    """Seconds. The heartbeat interval: how long the partition actor holds a heartbeat when there is no news.

    News is sent at once, so a shorter hold speeds up nothing but recovery from a lost reply. At 2 s a member costs the
    partition actor half a call a second, and a lease spans five heartbeats.
    """

    clock_rate_margin: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.02
    """Fraction of the ttl that the partition actor waits beyond it before it expires a lease.

    It covers clocks that run at different rates. NTP slews a clock by at most 0.05 % and crystals drift by less. 2 % is
    far more than both, and costs 0.2 s at the default ttl.
    """

    handoff_timeout: Seconds = 10.0
    """Seconds. In an exclusive group: how long an old owner may take to release the keys that it lost.

    After that the partition actor stops renewing the old owner's lease. At least hold. The default is one ttl: enough
    to finish a unit of work, while a key pauses for two leases at worst.
    """

    publish_window: Annotated[float, Field(ge=0.0, le=86_400.0)] = 0.02
    """Seconds. Membership changes within this window are published as one epoch; 0 publishes each by itself.

    Less than hold. The first change after a quiet period is published at once; no worker notices 20 ms. In a large
    group the window is as long as it takes to tell every member of an epoch, at ``max_heartbeats_per_second``.
    """

    max_members: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Sessions, over all groups. The most that the partition actor serves; one more join raises ``GroupFull``.

    It determines the actor's ``max_concurrency``, because the actor holds one call of every member. A held call takes
    about 65 kB, so 1,000 members can cost the actor 65 MB.
    """

    max_heartbeats_per_second: Annotated[float, Field(ge=1.0, le=1_000_000.0)] = 500.0
    """Heartbeats a second, over all members. With many members the interval and ttl grow to stay below it.

    A call costs an actor about 0.65 ms of one core on a small machine. 500 take a third of that core and leave room for
    joins and news.
    """

    vnodes: Annotated[int, Field(ge=1, le=100_000)] = 160
    """Virtual nodes on the hash ring for a member of weight 1. More balance better, but cost memory and build time.

    160 is what ketama and uhashring use: the most loaded of 100 members has about a quarter more than its share.
    """

    hash_function: Literal["xxh3", "md5"] = "xxh3"
    """Places keys and virtual nodes on the hash ring: 64-bit xxh3, or ``md5`` as in uhashring's default.

    xxh3 is many times faster. Use md5 to share keys with programs that already use uhashring.
    """

    pin_to_head: bool = True
    """Whether the actor must run on Ray's head node.

    Without its head there is no cluster, whereas an autoscaler may remove any worker node and the partition actor with
    it. Turn it off if the head must not run actors.
    """

    new_cluster_wait: Annotated[float, Field(ge=0.0, le=86_400.0)] = 0.0
    """Seconds. How long the first partition actor of its name in a Ray cluster waits before it grants a lease.

    A head that is started again without GCS fault tolerance is a new cluster: its GCS knows nothing of the leases that
    members on other hosts still hold by the former one. Set it to the ttl then, or to ``max_ttl`` if the interval grows
    with the members. With GCS fault tolerance, and where all hosts end together, 0 is right.
    """

    call_timeout: Seconds = 5.0
    """Seconds. How long a user's call waits for the partition actor before it raises ``PartitionActorUnavailable``.

    Ray restarts an actor in one or two seconds, so a call survives a crash of the partition actor.
    """

    node_proof_interval: Seconds = 1.0
    """Seconds. How often the partition actor asks Ray's GCS whether its own node still counts as alive.

    It grants no lease beyond the last confirmation plus ttl. Less than ttl / 2, so that one lost answer shortens no
    lease. Asking costs about a millisecond.
    """

    leave_draining_nodes: bool = True
    """Whether members on a node that Ray is draining hand their keys over at once, if their group has others.

    Such a node is about to end. Ray is asked at every node_proof_interval. Turn it off if members are to go on until
    their node ends; a change while the partition actor runs brings back those that have left.
    """

    metrics: bool = True
    """Whether the partition actor and its routers record metrics.

    They cost less than 1 % of a core. Turn them off if there are so many groups that Prometheus should not have a time
    series for each.
    """

    if not TYPE_CHECKING:  # a type checker sees the fields as keywords, as pydantic makes them

        def __init__(self, /, **data: Any) -> None:
            if problems := fill(self, data, _RULES):
                raise InvalidSettings("\n".join(map(str, problems)))

    @property
    def max_ttl(self) -> float:
        """Seconds: the longest lease, which is that with ``max_members`` sessions."""
        return self.ttl_for(self.max_members)

    def interval_for(self, members: int) -> float:
        """Seconds: the heartbeat interval for so many sessions.

        It is ``hold``, or as much longer as ``max_heartbeats_per_second`` demands; Nomad's servers do the same.
        """
        return max(self.hold, members / self.max_heartbeats_per_second)

    def ttl_for(self, members: int) -> float:
        """Seconds: the lease for so many sessions, which is ``ttl`` scaled as the interval is."""
        return self.ttl * (self.interval_for(members) / self.hold)

    def window_for(self, members: int) -> float:
        """Seconds: the publish window of a group of so many members; 0 stays 0."""
        return max(self.publish_window, members / self.max_heartbeats_per_second) if self.publish_window else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict of builtins, for a Ray call."""
        return self.model_dump()

    def changed(self, changes: Mapping[str, Any]) -> Settings:
        """These settings with `changes`, which a partition actor that runs can follow without moving a key.

        Raises ``InvalidSettings`` as the class does, and for each field that cannot change while it runs.
        """
        after = self.from_dict({**self.to_dict(), **changes} if isinstance(changes, Mapping) else changes)
        fixed = [name for name in FIXED if getattr(after, name) != getattr(self, name)]
        if fixed:
            problems = (
                f"{name}: got {getattr(after, name)!r}, expected {getattr(self, name)!r} until the next deploy(): "
                f"{FIXED[name]}"
                for name in fixed
            )
            raise InvalidSettings("\n".join(problems))
        return after

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Settings:
        """Return the settings of a dict from ``to_dict``; missing fields get their defaults.

        Raises ``InvalidSettings`` as the class does, and if ``data`` is not a mapping with ``str`` keys.
        """
        if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
            raise InvalidSettings(f"settings: got {reprlib.repr(data)}, expected a mapping of names to values")
        return cls(**data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Settings:
        """Read a YAML file: one mapping of field names to values, or nothing. Missing fields get their defaults.

        Raises:
            InvalidSettings: the file cannot be read, is not a YAML mapping or has a field twice, or the class would
                refuse the values. Each problem is a line ``file:line: field: got ..., expected ...``.
        """
        document = Document(path, example="ttl: 10")
        settings = cls.__new__(cls)
        document.refuse(fill(settings, document.values, _RULES))
        return settings


UNKNOWN_TO_MINOR_0 = ("leave_draining_nodes", "new_cluster_wait")
"""The fields that a member whose messages have minor version 0 would refuse. Later versions ignore what they do not
know."""


def to_tell(settings: Settings) -> dict[str, dict[str, Any]]:
    """The settings as the answer of ``hello`` has them, for `told`."""
    fields = settings.to_dict()
    later = {name: fields.pop(name) for name in UNKNOWN_TO_MINOR_0}
    return {"settings": fields, "later_settings": later}


def told(hello: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the settings in an answer of ``hello``, as far as this version knows them."""
    fields = {**hello["settings"], **hello.get("later_settings", {})}
    return {name: value for name, value in fields.items() if name in Settings.model_fields}


MOVES_KEYS = ("vnodes", "hash_function")
"""The fields that say which keys are whose."""

FIXED = {
    **dict.fromkeys(MOVES_KEYS, "keys would move"),
    "max_members": "Ray fixes how many calls an actor holds when it starts it",
    "pin_to_head": "Ray places an actor when it starts it",
    "new_cluster_wait": "the wait is when a partition actor starts",
    "call_timeout": "each member has its own",
}
"""The fields that cannot change while a partition actor runs, and why."""

_RULES = (
    Rule("ttl", "hold", lambda ttl, hold: ttl > 2 * hold, "more than 2 * hold"),
    Rule("handoff_timeout", "hold", operator.ge, "at least hold"),
    Rule("publish_window", "hold", operator.lt, "less than hold"),
    Rule("node_proof_interval", "ttl", lambda interval, ttl: interval < ttl / 2, "less than ttl / 2"),
)
