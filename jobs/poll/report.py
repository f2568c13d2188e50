"""Gaps and duplicates, computed from the written samples and not from what agents report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from jobs.poll.store import read_roster, read_samples


@dataclass(frozen=True)
class Report:
    """What the dataset of a run shows."""

    cycles: int
    resources: int  # distinct ids over all cycles
    samples: int
    polls: Mapping[str, int]  # agent -> resources polled, each counted once per cycle
    gaps: Mapping[int, list[str]]  # cycle -> resources that existed throughout it and that nobody polled
    duplicates: Mapping[int, list[str]]  # cycle -> resources polled more than once in it

    def faulty_cycles(self, excused: Collection[int] = ()) -> list[int]:
        """Return the cycles with a gap or a duplicate, except the excused ones."""
        return sorted({*self.gaps, *self.duplicates}.difference(excused))


@dataclass(frozen=True)
class Kill:
    """One agent's SIGKILL."""

    agent: str
    pid: int
    covered_after: float | None  # seconds until the survivors owned everything; None: not within a minute


@dataclass(frozen=True)
class Outcome:
    """The result of a run: its dataset's report and what happened to the agents."""

    report: Report
    kill_cycle: int | None
    kills: Sequence[Kill]
    lost: Sequence[str]  # agents that died or hung, but were not killed on purpose

    @property
    def excused(self) -> frozenset[int]:
        """The kill's cycle and the next one, which may have gaps and duplicates."""
        return frozenset() if self.kill_cycle is None else frozenset({self.kill_cycle, self.kill_cycle + 1})

    @property
    def good(self) -> bool:
        """Whether no other cycle has a gap or a duplicate, and the survivors of every kill owned everything."""
        return not self.report.faulty_cycles(self.excused) and all(
            kill.covered_after is not None for kill in self.kills
        )


def read_report(directory: str | Path) -> Report:
    """Return the report of a run's directory, which ``store.py`` has written."""
    return make_report(read_samples(directory), read_roster(directory))


def make_report(samples: pa.Table, roster: pa.Table) -> Report:
    """Find gaps and duplicates.

    A resource is a duplicate in a cycle in which two agents have samples of it, or one agent has two samples of one of
    its meters.

    Args:
        samples: a table of ``store.SAMPLES``.
        roster: a table of ``store.ROSTER``.
    """
    pollers: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
    duplicates: defaultdict[int, set[str]] = defaultdict(set)
    for cycle, resource, agent, times in _polled(samples):
        pollers[cycle, resource].add(agent)
        if times > 1 or len(pollers[cycle, resource]) > 1:
            duplicates[cycle].add(resource)
    gaps: defaultdict[int, set[str]] = defaultdict(set)
    for row in roster.filter(roster["lived_through"]).to_pylist():
        if (row["cycle"], row["resource_id"]) not in pollers:
            gaps[row["cycle"]].add(row["resource_id"])
    return Report(
        cycles=len(roster["cycle"].unique()),
        resources=len(roster["resource_id"].unique()),
        samples=samples.num_rows,
        polls=Counter(agent for agents in pollers.values() for agent in agents),
        gaps={cycle: sorted(missed) for cycle, missed in sorted(gaps.items())},
        duplicates={cycle: sorted(twice) for cycle, twice in sorted(duplicates.items())},
    )


def _polled(samples: pa.Table) -> list[tuple[int, str, str, int]]:
    keys = ["cycle", "resource_id", "agent"]
    by_meter = samples.group_by([*keys, "meter"]).aggregate([([], "count_all")])
    by_agent = by_meter.group_by(keys).aggregate([("count_all", "max")])
    columns = (by_agent[name].to_pylist() for name in (*keys, "count_all_max"))
    return list(zip(*columns, strict=True))
