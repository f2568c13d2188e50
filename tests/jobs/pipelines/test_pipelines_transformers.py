import json
import math

import pytest

from jobs.pipelines.definitions import (
    AggregatorParameters,
    ConversionParameters,
    DeltaParameters,
    Origin,
    RateParameters,
    Target,
)
from jobs.pipelines.transformers import Aggregator, Delta, RateOfChange, UnitConversion


def run(step, samples):
    """What comes out, with the state written and read in between, as an owner's change does."""
    state, out = None, []
    for sample in samples:
        state, through = step.take(state, sample)
        state = None if state is None else json.loads(json.dumps(state))
        out += through
    return out, state


def volumes(step, samples):
    return [sample.volume for sample in run(step, samples)[0]]


@pytest.fixture
def rate():
    return RateOfChange(RateParameters())


def test_a_rate_is_the_change_per_second_and_a_gauge(rate, sample):
    out, _ = run(rate, [sample(10, 0), sample(30, 2), sample(30, 3), sample(31, 3.5)])
    assert [(s.id, s.volume, s.type) for s in out] == [
        ("s2", 10.0, "gauge"),
        ("s3", 0.0, "gauge"),
        ("s3.5", 2.0, "gauge"),
    ]


def test_a_cumulative_volume_that_fell_has_restarted_from_0(rate, sample):
    assert volumes(rate, [sample(100, 0), sample(6, 2)]) == [3.0]


def test_a_gauge_may_fall(rate, sample):
    assert volumes(rate, [sample(100, 0, type="gauge"), sample(90, 2, type="gauge")]) == [-5.0]


def test_an_older_sample_is_dropped_and_one_with_the_same_time_has_rate_0(rate, sample):
    assert volumes(rate, [sample(1, 5), sample(9, 4), sample(3, 5), sample(4, 6)]) == [0.0, 1.0]


def test_the_target_names_scales_and_types(sample):
    step = RateOfChange(RateParameters(target=Target(name="util", unit="%", type="delta", scale=100.0)))
    (out,), _ = run(step, [sample(0, 0, metadata={"a": 1}), sample(1, 4, metadata={"a": 2})])
    assert (out.name, out.unit, out.type, out.volume, out.metadata, out.resource_id) == (
        "util",
        "%",
        "delta",
        25.0,
        {"a": 2},
        "r",
    )


def test_a_delta_is_the_change(sample):
    samples = [sample(5, 0, type="gauge"), sample(7, 1, type="gauge"), sample(4, 2, type="gauge"), sample(9, 1)]
    assert volumes(Delta(DeltaParameters()), samples) == [2.0, -3.0]
    assert volumes(Delta(DeltaParameters(growth_only=True)), samples) == [2.0]


def test_a_conversion_applies_to_its_names_and_unit(sample):
    step = UnitConversion(
        ConversionParameters(source=Origin(name=r"disk\.(\w+)", unit="B"), target=Target(name=r"d.\1.kB", scale=0.001))
    )
    out, state = run(
        step, [sample(3000, name=n, unit=u) for n, u in (("disk.read", "B"), ("a.disk.x", "B"), ("disk.r", "s"))]
    )
    assert [(s.name, s.volume, s.type) for s in out] == [
        ("d.read.kB", 3.0, "cumulative"),
        ("a.disk.x", 3000.0, "cumulative"),
        ("disk.r", 3000.0, "cumulative"),
    ]
    assert state is None


@pytest.mark.parametrize(
    ("kind", "function", "expected"),
    [
        ("gauge", None, 3.0),
        ("delta", None, 9.0),
        ("cumulative", None, 2.0),
        ("gauge", "sum", 9.0),
        ("gauge", "min", 2.0),
        ("gauge", "max", 4.0),
        ("gauge", "last", 2.0),
        ("gauge", "count", 3.0),
        ("delta", "mean", 3.0),
    ],
)
def test_an_aggregate_of_size_samples(sample, kind, function, expected):
    step = Aggregator(AggregatorParameters(size=3, function=function))
    samples = [sample(v, at, type=kind) for at, v in enumerate((4, 3, 2, 7))]
    (out,), rest = run(step, samples)
    assert (out.id, out.volume, out.at) == ("s0+3", expected, 2.0)
    (flushed,) = step.flush(rest)
    assert (flushed.id, flushed.at) == ("s3+1", 3.0)


def test_an_aggregate_of_a_window_ends_with_the_first_sample_of_another(sample):
    step = Aggregator(AggregatorParameters(window=10.0, function="count"))
    out, rest = run(step, [sample(1, at) for at in (3, 9.9, 10, 19, 5, 31)])
    assert [(s.id, s.volume) for s in out] == [("s3+2", 2.0), ("s10+2", 2.0), ("s5+1", 1.0)]
    assert step.flush(rest)[0].id == "s31+1"


def test_size_and_window_together_end_by_whichever_comes_first(sample):
    step = Aggregator(AggregatorParameters(size=2, window=10.0))
    assert [s.id for s in run(step, [sample(1, at) for at in (1, 2, 3, 11, 12)])[0]] == ["s1+2", "s3+1", "s11+2"]
    single = Aggregator(AggregatorParameters(size=1, window=10.0))
    assert [s.id for s in run(single, [sample(1, at) for at in (1, 2, 11)])[0]] == ["s1+1", "s2+1", "s11+1"]


def test_a_volume_beyond_floats_is_infinite_and_not_an_error(sample):
    step = UnitConversion(ConversionParameters(target=Target(scale=1e300)))
    assert volumes(step, [sample(1e300)]) == [math.inf]
