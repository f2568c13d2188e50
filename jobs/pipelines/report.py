"""The result of a job, from its checkpoints and published files and not from what agents report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import pydantic_core

from jobs.pipelines.checkpoints import Ownership
from jobs.pipelines.pipeline import make_pipelines
from jobs.pipelines.publishers import read_published
from jobs.pipelines.worker import Job


class Line(NamedTuple):
    """One pipeline in the summary."""

    pipeline: str
    owners: str  # in order
    samples: int  # without repeats
    repeats: int  # received after they had been published
    mean_lag: float  # seconds from reading a batch's first sample to publishing it
    longest_lag: float  # seconds


class Cost(NamedTuple):
    """What running the pipelines cost."""

    samples: int  # counted once for every pipeline that takes it
    seconds: float
    cpu: float  # CPU seconds, over all agents

    def each(self) -> float:
        """Return the CPU seconds per sample."""
        return self.cpu / max(self.samples, 1)


@dataclass(frozen=True)
class Comparison:
    """What one job published, compared with another."""

    same: int  # ids with equal samples in both
    missing: Sequence[str]  # ids that only the other has
    surplus: Sequence[str]  # ids that only this one has
    different: Sequence[str]  # ids with different samples
    repeats: Mapping[str, int]  # sink's path -> number of repeated samples

    @property
    def equal(self) -> bool:
        """Whether both have published the same, except for repeats."""
        return not (self.missing or self.surplus or self.different)


def read_lines(job: Job) -> list[Line]:
    """Return the lines of the summary, one per pipeline."""
    lines = []
    for name in make_pipelines(job.config):
        checkpoints = job.checkpoints(name)
        lines.append(_line(name, checkpoints.ownerships()))
        checkpoints.close()
    return lines


def _line(pipeline: str, ownerships: Sequence[Ownership]) -> Line:
    samples = sum(ownership.samples for ownership in ownerships)
    return Line(
        pipeline,
        _owners(ownerships),
        samples,
        sum(ownership.repeats for ownership in ownerships),
        sum(ownership.waited for ownership in ownerships) / max(samples, 1),
        max((ownership.longest for ownership in ownerships), default=0.0),
    )


def _owners(ownerships: Sequence[Ownership]) -> str:
    """Return ``a > b`` for each shard, without ``agent-``; an owner under successive tokens is named once."""
    chains: dict[str, list[str]] = {}
    for ownership in ownerships:
        chain = chains.setdefault(ownership.shard.partition("#")[2], [])
        owner = ownership.owner.removeprefix("agent-")
        if chain[-1:] != [owner]:
            chain.append(owner)
    return ", ".join(f"#{n}: {' > '.join(chain)}" if n else " > ".join(chain) for n, chain in sorted(chains.items()))


def compare(published: Path, expected: Path) -> Comparison:
    """Compare the files of two jobs with the same pipelines, sample by sample."""
    counts: Counter[tuple[str, str]] = Counter()
    got, wanted = _digests(published, counts), _digests(expected, Counter())
    both = got.keys() & wanted.keys()
    repeats: Counter[str] = Counter()
    for (path, _), count in counts.items():
        repeats[path] += count - 1
    return Comparison(
        same=sum(got[key] == wanted[key] for key in both),
        missing=_named(wanted.keys() - both),
        surplus=_named(got.keys() - both),
        different=_named({key for key in both if got[key] != wanted[key]}),
        repeats=repeats,
    )


def _digests(published: Path, counts: Counter[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
    """Return (sink's path, id) -> digest of the sample, and count each; repeats that differ become extra entries."""
    found: dict[tuple[str, str], bytes] = {}
    for path, records in read_published(published):
        for record in records:
            key = (path, record["id"])
            digest = blake2b(pydantic_core.to_json(record), digest_size=12).digest()
            counts[key] += 1
            if found.setdefault(key, digest) != digest:
                found[path, f"{record['id']}, published again as another sample"] = digest
    return found


def _named(keys: set[tuple[str, str]]) -> list[str]:
    return sorted(f"{path} {sample}" for path, sample in keys)
