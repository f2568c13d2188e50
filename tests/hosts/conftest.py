"""Hosts for a test; it is skipped, with the reason, where there can be none."""

import os

import bed
import pytest


@pytest.fixture
def make_hosts():
    """Make a bed of so many hosts; it is taken down after the test."""
    if why_not := bed.missing():
        pytest.skip(why_not)
    made = []

    def make(number, **options):
        made.append(bed.Hosts(number, **options))
        return made[-1].__enter__()

    yield make
    for hosts in made:
        hosts.__exit__()


def pytest_collection_modifyitems(items):
    """`make hosts` runs what is marked as slow too, by setting HOSTS=all."""
    if os.environ.get("HOSTS") != "all":
        for item in items:
            if item.get_closest_marker("slow_hosts"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: `make hosts` runs it"))
