"""What pipelines publish to an actor."""

import asyncio
from pathlib import Path

import pytest
import ray

from jobs.pipelines.definitions import ActorPublisher
from jobs.pipelines.publishers import PublishError, make_publisher
from jobs.pipelines.samples import Sample, to_record

SAMPLES = [Sample(f"s{n}", "cpu", "gauge", "%", n / 3, "r", "1970-01-01T00:00:00Z", {"a": [n]}, 0.0) for n in range(3)]


@pytest.fixture
def archive(cluster, group):
    class Archive:
        def __init__(self):
            self.records = []

        def publish(self, records):
            if self.records:
                raise ValueError("full")
            self.records += records

        def read(self):
            return self.records

    handle = ray.remote(Archive).options(num_cpus=0, name=group, namespace="archives").remote()
    ray.get(handle.read.remote())
    yield handle
    ray.kill(handle)


def publish(name, method="publish"):
    asyncio.run(make_publisher(ActorPublisher("archives", name, method), Path(), "a:b", "o-1").publish(SAMPLES))


def test_an_actor_has_the_records_once_they_are_published(archive, group):
    publish(group)
    assert ray.get(archive.read.remote()) == [to_record(sample) for sample in SAMPLES]


def test_why_an_actor_did_not_take_samples_is_one_line(archive, group):
    publish(group)
    for name, method, said in ((group, "publish", "full"), (group, "gone", "gone"), ("nobody", "publish", "nobody")):
        with pytest.raises(PublishError, match=rf"^actor://archives/{name}\?method={method}: .*{said}"):
            publish(name, method)
