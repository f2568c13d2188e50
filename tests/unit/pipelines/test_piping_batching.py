import pytest
from piping.batching import BatchSize


def settled(fixed, each):
    """The size after many batches that cost so many seconds, at once and by the sample."""
    size = BatchSize()
    for _ in range(50):
        size.learn(size.samples, size.samples * each, fixed + size.samples * each)
    return size.samples


def test_a_dear_call_makes_batches_larger_and_dear_samples_smaller():
    assert settled(0.001, 1e-5) == pytest.approx(1000, rel=0.01)
    assert settled(0.002, 1e-5) == pytest.approx(2000, rel=0.01)
    assert settled(0.001, 2e-5) == pytest.approx(500, rel=0.01)


def test_a_batch_is_never_more_work_than_an_owner_may_be_gone_for():
    assert settled(10.0, 1e-3) == 500


def test_the_size_has_bounds():
    assert settled(0.0, 1e-3) == 50
    assert settled(10.0, 1e-7) == 20_000


def test_one_slow_batch_does_not_decide_alone():
    size = BatchSize()
    for _ in range(50):
        size.learn(1000, 0.01, 0.011)
    size.learn(1000, 0.01, 0.051)
    assert size.samples == pytest.approx(13_000, rel=0.01), "measured alone it would be 41,000"


def test_a_batch_of_repeats_teaches_nothing():
    size = BatchSize()
    size.learn(0, 0.0, 5.0)
    assert size.samples == BatchSize().samples
