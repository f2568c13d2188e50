"""Transformers: pure functions of a series' state and its next sample.

A series is the samples of one meter of one resource in one input, in the input's order. So the output depends only on
the input: not on the agent that computes it, on batches or on other inputs. The rules are those of ceilometer's
``transformer/conversions.py``.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from typing import Any, Protocol, cast

from jobs.pipelines import definitions
from jobs.pipelines.samples import Kind, Sample

State = list[Any]
"""A step's state for one series: builtins that survive JSON unchanged."""

Outcome = tuple[Sample, ...]
"""The samples that come out of a step."""


class Step(Protocol):
    """One transformer of a sink."""

    remembers: bool
    """Whether it has state; otherwise ``take`` gets None."""

    def take(self, state: State | None, sample: Sample) -> tuple[State | None, Outcome]:
        """Return the state after the sample, and what comes out."""

    def flush(self, state: State) -> Outcome:
        """Return what comes out at the end of the series; its state is deleted then."""


def make_step(transformer: Any) -> Step:
    """Create the step that a transformer in the YAML defines."""
    if isinstance(transformer, definitions.RateOfChange):
        return RateOfChange(transformer.parameters)
    if isinstance(transformer, definitions.Delta):
        return Delta(transformer.parameters)
    if isinstance(transformer, definitions.UnitConversion):
        return UnitConversion(transformer.parameters)
    return Aggregator(transformer.parameters)


class _Change(ABC):
    """The change since the series' last sample. The first sample has none; a sample older than the last is dropped.

    A cumulative volume that fell has restarted from 0.
    """

    remembers = True

    def __init__(self, target: definitions.Target) -> None:
        self._target = target

    def take(self, state: State | None, sample: Sample) -> tuple[State | None, Outcome]:
        now = [sample.volume, sample.at]
        if state is None:
            return now, ()
        volume, at = state
        if sample.at < at:
            return state, ()
        return now, self._outcome(_growth(volume, sample), sample.at - at, sample)

    def flush(self, state: State) -> Outcome:
        return ()

    @abstractmethod
    def _outcome(self, change: float, passed: float, sample: Sample) -> Outcome:
        """Return what comes out for a change of the volume over ``passed`` seconds up to the sample."""


class RateOfChange(_Change):
    """The change per second; 0 for a sample with the same time as the last one."""

    def __init__(self, parameters: definitions.RateParameters) -> None:
        super().__init__(parameters.target)

    def _outcome(self, change: float, passed: float, sample: Sample) -> Outcome:
        return (_apply(self._target, sample, change / passed if passed else 0.0, "gauge"),)


class Delta(_Change):
    """The change; with ``growth_only``, only if it is not negative."""

    def __init__(self, parameters: definitions.DeltaParameters) -> None:
        super().__init__(parameters.target)
        self._growth_only = parameters.growth_only

    def _outcome(self, change: float, passed: float, sample: Sample) -> Outcome:
        if self._growth_only and change < 0:
            return ()
        return (_apply(self._target, sample, change, "delta"),)


class UnitConversion:
    """Changes the scale, unit or name."""

    remembers = False

    def __init__(self, parameters: definitions.ConversionParameters) -> None:
        self._pattern = re.compile(parameters.source.name)
        self._unit = parameters.source.unit
        self._target = parameters.target
        self._names: dict[str, str | None] = {}  # meter -> its new name, or None if the source does not match it

    def take(self, state: State | None, sample: Sample) -> tuple[State | None, Outcome]:
        if self._unit is not None and self._unit != sample.unit:
            return None, (sample,)
        name = self._name(sample.name)
        if name is None:
            return None, (sample,)
        converted = _apply(self._target, sample, sample.volume, cast(Kind, sample.type))
        return None, (converted._replace(name=name),)

    def flush(self, state: State) -> Outcome:
        return ()

    def _name(self, meter: str) -> str | None:
        if meter not in self._names:
            found = self._pattern.fullmatch(meter)
            template = self._target.name
            self._names[meter] = found and (meter if template is None else found.expand(template))
        return self._names[meter]


class Aggregator:
    """One sample for several of a series; its id is the first one's id and their number."""

    remembers = True

    def __init__(self, parameters: definitions.AggregatorParameters) -> None:
        self._size = parameters.size or math.inf
        self._window = parameters.window
        self._function = parameters.function
        self._target = parameters.target

    def take(self, state: State | None, sample: Sample) -> tuple[State | None, Outcome]:
        window = None if self._window is None else math.floor(sample.at / self._window)
        done: Outcome = ()
        if state is not None and state[0] != window:
            done, state = self.flush(state), None
        if state is None:
            state = [window, sample.id, 1, sample.volume, list(sample)]
        else:
            _, first, count, held, _ = state
            state = [window, first, count + 1, self._combine(held, sample), list(sample)]
        if state[2] >= self._size:
            return None, (*done, *self.flush(state))
        return state, done

    def flush(self, state: State) -> Outcome:
        _, first, count, volume, last = state
        sample = Sample(*last)._replace(id=f"{first}+{count}")
        function = self._function_for(sample)
        if function == "mean":
            volume /= count
        elif function == "count":
            volume = float(count)
        return (_apply(self._target, sample, volume, cast(Kind, sample.type)),)

    def _combine(self, held: float, sample: Sample) -> float:
        function = self._function_for(sample)
        if function in ("mean", "sum"):
            return held + sample.volume
        if function in ("min", "max"):
            return min(held, sample.volume) if function == "min" else max(held, sample.volume)
        return sample.volume

    def _function_for(self, sample: Sample) -> str:
        return self._function or {"gauge": "mean", "delta": "sum", "cumulative": "last"}[sample.type]


def _growth(before: float, sample: Sample) -> float:
    restarted = sample.type == "cumulative" and sample.volume < before
    return sample.volume if restarted else sample.volume - before


def _apply(target: definitions.Target, sample: Sample, volume: float, kind: Kind) -> Sample:
    return Sample(
        sample.id,
        target.name or sample.name,
        target.type or kind,
        sample.unit if target.unit is None else target.unit,
        volume * target.scale,
        sample.resource_id,
        sample.timestamp,
        sample.metadata,
        sample.at,
    )
