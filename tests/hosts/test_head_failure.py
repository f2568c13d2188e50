"""What `make head-failure` makes of a ledger."""

import pytest
from head_failure import CASES, last_owner, pauses_of, spread
from ledger_worker import Unit

from partition_actor import Settings

KILLED = 10.0


def unit(key, start, end, worker="1-a-7.1", token=1):
    return Unit(key, token, start, end, worker, "owns")


def test_the_longest_pause_of_a_key_ends_after_the_kill():
    units = [
        unit("a", 1.0, 1.1),
        unit("a", 9.0, 9.5),
        unit("b", 9.0, 9.9),
        unit("b", 10.0, 10.1),
        unit("a", 12.0, 12.1),
    ]
    units += [unit("a", 12.2, 12.3)]
    longest, ends = pauses_of(sorted(units, key=lambda unit: unit.start), KILLED)
    assert longest == {"a": pytest.approx(2.5)}
    assert ends == [KILLED, 12.0]


def test_a_key_has_moved_when_another_agent_works_on_it_and_not_its_next_life():
    units = [unit("a", 1.0, 1.1, "1-a-7.1"), unit("b", 1.0, 1.1, "1-b-8.1")]
    before = last_owner(units, KILLED)
    after = last_owner([*units, unit("a", 11.0, 11.1, "1-a-9.1"), unit("b", 11.0, 11.1, "2-a-3.1")], 20.0)
    assert {key for key in before if before[key] != after[key]} == {"b"}


def test_a_median_stands_with_its_spread():
    assert spread([3.0, 1.0, 2.0]) == "2.0 (1.0 to 3.0)"
    assert spread([0, 0, 0]) == "0"


def test_each_case_has_settings_and_one_shows_that_two_owners_are_found():
    assert {Settings(**case.settings).ttl for case in CASES.values()} == {10.0, 60.0}
    assert [name for name, case in CASES.items() if case.unsafe] == ["memory, ttl 60 s, no wait"]
