import itertools
import math

import pytest

from partition_actor import Autoscale
from partition_actor.core.autoscale import Scaler
from partition_actor.errors import InvalidArgument

RULE = Autoscale(min=2, max=20, target=10.0, load="depth", up_after=3.0, down_after=30.0)


def trace(rule, total, seconds, size=None):
    """The sizes at each second when `total(now)` is the load of all, spread evenly."""
    scaler, size, sizes = Scaler(rule), size or rule.min, []
    for now in range(seconds):
        size = scaler.decide(float(now), size, [total(now) / size] * size)
        sizes.append(size)
    return sizes


def changes(sizes):
    return sum(before != after for before, after in itertools.pairwise(sizes))


def test_a_step_up_is_followed_after_up_after_and_at_once_to_the_size_that_it_needs():
    sizes = trace(RULE, lambda now: 20 if now < 10 else 100, 40)
    assert sizes[:13] == [2] * 13
    assert sizes[14:] == [10] * 26


def test_a_step_down_is_followed_after_down_after():
    sizes = trace(RULE, lambda now: 100 if now < 10 else 30, 60, size=10)
    assert sizes[:39] == [10] * 39
    assert sizes[41:] == [3] * 19


def test_a_spike_shorter_than_up_after_changes_nothing():
    assert set(trace(RULE, lambda now: 200 if now in (10, 11) else 20, 60)) == {2}


def test_a_lull_shorter_than_down_after_changes_nothing():
    assert set(trace(RULE, lambda now: 5 if 10 <= now < 35 else 100, 60, size=10)) == {10}


def test_a_fast_sine_does_not_make_it_flap():
    sizes = trace(RULE, lambda now: 100 + 40 * math.sin(now * 2 * math.pi / 20), 300, size=10)
    assert changes(sizes) <= 2
    assert sizes[-1] == 13  # what its crest needs for up_after


def test_a_slow_sine_is_followed_with_one_rise_and_one_fall_a_period():
    sizes = trace(RULE, lambda now: 100 + 80 * math.sin(now * 2 * math.pi / 600), 1200, size=10)
    turns = [b for a, b, c in zip(sizes, sizes[1:], sizes[2:], strict=False) if (b - a) * (c - b) < 0]
    assert turns == []  # it never turns within two steps
    assert max(sizes) == 18
    assert min(sizes[100:]) == 3  # what its trough needs for down_after


def test_a_mean_within_the_tolerance_changes_nothing():
    assert set(trace(RULE, lambda now: 54.0, 60, size=5)) == {5}


@pytest.mark.parametrize("total", [0.0, 1e9])
def test_the_size_stays_within_the_limits(total):
    assert set(trace(RULE, lambda now: total, 100, size=10)) <= {2, 10, 20}


def test_a_worker_without_a_report_does_not_count_as_idle_when_the_fleet_would_shrink():
    scaler = Scaler(RULE)
    sizes = [scaler.decide(float(now), 4, [5.0, 5.0, None, None]) for now in range(60)]
    assert sizes[-1] == 3


def test_without_any_report_nothing_changes():
    scaler = Scaler(RULE)
    assert {scaler.decide(float(now), 7, [None] * 7) for now in range(60)} == {7}


@pytest.mark.parametrize("load", [float("nan"), float("inf"), -1.0])
def test_a_load_that_is_no_number_of_at_least_0_counts_as_none(load):
    scaler = Scaler(RULE)
    assert {scaler.decide(float(now), 2, [load, 10.0]) for now in range(60)} == {2}


@pytest.mark.parametrize(
    ("field", "value"),
    [("min", 0), ("max", 1), ("target", 0), ("target", "10"), ("load", 5), ("up_after", -1.0), ("tolerance", -0.1)],
)
def test_an_impossible_rule_is_refused_and_its_field_named(field, value):
    good = {"min": 2, "max": 4, "target": 1.0, "load": "depth"}
    with pytest.raises(InvalidArgument, match=f"^{field}: got"):
        Autoscale(**{**good, field: value})


def test_loads_near_the_largest_float_call_for_the_most_workers():
    scaler = Scaler(Autoscale(min=1, max=4, target=0.5, load="depth"))
    assert scaler.decide(0.0, 1, [1.7e308]) in range(1, 5)
