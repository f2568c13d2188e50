import json

import pytest

from jobs.pipelines.samples import Sample


@pytest.fixture
def sample():
    """Make samples; by default of a cumulative meter."""

    def make(volume=0.0, at=0.0, **fields):
        defaults = {
            "id": f"s{at:g}",
            "name": "cpu",
            "type": "cumulative",
            "unit": "s",
            "resource_id": "r",
            "timestamp": f"1970-01-01T00:00:{at:06.3f}+00:00",
            "metadata": {},
        }
        return Sample(**{**defaults, **fields}, volume=float(volume), at=float(at))

    return make


@pytest.fixture
def line():
    """Make lines of JSON, each a sample."""

    def make(**fields):
        good = {"id": "1", "name": "cpu", "volume": 1.5, "resource_id": "r", "timestamp": "2026-01-02T03:04:05Z"}
        return json.dumps({**good, **fields}).encode()

    return make
