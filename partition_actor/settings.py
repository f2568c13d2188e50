"""The settings of a partition actor: their units, their defaults and why, and how they are read from YAML.

They are given once, to ``deploy(settings=...)``. Members need none of their own: the partition actor tells
each of them its lease and when its next heartbeat is due.
"""

from __future__ import annotations

import operator
import os
import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from partition_actor.errors import InvalidSettings
from partition_actor.yaml_models import Document, Problem, Rule, clashes, explain

# A millisecond is the finest that an actor call can keep; a day is longer than anybody means to wait.
Seconds = Annotated[float, Field(ge=0.001, le=86_400.0)]


class Settings(BaseModel):
    """What a partition actor runs by; immutable, and checked as a whole when it is made.

    Every argument is optional and takes a keyword only. The same names are the keys of a YAML file for
    ``Settings.load``. To change one field: ``Settings(**{**settings.to_dict(), "ttl": 5.0})``.

    Raises:
        InvalidSettings: an unknown field, a wrong type (``True`` is no number and ``"5"`` neither; an
            ``int`` is taken where a ``float`` is), a value out of its bounds, or two fields that cannot
            go together. Its message has a line for every problem found.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    ttl: Seconds = 10.0
    """Seconds. The lease: how long a member may act on its view, from when it sent an answered heartbeat.

    More than 2 * hold, so that one lost heartbeat costs nobody its keys. It is also the longest that the
    keys of a member stay unserved when its death can be learnt in no quicker way, and a worker that holds
    its GIL for a few seconds must not be taken for a dead one: 10 s is between the two.
    """

    hold: Seconds = 2.0
    """Seconds. The heartbeat interval: how long the partition actor holds a heartbeat when there is no news.

    News is answered at once, so a shorter hold makes nothing faster but a lost reply's repeat. At 2 s a
    member costs the partition actor half a call a second, and five heartbeats fit in a lease.
    """

    clock_rate_margin: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.02
    """Fraction of the ttl that the partition actor waits beyond it before it expires a lease.

    It covers clocks of differing rates. NTP slews a clock by 0.05 % at most and a crystal drifts by less;
    2 % is far beyond both, and costs 0.2 s at the default ttl.
    """

    handoff_timeout: Seconds = 10.0
    """Seconds. In an exclusive group: how long an old owner may take to let its lost keys go.

    After it the partition actor stops renewing the old owner's lease. At least hold. The default is one ttl:
    enough to finish a unit of work, and a key pauses for two leases at the worst.
    """

    publish_window: Annotated[float, Field(ge=0.0, le=86_400.0)] = 0.02
    """Seconds. Changes of membership within it are published together, as one epoch; 0 publishes each alone.

    Less than hold. The first change after a quiet time is published at once, whatever the window. 20 ms is below what
    a worker notices. In a large group the window grows, as an epoch is news for each of its members: it lasts until
    ``max_heartbeats_per_second`` could have brought that news to all.
    """

    max_members: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Sessions, over all groups. The most that the partition actor serves; one more join raises ``GroupFull``.

    It sizes the actor's ``max_concurrency``, since every member has one call held there. A held call takes
    about 65 kB: 1,000 members may cost the actor 65 MB.
    """

    max_heartbeats_per_second: Annotated[float, Field(ge=1.0, le=1_000_000.0)] = 500.0
    """Heartbeats a second, over all members. With more members the interval and ttl grow to stay below it.

    A call costs an actor about 0.65 ms of one core on a small machine, so 500 take a third of it and leave
    room for joins and for news.
    """

    vnodes: Annotated[int, Field(ge=1, le=100_000)] = 160
    """Points on the ring for a member of weight 1. More balance better, and cost memory and time to build.

    160 is what ketama and uhashring use: the fullest of 100 members has about a quarter above its share.
    """

    hash_function: Literal["xxh3", "md5"] = "xxh3"
    """Where keys and points lie on the ring: 64 bits of xxh3, or ``md5`` as uhashring has it by default.

    xxh3 is many times faster; md5 is for sharing keys with programs that already use uhashring.
    """

    pin_to_head: bool = True
    """Whether the actor must run on Ray's head node.

    The head is the one node without which there is no cluster at all; elsewhere the partition actor would die
    with a worker node that an autoscaler takes away. Off, for a head that must not run any actor.
    """

    call_timeout: Seconds = 5.0
    """Seconds. The longest that a user's call waits for the partition actor before ``PartitionActorUnavailable``.

    Ray restarts an actor in one or two seconds, so a call outlives a crash of the coordinator.
    """

    node_proof_interval: Seconds = 1.0
    """Seconds. How often the partition actor asks Ray's GCS whether its own node still counts as alive.

    It grants no lease beyond the last proof plus ttl. Less than ttl / 2, so that one lost answer shortens
    no lease; asking costs about a millisecond.
    """

    if not TYPE_CHECKING:  # a type checker sees the fields as keywords, as pydantic makes them

        def __init__(self, /, **data: Any) -> None:
            if problems := self._fill(data):
                raise InvalidSettings("\n".join(map(str, problems)))

    @property
    def max_ttl(self) -> float:
        """Seconds: the longest lease that the pace can lead to, that of ``max_members`` sessions."""
        return self.ttl_for(self.max_members)

    def interval_for(self, members: int) -> float:
        """Return the heartbeat interval, in seconds, at which so many sessions keep to the pace.

        It is ``hold`` or, with more sessions, as long as it takes to stay at ``max_heartbeats_per_second``.
        The rule is that of Nomad's servers (``max_heartbeats_per_second`` in its server configuration).
        """
        return max(self.hold, members / self.max_heartbeats_per_second)

    def ttl_for(self, members: int) -> float:
        """Return the lease, in seconds, with so many sessions: ``ttl`` grown as the interval has grown."""
        return self.ttl * (self.interval_for(members) / self.hold)

    def window_for(self, members: int) -> float:
        """Return the publish window, in seconds, of a group with so many members; 0 stays 0."""
        return max(self.publish_window, members / self.max_heartbeats_per_second) if self.publish_window else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return every field as a builtin, by its name: what crosses a Ray call."""
        return self.model_dump()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Settings:
        """Return the settings that ``to_dict`` made ``data`` of; a field that is left out has its default.

        Raises:
            InvalidSettings: as the class does, and for anything but a mapping of ``str`` to values.
        """
        if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
            raise InvalidSettings(f"settings: got {reprlib.repr(data)}, expected a mapping of names to values")
        return cls(**data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Settings:
        """Read the settings from a YAML file: one mapping of field names to values.

        A field that is left out has its default, and so has every field of an empty file.

        Raises:
            InvalidSettings: the file cannot be read, is not YAML, is no mapping or has a field twice, or for
                what the class refuses. Each problem is a line ``file:line: field: got ..., expected ...``.
        """
        document = Document(path, example="ttl: 10")
        settings = cls.__new__(cls)
        document.refuse(settings._fill(document.values))
        return settings

    def _fill(self, data: Mapping[str, Any]) -> list[Problem]:
        """Set the fields, or return every reason why not."""
        problems = []
        try:
            super().__init__(**data)
        except ValidationError as error:
            problems = explain(error, type(self))
        return problems + clashes(_RULES, type(self), data, problems)


_RULES = (
    Rule("ttl", "hold", lambda ttl, hold: ttl > 2 * hold, "more than 2 * hold"),
    Rule("handoff_timeout", "hold", operator.ge, "at least hold"),
    Rule("publish_window", "hold", operator.lt, "less than hold"),
    Rule("node_proof_interval", "ttl", lambda interval, ttl: interval < ttl / 2, "less than ttl / 2"),
)
