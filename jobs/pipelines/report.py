"""What a job came to: out of its checkpoints and its published files, not out of what agents say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import pydantic_core

from jobs.pipelines.checkpoints import Reign
from jobs.pipelines.pipeline import make_pipelines
from jobs.pipelines.publishers import read_published
from jobs.pipelines.worker import Job


class Line(NamedTuple):
    """One pipeline in the summary."""

    pipeline: str
    owners: str  # one after the other
    samples: int  # taken, each once
    repeats: int  # received again, after they were published
    mean_lag: float  # seconds from reading a batch's first sample to publishing it
    longest_lag: float  # seconds


class Cost(NamedTuple):
    """What running the pipelines has cost."""

    samples: int  # each counted once for every pipeline that takes it
    seconds: float
    cpu: float  # seconds, over all agents

    def each(self) -> float:
        """CPU seconds by sample."""
        return self.cpu / max(self.samples, 1)


@dataclass(frozen=True)
class Comparison:
    """What one job published beside what another did."""

    same: int  # ids that both have, with equal samples
    missing: Sequence[str]  # that only the other has
    surplus: Sequence[str]  # that only this one has
    different: Sequence[str]  # that both have, and not the same
    repeats: Mapping[str, int]  # sink's path -> samples that are there again

    @property
    def equal(self) -> bool:
        """Whether both have published the same, repeats aside."""
        return not (self.missing or self.surplus or self.different)


def read_lines(job: Job) -> list[Line]:
    """The summary's lines."""
    lines = []
    for name in make_pipelines(job.config):
        checkpoints = job.checkpoints(name)
        lines.append(_line(name, checkpoints.reigns()))
        checkpoints.close()
    return lines


def _line(pipeline: str, reigns: Sequence[Reign]) -> Line:
    samples = sum(reign.samples for reign in reigns)
    return Line(
        pipeline,
        _owners(reigns),
        samples,
        sum(reign.repeats for reign in reigns),
        sum(reign.waited for reign in reigns) / max(samples, 1),
        max((reign.longest for reign in reigns), default=0.0),
    )


def _owners(reigns: Sequence[Reign]) -> str:
    """``a > b`` for each shard, without the ``agent-``; one that stayed through several tokens is named once."""
    chains: dict[str, list[str]] = {}
    for reign in reigns:
        chain = chains.setdefault(reign.shard.partition("#")[2], [])
        owner = reign.owner.removeprefix("agent-")
        if chain[-1:] != [owner]:
            chain.append(owner)
    return ", ".join(f"#{n}: {' > '.join(chain)}" if n else " > ".join(chain) for n, chain in sorted(chains.items()))


def compare(published: Path, expected: Path) -> Comparison:
    """Compares the files of two jobs with the same pipelines, sample for sample."""
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
    """(sink's path, id) -> what tells the sample from any other; repeats that differ are a sample of their own."""
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
