"""What the callbacks of `elect` are told, and when."""

from deployments import LIMIT, wait_until
from sharing import SOON, exchange


def test_a_second_elect_while_it_leads_calls_only_the_new_callback(steady, group):
    a = steady.member("a")
    first, second, third = [], [], []
    a.elect(group, first.append)
    wait_until(lambda: first)
    a.elect(group, second.append)
    wait_until(lambda: second, SOON)
    a.elect(group)
    a.elect(group, third.append)
    wait_until(lambda: third, SOON)
    exchange(group, a)
    a.run_watchers()
    assert first == second == third
    assert len(first) == 1
    assert a.is_leader(group)


def test_every_callback_is_called_once_for_each_lead(steady, group):
    a, b = steady.member("a"), steady.member("b")
    first, second = [], []
    b.elect(group)
    wait_until(lambda: b.is_leader(group))
    a.elect(group, first.append)
    a.elect(group, second.append)
    wait_until(lambda: steady.call("status")["locks"][f"leader:{group}"]["waiting"] == ["a"])
    b.stand_down(group)
    wait_until(lambda: len(first) == len(second) == 1)
    a.stand_down(group)
    wait_until(lambda: b.is_leader(group))
    b.stand_down(group)
    wait_until(lambda: len(first) == len(second) == 2)
    exchange(group, a, b)
    a.run_watchers()
    assert first == second
    assert len(first) == 2
    assert first[0].fencing_token < first[1].fencing_token


def test_a_second_elect_of_one_that_waits_calls_both_when_it_leads(steady, group):
    a, b = steady.member("a"), steady.member("b")
    told = []
    b.elect(group)
    wait_until(lambda: b.is_leader(group))
    a.elect(group, lambda elected: told.append("first"))
    a.elect(group, lambda elected: told.append("second"))
    exchange(group, a, b)
    assert told == []
    b.stop()
    wait_until(lambda: told == ["first", "second"], LIMIT)
