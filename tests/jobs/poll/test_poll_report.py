from jobs.poll.pollers import Reading
from jobs.poll.report import read_report
from jobs.poll.store import SampleWriter, write_roster

READINGS = [Reading("m", 1, "B"), Reading("n", 2, "s")]


def wrote(directory, agent, cycle, *resources, readings=READINGS):
    writer = SampleWriter(directory, agent, cycle, "1.1")
    for resource in resources:
        writer.add(resource, readings)
    writer.flush()


def there_was(directory, cycle, *resources, gone=()):
    write_roster(directory, cycle, [*resources, *gone], resources)


def test_polling_every_resource_once_is_no_fault(tmp_path):
    for cycle in (1, 2):
        there_was(tmp_path, cycle, "x", "y", "z")
        wrote(tmp_path, "a", cycle, "x", "y")
        wrote(tmp_path, "b", cycle, "z")
    report = read_report(tmp_path)
    assert (report.cycles, report.resources, report.samples) == (2, 3, 12)
    assert report.polls == {"a": 4, "b": 2}
    assert report.gaps == report.duplicates == {}
    assert report.faulty_cycles() == []


def test_what_lived_through_and_was_not_polled_is_a_gap(tmp_path):
    there_was(tmp_path, 1, "x", "y")
    wrote(tmp_path, "a", 1, "x")
    there_was(tmp_path, 2, "x", "y")
    wrote(tmp_path, "a", 2, "x", "y")
    assert read_report(tmp_path).gaps == {1: ["y"]}


def test_what_vanished_in_the_cycle_is_no_gap(tmp_path):
    there_was(tmp_path, 1, "x", gone=["y"])
    wrote(tmp_path, "a", 1, "x")
    assert read_report(tmp_path).gaps == {}


def test_a_cycle_without_any_sample_is_all_gaps(tmp_path):
    there_was(tmp_path, 1, "x", "y")
    assert read_report(tmp_path).gaps == {1: ["x", "y"]}


def test_two_agents_on_one_resource_is_a_duplicate(tmp_path):
    there_was(tmp_path, 1, "x", "y")
    wrote(tmp_path, "a", 1, "x", "y")
    wrote(tmp_path, "b", 1, "y")
    report = read_report(tmp_path)
    assert report.duplicates == {1: ["y"]}
    assert report.polls == {"a": 2, "b": 1}


def test_two_agents_with_different_meters_of_one_resource_is_a_duplicate(tmp_path):
    there_was(tmp_path, 1, "x")
    wrote(tmp_path, "a", 1, "x", readings=READINGS[:1])
    wrote(tmp_path, "b", 1, "x", readings=READINGS[1:])
    assert read_report(tmp_path).duplicates == {1: ["x"]}


def test_one_agent_twice_on_one_resource_is_a_duplicate(tmp_path):
    there_was(tmp_path, 1, "x")
    wrote(tmp_path, "a", 1, "x", "x")
    report = read_report(tmp_path)
    assert report.duplicates == {1: ["x"]}
    assert report.polls == {"a": 1}


def test_a_vanished_resource_polled_twice_is_still_a_duplicate(tmp_path):
    there_was(tmp_path, 1, gone=["x"])
    wrote(tmp_path, "a", 1, "x")
    wrote(tmp_path, "b", 1, "x")
    assert read_report(tmp_path).duplicates == {1: ["x"]}


def test_the_same_resource_in_two_cycles_is_no_duplicate(tmp_path):
    for cycle, agent in ((1, "a"), (2, "b")):
        there_was(tmp_path, cycle, "x")
        wrote(tmp_path, agent, cycle, "x")
    assert read_report(tmp_path).duplicates == {}


def test_only_cycles_that_are_not_excused_are_faults(tmp_path):
    there_was(tmp_path, 1, "x")
    there_was(tmp_path, 2, "x")
    wrote(tmp_path, "a", 2, "x")
    wrote(tmp_path, "b", 2, "x")
    there_was(tmp_path, 3, "x")
    report = read_report(tmp_path)
    assert report.faulty_cycles() == [1, 2, 3]
    assert report.faulty_cycles(excused={1, 2}) == [3]
