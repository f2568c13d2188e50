"""Gaps and duplicates, computed from the samples and not from what agents report."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute


@dataclass(frozen=True)
class Tally:
    """What one cycle of a source shows."""

    source: str
    cycle: int
    resources: int
    samples: int
    polls: Mapping[str, int]  # agent -> resources polled
    gaps: Sequence[str]  # resources that existed throughout it and that none of this run's agents polled
    duplicates: Sequence[str]  # resources polled more than once in it
    moved: int  # resources that another agent polled than in the cycle before


@dataclass(frozen=True)
class Kill:
    """One agent's SIGKILL."""

    agent: str
    cycle: int
    covered_after: float | None  # seconds until the survivors owned everything; None: not within a minute


@dataclass
class Outcome:
    """What a run's cycles show, and what happened to its agents; as large for a year as for a day."""

    recent: deque[Tally] = field(default_factory=lambda: deque(maxlen=2000))  # for plots
    faults: deque[Tally] = field(default_factory=lambda: deque(maxlen=20))  # the last ones with a gap or a duplicate
    gaps: int = 0
    duplicates: int = 0
    faulty: int = 0  # cycles with a gap or a duplicate that is not excused
    cycles: Counter[str] = field(default_factory=Counter)  # by source
    resources: Counter[str] = field(default_factory=Counter)  # by source, of the cycle that had the most
    polls: Counter[str] = field(default_factory=Counter)  # by agent
    samples: int = 0
    excused: set[tuple[str, int]] = field(default_factory=set)  # (source, cycle) around a kill: they may have faults
    kills: list[Kill] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)  # agents that died or hung, but were not killed on purpose
    missing: int = 0  # rows that were written and are no longer in the dataset
    ended_by: str | None = None  # the signal that ended the run before its cycles were over

    def add(self, tally: Tally) -> None:
        """Count a cycle."""
        self.recent.append(tally)
        self.cycles[tally.source] += 1
        self.resources[tally.source] = max(self.resources[tally.source], tally.resources)
        self.polls.update(tally.polls)
        self.samples += tally.samples
        self.gaps += len(tally.gaps)
        self.duplicates += len(tally.duplicates)
        if tally.gaps or tally.duplicates:
            self.faults.append(tally)
            self.faulty += (tally.source, tally.cycle) not in self.excused

    @property
    def good(self) -> bool:
        """Whether no fault counts, the survivors of every kill owned everything, and the run and its data are whole."""
        covered = all(kill.covered_after is not None for kill in self.kills)
        return covered and not (self.faulty or self.missing or self.ended_by)


class Tallier:
    """Tallies cycles; remembers who polled what in the cycle before."""

    def __init__(self) -> None:
        self._pollers: dict[str, dict[str, str]] = {}  # source -> resource -> agent

    def tally(self, source: str, cycle: int, samples: pa.Table, roster: pa.Table) -> Tally:
        """Find gaps and duplicates.

        A resource is a duplicate if two agents have samples of it, or one agent has two samples of one of its meters.

        Args:
            source: its name.
            cycle: 1-based.
            samples: those of the cycle; a table of ``store.SAMPLES``.
            roster: that of the cycle; a table of ``store.ROSTER``.
        """
        keys = ["resource_id", "agent"]
        by_meter = samples.group_by([*keys, "meter"]).aggregate([([], "count_all")])
        by_agent = by_meter.group_by(keys).aggregate([("count_all", "max")]).to_pylist()
        pollers: dict[str, str] = {}
        duplicates = set()
        for row in by_agent:
            resource, agent = row["resource_id"], row["agent"]
            if row["count_all_max"] > 1 or pollers.setdefault(resource, agent) != agent:
                duplicates.add(resource)
        judged = roster.filter(pa.compute.and_(roster["lived_through"], roster["ours"]))["resource_id"].to_pylist()
        before = self._pollers.get(source, {})
        self._pollers[source] = pollers
        return Tally(
            source,
            cycle,
            resources=roster.num_rows,
            samples=samples.num_rows,
            polls=Counter(row["agent"] for row in by_agent),
            gaps=sorted(set(judged).difference(pollers)),
            duplicates=sorted(duplicates),
            moved=sum(before.get(resource, agent) != agent for resource, agent in pollers.items()),
        )
