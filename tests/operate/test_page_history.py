"""Which events the page asks for, and which it gives to each browser."""

import pytest

from partition_actor.operate.page.history import ARRIVALS_KEPT, AT_ONCE, KEPT, History


class Log:
    """A partition actor's log of events, of which the earliest `gone` are not kept."""

    def __init__(self, count, incarnation=1, gone=0):
        self.incarnation, self.gone = incarnation, gone
        self.events = [self.event(number) for number in range(count)]

    def event(self, number):
        return {"id": number, "what": "joined", "group": f"g{number % 2}", "time": float(number), "lock": None}

    def happen(self, count):
        self.events += [self.event(len(self.events) + number) for number in range(count)]

    def ask(self, history):
        since = asked = history.since()
        missed = max(0, self.gone - since)
        if since > len(self.events):
            since, missed = 0, -1
        since = max(since, self.gone)
        upto = min(since + AT_ONCE, len(self.events))
        answer = {"events": self.events[since:upto], "next": upto, "missed": missed, "more": upto < len(self.events)}
        history.take(asked, self.incarnation, answer, len(self.events))
        return asked


def known(history):
    return [event["id"] for event in history.first(None)]


def test_events_come_once_each_in_order():
    history, log = History(), Log(3)
    log.ask(history)
    log.happen(2)
    log.ask(history)
    log.ask(history)
    assert known(history) == [0, 1, 2, 3, 4]
    assert history.arrived == 5


def test_the_newest_of_many_events_are_there_after_two_calls():
    history, log = History(), Log(9000)
    log.ask(history)
    log.ask(history)
    assert known(history) == list(range(8500, 9000))


def test_all_events_are_there_in_the_end_and_new_ones_come_meanwhile():
    history, log = History(), Log(4000)
    latest = []
    for _ in range(20):
        log.happen(3)
        log.ask(history)
        latest.append(known(history)[-1])
    assert history.arrived == len(log.events) == 4060
    # With every second call at most, older ones are asked for: the newest are one call late at worst.
    assert all(4000 + 3 * (call - 1) <= newest + 1 for call, newest in enumerate(latest[1:], 1))


@pytest.mark.parametrize("members_keep_coming", [0, 100, 600])
def test_it_catches_up_after_nobody_has_looked_for_long(members_keep_coming):
    history, log = History(), Log(100)
    log.ask(history)
    log.happen(3000)
    for _ in range(60):
        log.happen(members_keep_coming)
        members_keep_coming = members_keep_coming and members_keep_coming - 20
        log.ask(history)
    assert known(history)[-1] == len(log.events) - 1
    assert history.arrived == len(log.events)


def test_a_gap_is_told_of():
    history, log = History(), Log(10)
    log.ask(history)
    log.happen(50)
    log.gone = 40
    log.ask(history)
    (told,) = [event for event in history.first(None) if event["what"] == "missing"]
    assert "30 events" in told["why"]
    assert [event["id"] for event in history.first(None)][10] == told["id"] == 39.5


def test_events_before_the_page_was_opened_are_no_gap():
    history, log = History(), Log(100, gone=60)
    log.ask(history)
    assert known(history) == list(range(60, 100))


@pytest.mark.parametrize("count", [5, 700])
def test_another_partition_actor_begins_its_own_log_behind_that_of_the_former(count):
    history, log = History(), Log(300)
    log.ask(history)
    another = Log(count, incarnation=2)
    while another.ask(history) != count:
        pass
    told = [(event["incarnation"], event["id"]) for event in history.first(None)]
    assert told == ([(1, number) for number in range(300)] + [(2, number) for number in range(count)])[-AT_ONCE:]


def test_as_many_are_kept_as_the_partition_actor_keeps():
    history, log = History(), Log(0)
    for _ in range(KEPT // AT_ONCE + 5):
        log.happen(AT_ONCE)
        log.ask(history)
    assert known(history)[-1] == len(log.events) - 1
    assert len(history.first("g0")) == AT_ONCE


def test_a_browser_is_given_only_what_it_lacks_and_all_anew_if_it_lacks_too_much():
    history, log = History(), Log(4)
    log.ask(history)
    arrived = history.arrived
    log.happen(4)
    log.ask(history)
    assert [event["id"] for event in history.arrived_since(arrived, "g1")] == [5, 7]
    for _ in range(ARRIVALS_KEPT // AT_ONCE + 1):
        log.happen(AT_ONCE)
        log.ask(history)
    assert history.arrived_since(arrived, "g1") is None


def test_a_group_has_its_own_events_and_those_of_all_but_no_locks():
    history = History()
    events = [
        {"id": 0, "what": "started", "group": None, "lock": None},
        {"id": 1, "what": "joined", "group": "a", "lock": None},
        {"id": 2, "what": "joined", "group": "b", "lock": None},
        {"id": 3, "what": "lock_granted", "group": None, "lock": "lock:x"},
    ]
    history.take(0, 1, {"events": events, "next": 4, "missed": 0, "more": False}, 4)
    assert [event["id"] for event in history.first("a")] == [0, 1]
    assert [event["id"] for event in history.first(None)] == [0, 1, 2, 3]
