"""A pipeline is a source with one of its sinks: samples go in, samples to publish come out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import xxhash

from jobs.driver.meters import Meters
from jobs.pipelines.definitions import Publisher, Sink, Source
from jobs.pipelines.samples import Sample
from jobs.pipelines.transformers import Aggregator, State, Step, make_step


class SeriesKey(NamedTuple):
    """Identifies the state of one step for one series: the samples of one meter of one resource in one input."""

    input: str
    step: str  # <sink's path>/<index>
    meter: str
    resource_id: str


@dataclass
class Memory:
    """The states of a pipeline's series, and the keys that have changed."""

    states: dict[SeriesKey, State] = field(default_factory=dict)
    changed: set[SeriesKey] = field(default_factory=set)

    def put(self, key: SeriesKey, state: State | None) -> None:
        """Store a state; None deletes it."""
        if state is None:
            if self.states.pop(key, None) is None:
                return
        else:
            self.states[key] = state
        self.changed.add(key)


Published = dict[str, list[Sample]]
"""Samples to publish, by the path of the sink."""


class Pipeline:
    """Runs a source's samples through one of its sinks and the sinks that it feeds."""

    def __init__(self, source: Source, sink: Sink, sinks: Mapping[str, Sink]) -> None:
        self.name = f"{source.name}:{sink.name}"
        self.shards = source.shards
        self._taken = Meters(source.meters)
        self._root = _Node(self.name, sink, sinks)

    def takes(self, meter: str) -> bool:
        """Return whether the source takes this meter."""
        return self._taken.match(meter)

    @property
    def flushes(self) -> bool:
        """Whether samples may come out when an input ends."""
        return any(isinstance(step, Aggregator) for node in self._root.walk() for step in node.steps)

    @property
    def publishers(self) -> dict[str, tuple[Publisher, ...]]:
        """The publishers by the path of their sink: ``source:sink``, ``source:sink:fed``, …"""
        return {node.path: node.publishers for node in self._root.walk() if node.publishers}

    def shard_of(self, resource_id: str) -> str:
        """Return the key of the shard that has this resource; agents own keys."""
        if self.shards == 1:
            return self.name
        return f"{self.name}#{xxhash.xxh3_64_intdigest(resource_id.encode()) % self.shards}"

    @property
    def keys(self) -> list[str]:
        """The keys of all shards."""
        return [self.name] if self.shards == 1 else [f"{self.name}#{n}" for n in range(self.shards)]

    def run(self, input_name: str, samples: Iterable[Sample], memory: Memory) -> Published:
        """Run samples of one input, in the input's order; return what to publish."""
        out: Published = {}
        self._root.take(input_name, samples, memory, out)
        return out

    def flush(self, input_name: str, memory: Memory) -> Published:
        """Return what to publish at the end of an input; delete the state that was held back for it."""
        out: Published = {}
        self._root.flush(input_name, memory, out)
        return out


class _Node:
    def __init__(self, path: str, sink: Sink, sinks: Mapping[str, Sink]) -> None:
        self.path = path
        self.publishers: tuple[Publisher, ...] = sink.publishers
        self.steps: list[Step] = [make_step(each) for each in sink.transformers]
        self._step_names = [f"{path}/{n}" for n in range(len(self.steps))]
        self._fed = [_Node(f"{path}:{name}", sinks[name], sinks) for name in sink.sinks]

    def walk(self) -> Iterator[_Node]:
        yield self
        for node in self._fed:
            yield from node.walk()

    def take(self, input_name: str, samples: Iterable[Sample], memory: Memory, out: Published) -> None:
        for n in range(len(self.steps)):
            samples = self._step(n, input_name, samples, memory)
        self._emit(input_name, samples, memory, out)

    def flush(self, input_name: str, memory: Memory, out: Published) -> None:
        passing: list[Sample] = []
        for n, (step, name) in enumerate(zip(self.steps, self._step_names, strict=True)):
            passing = list(self._step(n, input_name, passing, memory))
            held = [key for key in memory.states if key.input == input_name and key.step == name]
            for key in sorted(held):
                if flushed := step.flush(memory.states[key]):
                    passing += flushed
                    memory.put(key, None)
        self._emit(input_name, passing, memory, out)
        for node in self._fed:
            node.flush(input_name, memory, out)

    def _emit(self, input_name: str, samples: Iterable[Sample], memory: Memory, out: Published) -> None:
        through = list(samples)
        if not through:
            return
        if self.publishers:
            out.setdefault(self.path, []).extend(through)
        for node in self._fed:
            node.take(input_name, through, memory, out)

    def _step(self, n: int, input_name: str, samples: Iterable[Sample], memory: Memory) -> Iterator[Sample]:
        step, name = self.steps[n], self._step_names[n]
        if not step.remembers:
            for sample in samples:
                yield from step.take(None, sample)[1]
            return
        states = memory.states
        for sample in samples:
            key = SeriesKey(input_name, name, sample.name, sample.resource_id)
            state, through = step.take(states.get(key), sample)
            memory.put(key, state)
            yield from through


def make_pipelines(config: Any) -> dict[str, Pipeline]:
    """Return the pipelines of a ``PipelinesConfig`` by name."""
    sinks = {sink.name: sink for sink in config.sinks}
    made = [Pipeline(source, sinks[name], sinks) for source in config.sources for name in source.sinks]
    return {pipeline.name: pipeline for pipeline in made}
