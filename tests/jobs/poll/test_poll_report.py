"""What a cycle's samples show, and what a run makes of that."""

import pyarrow as pa
import pytest

from jobs.driver.machine import Measured, Reading
from jobs.poll.report import Kill, Outcome, Tallier, Tally
from jobs.poll.store import SAMPLES, roster_of, samples_of

READINGS = [Reading("m", "gauge", "B", 1), Reading("n", "gauge", "s", 2)]


def polled(agent, *resources, readings=READINGS):
    return [row for each in resources for row in samples_of(each, Measured(readings, {}), agent=agent)]


def there(*resources, gone=(), theirs=()):
    rows = [(each, each not in gone, each not in theirs) for each in (*resources, *gone, *theirs)]
    return roster_of("s", 1, rows)


@pytest.fixture
def tally():
    tallier = Tallier()

    def tally(roster, *samples, source="s", cycle=1):
        rows = [row for each in samples for row in each]
        return tallier.tally(source, cycle, pa.Table.from_pylist(rows, schema=SAMPLES), roster)

    return tally


def test_polling_every_resource_once_is_no_fault(tally):
    found = tally(there("x", "y", "z"), polled("a", "x", "y"), polled("b", "z"))
    assert (found.resources, found.samples, found.polls) == (3, 6, {"a": 2, "b": 1})
    assert (found.gaps, found.duplicates) == ([], [])


def test_what_lived_through_and_was_not_polled_is_a_gap(tally):
    assert tally(there("x", "y"), polled("a", "x")).gaps == ["y"]


def test_what_vanished_in_the_cycle_is_no_gap(tally):
    assert tally(there("x", gone=["y"]), polled("a", "x")).gaps == []


def test_what_belonged_to_another_run_is_no_gap(tally):
    assert tally(there("x", theirs=["y"]), polled("a", "x")).gaps == []


def test_a_cycle_without_any_sample_is_all_gaps(tally):
    assert tally(there("x", "y")).gaps == ["x", "y"]


def test_two_agents_on_one_resource_is_a_duplicate(tally):
    found = tally(there("x", "y"), polled("a", "x", "y"), polled("b", "y"))
    assert found.duplicates == ["y"]
    assert found.polls == {"a": 2, "b": 1}


def test_two_agents_with_different_meters_of_one_resource_is_a_duplicate(tally):
    samples = polled("a", "x", readings=READINGS[:1]), polled("b", "x", readings=READINGS[1:])
    assert tally(there("x"), *samples).duplicates == ["x"]


def test_one_agent_twice_on_one_resource_is_a_duplicate(tally):
    found = tally(there("x"), polled("a", "x", "x"))
    assert found.duplicates == ["x"]
    assert found.polls == {"a": 1}


def test_a_vanished_resource_polled_twice_is_still_a_duplicate(tally):
    assert tally(there(gone=["x"]), polled("a", "x"), polled("b", "x")).duplicates == ["x"]


def test_what_another_agent_polls_than_before_has_moved_source_by_source(tally):
    assert tally(there("x", "y"), polled("a", "x", "y")).moved == 0
    assert tally(there("x", "y"), polled("b", "x", "y"), source="t").moved == 0
    assert tally(there("x", "y", "z"), polled("a", "x"), polled("b", "y", "z"), cycle=2).moved == 1


def cycle(number, source="s", gaps=(), duplicates=()):
    return Tally(source, number, 10, 20, {"a": 6, "b": 4}, list(gaps), list(duplicates), 0)


@pytest.mark.parametrize(
    ("cycles", "around", "others", "good"),
    [
        ([cycle(1)], (), {}, True),
        ([cycle(2, gaps=["x"])], (), {}, False),
        ([cycle(2, duplicates=["x"])], (), {}, False),
        ([cycle(2, gaps=["x"]), cycle(3, duplicates=["x"])], (2, 3), {}, True),
        ([cycle(1, gaps=["x"])], (2, 3), {}, False),
        ([cycle(2, source="t", gaps=["x"])], (2, 3), {}, False),
        ([cycle(2)], (2, 3), {"kills": [Kill("a", 1, 0.02), Kill("b", 2, None)]}, False),
        ([cycle(2)], (2, 3), {"kills": [Kill("a", 1, 0.02)]}, True),
        ([cycle(1)], (), {"missing": 1}, False),
        ([cycle(1)], (), {"ended_by": "SIGTERM"}, False),
        ([cycle(1)], (), {"lost": ["a"]}, True),
    ],
)
def test_only_the_cycles_around_a_kill_are_excused(cycles, around, others, good):
    outcome = Outcome(excused={("s", number) for number in around}, **others)
    for each in cycles:
        outcome.add(each)
    assert outcome.good is good


def test_a_long_run_keeps_its_sums_and_its_last_faults():
    outcome = Outcome()
    for number in range(1, 3001):
        outcome.add(cycle(number, gaps=["x", "y"]))
    assert (outcome.cycles, outcome.gaps, outcome.faulty, outcome.samples) == ({"s": 3000}, 6000, 3000, 60000)
    assert (len(outcome.recent), len(outcome.faults), outcome.polls) == (2000, 20, {"a": 18000, "b": 12000})
