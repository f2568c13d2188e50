import pytest

from jobs.pipelines.batching import BatchSize


def size_after_many(fixed, each):
    """The size after many batches that cost so many seconds, at once and by the sample."""
    size = BatchSize()
    for _ in range(100):
        size.learn(size.samples, fixed + size.samples * each)
    return size.samples


def test_a_batch_is_50_ms_of_work():
    assert size_after_many(0.0, 1e-5) == pytest.approx(5000, rel=0.01)
    assert size_after_many(0.0, 5e-5) == pytest.approx(1000, rel=0.01)
    assert size_after_many(0.01, 1e-5) == pytest.approx(4000, rel=0.01), "of which 10 are for what each batch costs"


def test_the_size_has_bounds():
    assert size_after_many(0.2, 1e-3) == 50
    assert size_after_many(0.0, 1e-7) == 20_000


def test_one_odd_batch_does_not_decide_the_size():
    size = BatchSize()
    for _ in range(50):
        size.learn(1000, 0.01)
    size.learn(1000, 0.05)
    assert size.samples == pytest.approx(2273, rel=0.01), "by itself it would give 1,000"


def test_a_batch_of_repeats_does_not_change_the_size():
    size = BatchSize()
    size.learn(0, 5.0)
    assert size.samples == BatchSize().samples
