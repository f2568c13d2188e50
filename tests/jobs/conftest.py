"""What the tests of all programs share."""

from contextlib import ExitStack

import pytest


@pytest.fixture
def runs():
    """An exit stack for ``job_runs.Run``: what enters it is terminated after the test."""
    with ExitStack() as runs:
        yield runs
