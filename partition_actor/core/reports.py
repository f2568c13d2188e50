"""What a session says of one group, and what the partition actor notes of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from partition_actor.core.messages import Epoch, Members, as_epoch


@dataclass(frozen=True, slots=True)
class Report:
    """What a member says of one group; see ``protocol``."""

    have: Epoch | None
    rev: int
    acked: Epoch | None
    weight: int
    exclusive: bool | None
    metadata: Any
    views: list[tuple[Epoch, Members, bool]]
    wants_in: bool
    watches: bool
    """It only wants to hear of the group."""
    conditional: bool
    """It joins only a group that exists, and under an id that nobody has there."""
    unknown: bool
    """It knows that there is no such group."""
    met: bool
    """The member has had a reply from this partition actor, so that this is no late message from before its time."""
    leased: bool
    """The member's lease of exclusive groups ran when it sent this."""

    @classmethod
    def of(cls, report: dict[str, Any], request: dict[str, Any], incarnation: int, drained: int) -> Report:
        """Read a report off the wire; joins asked for up to `seq` `drained` are over."""
        return cls(
            have=as_epoch(report["have"]),
            rev=report["rev"],
            acked=as_epoch(report["acked"]),
            weight=report["weight"],
            exclusive=report["exclusive"],
            metadata=report.get("metadata"),
            views=[((e[0], e[1]), members, mine) for e, members, mine in report.get("views", ())],
            wants_in=report["want"] == "in" and report["since"] > drained,
            watches=report["want"] == "watch",
            conditional="conditional" in report,
            unknown=report.get("unknown", False),
            met=request["incarnation"] == incarnation,
            leased=request["leased"],
        )


@dataclass(slots=True)
class ReportState:
    """What a session holds of one group by its latest request, and what came of it beside the view."""

    have: Epoch | None
    rev: int
    wants_in: bool = False
    watches: bool = False
    unknown: bool = False
    state: dict[str, Any] | None = None
    """What the reply says instead of a view."""
    resync: bool = False
    want_views: bool = False
    rejoined: bool = False
