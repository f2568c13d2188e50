import asyncio
import itertools
import random
import sqlite3

import pytest
import town

from jobs.pipelines import batching, reading
from jobs.pipelines.offsets import Offset
from jobs.pipelines.publishers import JsonLines, PublishError
from jobs.pipelines.reading import LineReader
from jobs.pipelines.shard import Batch, LostSamples
from jobs.pipelines.worker import NotOwned, OwnsAll, Worker


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Split a few samples into many batches."""
    monkeypatch.setattr(reading, "CHUNK", 2000)
    for bound in ("FIRST", "FEWEST", "MOST"):
        monkeypatch.setattr(batching, bound, 20)


@pytest.fixture
def job(tmp_path, line):
    def job(out, **options):
        return town.make_job(tmp_path, out, **options)

    town.write_inputs(tmp_path / "in", line)
    return job


@pytest.fixture
def expected(job):
    """Return what one agent publishes."""
    single = job("single")
    town.run_single(single)
    records, counts = town.published(single)
    assert set(counts.values()) == {1}
    return records


class Held(OwnsAll):
    """Owns everything, under one token."""

    def __init__(self, held):
        self.held = held

    def token(self):
        return self.held


def test_one_agent_publishes_everything_without_a_call(job, expected):
    agent = town.run_single(job("again"))
    assert agent.redirected == (0, 0)
    assert agent.straight.samples == 3 * 60 * 2 * (2 * 2 + 2 * 2)
    assert {path for path, _ in expected} == {
        "cpu:rates", "cpu:rates:means", "cpu:archive", "all:rates", "all:rates:means", "all:means",
    }  # fmt: skip
    of_archive = [id_ for path, id_ in expected if path == "cpu:archive"]
    assert len(of_archive) == 3 * 60 * 2 * 2
    assert len([id_ for path, id_ in expected if path == "cpu:rates"]) == 3 * 59 * 2 * 2
    means = [record for (path, _), record in expected.items() if path == "all:means"]
    assert len(means) == 3 * 2 * 2 * (3 * 3), "of 20 samples in each of three windows: 7, 7 and 6"
    assert len([record for record in means if record["id"].endswith("+6")]) == 3 * 2 * 2 * 3
    assert len(job("again").offsets().corrupt_lines()) == 3


def test_a_group_of_one_makes_no_call_either(job, expected):
    single = town.Town(job("group"), ["a"])
    asyncio.run(single.run())
    assert single.calls == 0
    assert town.published(single.job)[0] == expected


def test_several_agents_publish_the_same(job, expected):
    several = town.Town(job("several"), ["a", "b", "c"])
    asyncio.run(several.run())
    records, counts = town.published(several.job)
    assert records == expected
    assert set(counts.values()) == {1}
    redirected = sum(worker.redirected.batches for worker in several.workers.values())
    assert several.calls == redirected > 20
    assert sum(worker.straight.batches for worker in several.workers.values()) > 10
    assert all(offset.ended for offset in several.job.offsets().all().values())


@pytest.mark.parametrize("seed", range(5))
def test_crashes_at_any_point_lose_nothing(job, expected, monkeypatch, seed):
    dice = random.Random(seed)
    several = town.Town(job("several"), ["a", "b", "c", "d"])
    left = iter(range(3))

    def maybe_crash(claim):
        if dice.random() < 0.06 and next(left, None) is not None:
            raise town.CrashedError

    town.commits(monkeypatch, maybe_crash, maybe_crash)
    asyncio.run(several.run())
    assert len(several.crashed) > 0
    records, _ = town.published(several.job)
    assert records == expected
    assert len(several.job.offsets().corrupt_lines()) == 3


@pytest.mark.parametrize("seed", range(5))
def test_an_agent_that_is_stopped_and_resumed_changes_nothing(job, expected, monkeypatch, seed):
    dice = random.Random(seed)
    several = town.Town(job("several"), ["a", "b", "c"])

    def stop_or_go_on(claim):
        if several.stale:
            if dice.random() < 0.1:
                several.thaw(next(iter(several.stale)))
        elif dice.random() < 0.2 and several.token < 30:
            several.freeze(dice.choice(several.epochs[-1]))

    town.commits(monkeypatch, stop_or_go_on)

    async def run():
        task = asyncio.create_task(several.run())
        while not task.done():
            await asyncio.sleep(0.01)
            for name in list(several.stale):  # resume every stopped agent eventually
                several.thaw(name)
        await task

    asyncio.run(run())
    assert several.token > 3
    assert town.published(several.job)[0] == expected


def test_an_owner_that_lost_its_shard_before_committing_cannot_commit(job, sample, monkeypatch):
    both = job("late")
    old, new = Worker("old", both, Held(5), OwnsAll()), Worker("new", both, Held(6), OwnsAll())
    first = Batch("0.jsonl", 0, 10, False, 0.0, [0], [sample(1, 1)])
    second = Batch("0.jsonl", 10, 20, False, 0.0, [10], [sample(3, 2)])
    third = Batch("0.jsonl", 20, 30, False, 0.0, [20], [sample(9, 3)])

    async def scenario():
        await old.take("cpu:rates", first)
        with monkeypatch.context() as patch:
            town.commits(patch, before=lambda claim: both.checkpoints("cpu:rates").claim("cpu:rates", "new", 6))
            with pytest.raises(NotOwned, match="token 5 is older than 6"):
                await old.take("cpu:rates", second)
        assert (await new.take("cpu:rates", second)).samples == 1
        with pytest.raises(NotOwned):
            await old.take("cpu:rates", third)
        await new.take("cpu:rates", third)

    asyncio.run(scenario())
    records, counts = town.published(both)
    assert {id_: record["volume"] for (_, id_), record in records.items()} == {"s2": 2.0, "s3": 6.0}
    assert counts == {("cpu:rates", "s2"): 2, ("cpu:rates", "s3"): 1}


def test_an_owner_that_regains_a_shard_knows_what_others_did(job, sample):
    both = job("regained")
    one, other = Held(5), Held(6)
    first, second = Worker("a", both, one, OwnsAll()), Worker("b", both, other, OwnsAll())

    async def scenario():
        await first.take("cpu:rates", Batch("0.jsonl", 0, 10, False, 0.0, [0], [sample(1, 1)]))
        await second.take("cpu:rates", Batch("0.jsonl", 10, 20, False, 0.0, [10], [sample(3, 2)]))
        one.held = 7
        receipt = await first.take("cpu:rates", Batch("0.jsonl", 20, 30, False, 0.0, [20], [sample(9, 3)]))
        assert (receipt.samples, receipt.end) == (1, 30)

    asyncio.run(scenario())
    assert {id_: record["volume"] for (_, id_), record in town.published(both)[0].items()} == {"s2": 2.0, "s3": 6.0}


@pytest.fixture
def crashed_once(job, expected, monkeypatch):
    """Run two agents, one of which crashes before or after a commit; return how often each record is published."""

    def crashed_once(when):
        several = town.Town(job("several"), ["a", "b"])
        once = iter([True])

        def crash_once(claim):
            if claim.watermarks and next(once, False):
                raise town.CrashedError

        town.commits(monkeypatch, **{when: crash_once})
        asyncio.run(several.run())
        assert len(several.crashed) == 1
        records, counts = town.published(several.job)
        assert records == expected
        return counts.values()

    return crashed_once


def test_what_was_published_before_a_crash_is_published_again_and_is_the_same(crashed_once):
    assert 0 < sum(count > 1 for count in crashed_once("before")) < 100


def test_what_was_committed_but_not_acknowledged_is_not_repeated(crashed_once, job):
    assert set(crashed_once("after")) == {1}
    ownerships = [
        each
        for name in ("cpu:rates", "cpu:archive", "all:rates", "all:means")
        for each in job("several").checkpoints(name).ownerships()
    ]
    assert sum(ownership.samples for ownership in ownerships) == 3 * 60 * 2 * (2 * 2 + 2 * 2)


def test_a_repeated_batch_is_dropped_and_counted(job, sample):
    worker = Worker("a", job("again"), OwnsAll(), OwnsAll())
    first = Batch("0.jsonl", 0, 20, False, 0.0, [0, 10], [sample(1, 1), sample(3, 2)])
    longer = Batch("0.jsonl", 0, 30, False, 0.0, [0, 10, 20], [sample(1, 1), sample(3, 2), sample(9, 3)])

    async def scenario():
        assert [(await worker.take("cpu:rates", batch)).samples for batch in (first, first, longer)] == [2, 0, 1]

    asyncio.run(scenario())
    (ownership,) = job("again").checkpoints("cpu:rates").ownerships()
    assert (ownership.samples, ownership.repeats) == (3, 4)
    records, counts = town.published(job("again"))
    assert {id_: record["volume"] for (_, id_), record in records.items()} == {"s2": 2.0, "s3": 6.0}
    assert set(counts.values()) == {1}


def crash_at(number):
    """Crash at the commit with this number."""
    commits = itertools.count(1)

    def crash(claim):
        if next(commits) == number:
            raise town.CrashedError

    return crash


def test_the_next_reader_of_an_input_does_not_send_what_is_published(job, expected, monkeypatch):
    town.commits(monkeypatch, after=crash_at(40))
    with pytest.raises(town.CrashedError):
        town.run_single(job("again"))
    town.run_single(job("again"))
    assert town.published(job("again"))[0] == expected
    names = ("cpu:rates", "cpu:archive", "all:rates", "all:means")
    assert [
        ownership.repeats
        for name in names
        for ownership in job("again").checkpoints(name).ownerships()
        if ownership.repeats
    ] == []


def test_an_ended_job_continues_where_it_stopped(job, expected, monkeypatch):
    town.commits(monkeypatch, before=crash_at(25))
    with pytest.raises(town.CrashedError):
        town.run_single(job("again"))
    begun = town.published(job("again"))[0]
    assert 0 < len(begun) < len(expected)
    town.run_single(job("again"))
    assert town.published(job("again"))[0] == expected
    assert town.run_single(job("again")).straight == (0, 0), "nothing is left to do"


def test_a_failing_publisher_ends_the_run_and_its_samples_are_published_later(job, expected, monkeypatch):
    publish = JsonLines.publish
    left = iter(range(12))

    async def fail(self, samples):
        if next(left, None) is None:
            raise PublishError("disk full")
        await publish(self, samples)

    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "publish", fail)
        with pytest.raises(PublishError, match="disk full"):
            town.run_single(job("again"))
    town.run_single(job("again"))
    assert town.published(job("again"))[0] == expected


def test_an_agent_takes_nothing_for_a_shard_that_it_does_not_own(job):
    two = town.Town(job("two"), ["a", "b"])
    owner = two.owner("s/cpu:rates", two.token)
    other = next(name for name in ("a", "b") if name != owner)
    batch = Batch("0.jsonl", 0, 10, False, 0.0, [], [])
    with pytest.raises(NotOwned, match=f"cpu:rates is not {other}'s"):
        asyncio.run(two.workers[other].take("cpu:rates", batch))
    assert two.job.checkpoints("cpu:rates").ownerships() == []


def test_an_agent_that_may_not_act_takes_nothing(job):
    class Lapsed(OwnsAll):
        def token(self):
            return 0

    worker = Worker("a", job("lapsed"), Lapsed(), OwnsAll())
    with pytest.raises(NotOwned):
        asyncio.run(worker.take("cpu:rates", Batch("0.jsonl", 0, 10, False, 0.0, [], [])))


def test_missing_samples_are_an_error(job, sample):
    worker = Worker("a", job("lost"), OwnsAll(), OwnsAll())

    async def take(begin, end):
        batch = Batch("0.jsonl", begin, end, False, 0.0, [begin], [sample(1, begin)])
        return await worker.take("cpu:archive", batch)

    asyncio.run(take(0, 10))
    with pytest.raises(LostSamples, match=r"cpu:archive: 0.jsonl is published up to 10, but the batch begins at 20"):
        asyncio.run(take(20, 30))
    job("lost").offsets().acknowledge("0.jsonl", Offset(position=20), [])
    assert asyncio.run(take(20, 30)).end == 30, "the gap is acknowledged, so none of it was for this shard"


def test_while_the_database_is_locked_a_batch_waits_and_others_continue(job, sample, tmp_path):
    worker = Worker("a", job("locked"), OwnsAll(), OwnsAll())
    batch = Batch("0.jsonl", 0, 10, False, 0.0, [0], [sample(1, 1)])

    async def scenario():
        other = sqlite3.connect(tmp_path / "locked/checkpoints/cpu:rates.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(worker.take("cpu:rates", batch))
        assert (await worker.take("cpu:archive", batch)).samples == 1
        assert not waiting.done()
        other.execute("COMMIT")
        other.close()
        assert (await waiting).samples == 1

    asyncio.run(scenario())


def test_a_released_shard_is_claimed_anew(job, sample):
    worker = Worker("a", job("let"), OwnsAll(), OwnsAll())

    async def scenario():
        await worker.take("cpu:rates", Batch("0.jsonl", 0, 10, False, 0.0, [0], [sample(1, 1)]))
        await worker.let_go(["cpu:rates"])
        await worker.take("cpu:rates", Batch("0.jsonl", 10, 20, False, 0.0, [10], [sample(3, 2)]))

    asyncio.run(scenario())
    assert [ownership.token for ownership in job("let").checkpoints("cpu:rates").ownerships()] == [1, 2]
    ((path, (record,)),) = town.read_published(job("let").published)
    assert (path, record["volume"]) == ("cpu:rates", 2.0), "the rate continues from the checkpoint"


async def eventually(condition):
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("the condition did not become true within 30 s")


def test_followed_files_may_grow_and_new_ones_appear(job, line, tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.pipelines.worker._LIST", 0.01)
    monkeypatch.setattr("jobs.pipelines.worker._LOOK", 0.01)
    read, read_lines = [], LineReader.read
    monkeypatch.setattr(LineReader, "read", lambda self: (read.append(self), read_lines(self))[1])
    following = job("follow", follow=True)
    worker = Worker("a", following, OwnsAll(), OwnsAll())

    def archived():
        return {record["resource_id"] for path, each in town.read_published(following.published) for record in each}

    async def scenario():
        run = asyncio.create_task(worker.run())
        await eventually(lambda: "r2.1" in archived())
        with (tmp_path / "in" / "0.jsonl").open("ab") as out:
            out.write(line(id="n1", name="cpu.busy", resource_id="grown") + b"\n")
        (tmp_path / "in" / "9.jsonl").write_bytes(line(id="n2", name="cpu.busy", resource_id="new") + b"\n")
        await eventually(lambda: {"grown", "new"} <= archived())
        offsets = following.offsets()
        await eventually(lambda: (tmp_path / "in" / "9.jsonl").stat().st_size == offsets.get("9.jsonl").position)
        tasks, reads = len(asyncio.all_tasks()), len(read)
        await eventually(lambda: len(read) > reads + 12)
        assert len(asyncio.all_tasks()) <= tasks, "waiting leaves no task behind"
        worker.stop()
        await run
        assert not any(offset.ended for offset in offsets.all().values())

    asyncio.run(scenario())


def test_an_input_that_moves_to_another_agent_is_read_further_there(job, expected, monkeypatch):
    several = town.Town(job("moving"), ["a", "b", "c"])
    turns = iter(range(10**6))

    def move(claim):
        if next(turns) % 7 == 0 and several.token < 40:
            several.change(random.Random(several.token).sample(["a", "b", "c"], 2))

    town.commits(monkeypatch, before=move)
    asyncio.run(several.run())
    assert several.token > 5
    assert town.published(several.job)[0] == expected


def test_readers_are_closed_at_the_end_of_their_inputs(job, monkeypatch):
    closed = []
    close = LineReader.close
    monkeypatch.setattr(LineReader, "close", lambda self: (closed.append(self), close(self)))
    town.run_single(job("closed"))
    assert len(closed) == 3
