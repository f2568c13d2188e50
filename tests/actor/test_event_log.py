"""The log lines of the partition actor, without Ray."""

from __future__ import annotations

import asyncio
import logging

import pytest

from partition_actor.actor import event_log
from partition_actor.actor.event_log import EventLog
from partition_actor.core.events import Cause, Events, Where

KEY = ("m", "s")


@pytest.fixture
def lines(caplog):
    """Records events, and returns the lines that are written."""
    caplog.set_level(logging.INFO, logger=event_log.__name__)

    def written(*recorded, steps=1):
        async def run():
            events = Events(1)
            log = EventLog(events)
            for each in recorded:
                events.record(0.0, *each)
                log.follow()
            before = len(caplog.records)
            while len(caplog.records) == before:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0)

        asyncio.run(asyncio.wait_for(run(), 20.0))
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    return written


def test_a_change_is_a_sentence_with_a_tail_of_keys_and_values(lines):
    cause = Cause("died", ("killed, said {}", "the kernel"), 0.0042, Where("abc", 7))
    ((level, line),) = lines((cause, ("m", "s 1"), "g", (1, 2)))
    assert level == "WARNING"
    assert line == (
        "m died in g: killed, said the kernel event=died id=1024 member=m "
        'session="s 1" node=abc pid=7 group=g groups=1 epoch=1.2 seconds=0.004'
    )


def test_no_id_forges_a_line_or_reaches_a_terminal_as_an_escape(lines):
    id_ = "\x1b[2J\nn died in g: killed event=died"
    lost = (Cause("lock_lost", ("it expired",)), (id_, "s"), None, None, f"lock:{id_}")
    superseded = (Cause("superseded", ("session {} has taken its place", id_)), (id_, "s"), id_, (1, 2))
    for _, line in lines(superseded, lost):
        assert line.isprintable()
        assert line.startswith('"\\u001b[2J\\nn died in g: killed event=died" ')


def test_a_death_in_many_groups_is_one_line(lines):
    cause = Cause("died", ("killed",))
    ((_, line),) = lines(*((cause, KEY, f"g{number}", (1, number)) for number in range(2000)))
    assert line.startswith("m died in 2000 groups: killed event=died ")
    assert "group=g0,g1,g2 groups=2000 epoch=1.0" in line


def test_changes_of_several_sessions_are_a_line_each(lines):
    left = Cause("left", ("it left",))
    told = lines((left, ("a", "s"), "g"), (left, ("b", "s"), "g"))
    assert [(level, line.split(":")[0]) for level, line in told] == [("INFO", "a left in g"), ("INFO", "b left in g")]


def test_what_no_logger_wants_is_not_written(lines):
    told = lines((Cause("handed_over", ("it was the last",)), KEY, "g"), (Cause("started", ("the first",)),))
    assert [line for _, line in told] == ["the partition actor started: the first event=started id=1025"]


def test_what_is_pending_at_the_end_is_written_then(caplog):
    caplog.set_level(logging.INFO, logger=event_log.__name__)

    async def run():
        events = Events(1)
        log = EventLog(events)
        events.record(0.0, Cause("ending", ("told to end",)))
        log.follow()
        log.flush()

    asyncio.run(run())
    assert "event=ending" in caplog.text


def test_locks_and_leaders_are_named(lines):
    told = lines(
        (Cause("lock_lost", ("killed",)), KEY, None, None, "lock:l"),
        (Cause("leader", ("m does not lead any more",)), None, "g", None, "leader:g"),
    )
    assert [line.split(" event=")[0] for _, line in told] == [
        "m lost lock:l: killed",
        "nobody leads in g: m does not lead any more",
    ]
