"""Hosts for a test; it is skipped, with the reason, where there can be none."""

import os

import bed
import pytest

ROWS = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def can_make_hosts():
    if why_not := bed.missing():
        pytest.skip(why_not)


@pytest.fixture
def make_hosts(can_make_hosts):
    """Make a bed of so many hosts; it is taken down after the test."""
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


@pytest.fixture(scope="session")
def measured(pytestconfig):
    """Show what was measured, in seconds, when all tests are done."""
    rows = pytestconfig.stash.setdefault(ROWS, [])

    def add(what, **seconds):
        rows.append(f"{what}: {', '.join(f'{name} {value:.3f} s' for name, value in seconds.items())}")

    return add


def pytest_terminal_summary(terminalreporter, config):
    if rows := config.stash.get(ROWS, None):
        terminalreporter.section("measured on several hosts")
        terminalreporter.write("\n".join(rows) + "\n")
