import pytest

from jobs.pipelines.config import load_config
from jobs.pipelines.pipeline import Memory, make_pipelines


@pytest.fixture
def pipelines(tmp_path):
    def pipelines(sources, sinks):
        (tmp_path / "p.yaml").write_text(f"sources:\n{sources}\nsinks:\n{sinks}\n")
        return make_pipelines(load_config(str(tmp_path / "p.yaml"), {}))

    return pipelines


OUT = "  - {name: out, publishers: [log://]}"


@pytest.mark.parametrize(
    ("meters", "taken", "left"),
    [
        ("['*']", ["cpu", "a.b"], []),
        ("['cpu.*', disk]", ["cpu.x", "cpu.", "disk"], ["cpu", "disk.x", "xcpu.y"]),
        ("['!cpu.*']", ["disk", "cpu"], ["cpu.x"]),
        ("['cpu.*', '!cpu.idle', '!*.nice']", ["cpu.user"], ["cpu.idle", "cpu.nice", "disk"]),
        ("['cpu.?[ab]']", ["cpu.xa"], ["cpu.xc", "cpu.a"]),
    ],
)
def test_a_source_takes_by_wildcard_and_exclusion(pipelines, meters, taken, left):
    (pipeline,) = pipelines(f"  - {{name: s, meters: {meters}, sinks: [out]}}", OUT).values()
    assert [meter for meter in [*taken, *left] if pipeline.takes(meter)] == taken


def test_a_pipeline_is_a_source_with_one_of_its_sinks(pipelines):
    sources = "  - {name: a, meters: ['*'], sinks: [out, b]}\n  - {name: c, meters: ['*'], sinks: [b]}"
    assert list(pipelines(sources, f"{OUT}\n  - {{name: b, publishers: [log://]}}")) == ["a:out", "a:b", "c:b"]


def test_shards_split_the_resources(pipelines):
    (one,) = pipelines("  - {name: s, meters: ['*'], sinks: [out]}", OUT).values()
    assert one.keys == [one.shard_of("r1")] == ["s:out"]
    (four,) = pipelines("  - {name: s, meters: ['*'], shards: 4, sinks: [out]}", OUT).values()
    assert {four.shard_of(f"r{n}") for n in range(100)} == set(four.keys) == {f"s:out#{n}" for n in range(4)}


CHAIN = """\
  - name: rates
    transformers: [{name: rate_of_change}]
    publishers: [log://]
    sinks: [pairs]
  - name: pairs
    transformers: [{name: aggregator, parameters: {size: 2, function: sum}}]
    publishers: [log://]"""


def test_a_sink_feeds_others_what_its_transformers_let_out(pipelines, sample):
    (pipeline,) = pipelines("  - {name: s, meters: ['*'], sinks: [rates]}", CHAIN).values()
    memory = Memory()
    out = pipeline.run("in", [sample(v, at) for at, v in enumerate((0, 1, 3, 6))], memory)
    assert {path: [s.volume for s in samples] for path, samples in out.items()} == {
        "s:rates": [1.0, 2.0, 3.0],
        "s:rates:pairs": [3.0],
    }
    assert {path: [s.volume for s in samples] for path, samples in pipeline.flush("in", memory).items()} == {
        "s:rates:pairs": [3.0]
    }
    assert pipeline.flush("in", memory) == {}
    assert pipeline.run("in", [sample(10, 5)], memory)["s:rates"][0].volume == 2.0, "rates go on after an end"


def test_meters_resources_and_inputs_are_series_of_their_own(pipelines, sample):
    (pipeline,) = pipelines("  - {name: s, meters: ['*'], sinks: [rates]}", CHAIN).values()
    memory = Memory()
    for name, resource, source in (("a", "r", "i"), ("b", "r", "i"), ("a", "q", "i"), ("a", "r", "j")):
        assert pipeline.run(source, [sample(5, 1, name=name, resource_id=resource)], memory) == {}
    out = pipeline.run("j", [sample(7, 2, name="a")], memory)
    assert [s.volume for s in out["s:rates"]] == [2.0]
    assert pipeline.flush("i", memory) == {}
    assert len(pipeline.flush("j", memory)["s:rates:pairs"]) == 1


def test_the_memory_says_what_has_changed(pipelines, sample):
    (pipeline,) = pipelines("  - {name: s, meters: ['*'], sinks: [rates]}", CHAIN).values()
    memory = Memory()
    pipeline.run("in", [sample(1, 1), sample(2, 2)], memory)
    assert len(memory.changed) == len(memory.states) == 2
    memory.changed.clear()
    pipeline.run("in", [sample(1, 1, name="b")], memory)
    assert [key.meter for key in memory.changed] == ["b"]


def test_only_aggregates_wait_for_an_end(pipelines):
    chain = pipelines("  - {name: s, meters: ['*'], sinks: [rates, out]}", f"{CHAIN}\n{OUT}")
    assert {name: pipeline.flushes for name, pipeline in chain.items()} == {"s:rates": True, "s:out": False}
