"""Several workers in one event loop, with ownership under the test's control."""

import asyncio
import zlib
from collections import Counter
from pathlib import Path

from jobs.pipelines.checkpoints import Checkpoints
from jobs.pipelines.config import load_config
from jobs.pipelines.publishers import read_published
from jobs.pipelines.reading import find_inputs
from jobs.pipelines.worker import Job, NotOwned, OwnsAll, Worker

PIPELINES = Path(__file__).with_name("pipelines.yaml").read_text()


class CrashedError(Exception):
    """The agent dies at this point."""


class _Ownership:
    def __init__(self, town, name, kind):
        self._town = town
        self._name = name
        self._kind = kind

    def owns(self, key):
        return self._town.owner(f"{self._kind}/{key}", self._town.seen_by(self._name)) == self._name

    def token(self):
        return self._town.seen_by(self._name)


class Town:
    """Agents that share keys by a hash; each change of membership has a token."""

    def __init__(self, job, names):
        self.job = job
        self.epochs = [[], sorted(names)]  # token -> members
        self.stale = {}  # agent -> the token of its outdated view
        self.crashed = set()
        self.calls = 0  # calls from one agent to another
        self._tasks = {}
        self.workers = {
            name: Worker(name, job, _Ownership(self, name, "s"), _Ownership(self, name, "i"), self._redirect(name))
            for name in names
        }

    @property
    def token(self):
        return len(self.epochs) - 1

    def seen_by(self, name):
        return self.stale.get(name, self.token)

    def owner(self, key, token):
        there = self.epochs[token]
        return there[zlib.crc32(key.encode()) % len(there)]

    def change(self, names):
        self.epochs.append(sorted(names))

    def freeze(self, name):
        """Let the others continue without an agent that does not notice."""
        self.stale[name] = self.token
        self.change(other for other in self.epochs[-1] if other != name)

    def thaw(self, name):
        del self.stale[name]
        self.change([*self.epochs[-1], name])

    def crash(self, name):
        if name not in self.crashed:
            self.crashed.add(name)
            if self._tasks[name] is not asyncio.current_task():
                self._tasks[name].cancel()
            self.stale.pop(name, None)
            self.change(other for other in self.epochs[-1] if other != name)

    def _redirect(self, caller):
        async def redirect(shard, batch):
            await asyncio.sleep(0)
            owner = self.owner(f"s/{shard}", self.seen_by(caller))
            if owner in self.crashed or owner == caller:
                raise NotOwned(shard)
            self.calls += 1
            try:
                return await self.workers[owner].take(shard, batch)
            except CrashedError:
                self.crash(owner)
                raise NotOwned(shard) from None

        return redirect

    async def run(self):
        for name in self.workers:
            self._tasks[name] = asyncio.create_task(self._live(name))
        await asyncio.gather(*self._tasks.values())

    async def _live(self, name):
        try:
            await self.workers[name].run()
        except CrashedError:
            self.crash(name)
        except asyncio.CancelledError:
            assert name in self.crashed


def write_inputs(directory, line, files=3, moments=60):
    """Write some meters of some resources, with uneven rates, so that a lost or repeated sample shows."""
    directory.mkdir()
    n = 0
    for file in range(files):
        lines = []
        for moment in range(moments):
            for resource in range(2):
                for meter, kind in (("cpu.busy", "cumulative"), ("cpu.idle", "cumulative"), ("memory", "gauge")):
                    n += 1
                    at = f"2026-01-02T03:{moment // 60:02}:{moment % 60:02}.{n % 10}00+00:00"
                    fields = {"name": meter, "type": kind, "volume": (n * n) % 1009 + n, "timestamp": at}
                    lines.append(line(id=f"s{n}", resource_id=f"r{file}.{resource}", **fields))
            if moment == 10:
                lines.append(b"{corrupt")
        (directory / f"{file}.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def make_job(tmp_path, out, **options):
    (tmp_path / "pipelines.yaml").write_text(PIPELINES)
    config = load_config(str(tmp_path / "pipelines.yaml"), options)
    return Job(config, find_inputs(str(tmp_path / "in")), Path(tmp_path / out))


def published(job):
    """Return (sink's path, id) -> record, and how often each is published. Repeats are identical."""
    records, counts = {}, Counter()
    for path, found in read_published(job.published):
        for record in found:
            key = (path, record["id"])
            assert records.setdefault(key, record) == record
            counts[key] += 1
    return records, counts


def run_single(job):
    worker = Worker("single", job, OwnsAll(), OwnsAll())
    asyncio.run(worker.run())
    return worker


def commits(monkeypatch, before=lambda claim: None, after=lambda claim: None):
    """Call functions around every commit."""
    commit = Checkpoints.commit

    def watched(self, claim, *rest):
        before(claim)
        commit(self, claim, *rest)
        after(claim)

    monkeypatch.setattr(Checkpoints, "commit", watched)
