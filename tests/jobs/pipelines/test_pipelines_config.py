"""The settings of ``jobs.pipelines``: YAML and command line, and how problems are reported."""

from pathlib import Path

import pytest

from jobs.driver.command_line import InputError
from jobs.pipelines.config import load_config
from jobs.pipelines.definitions import ActorPublisher, FilePublisher, LogPublisher
from partition_actor.errors import InvalidSettings

GOOD = """\
sources:
  - name: all
    meters: ["*"]
    sinks: [out]
sinks:
  - name: out
    publishers: [file://]
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pipelines.yaml"


@pytest.fixture
def load(path):
    def load(text, **overrides):
        path.write_text(text)
        return load_config(str(path), overrides)

    return load


@pytest.fixture
def refused(load):
    """The lines of the refusal."""

    def refused(text, **overrides):
        with pytest.raises((InputError, InvalidSettings)) as refusal:
            load(text, **overrides)
        return str(refusal.value).splitlines()

    return refused


def test_a_minimal_file(load):
    config = load(GOOD)
    assert (config.agents, config.follow, config.sources[0].shards) == (4, False, 1)
    assert config.sinks[0].publishers == (FilePublisher("json"),)


def test_the_command_line_overrides_the_file(load):
    assert load(f"agents: 3\n{GOOD}", agents=7).agents == 7


def test_the_publishers_are_urls(load):
    urls = "[file://, 'file://?format=parquet', 'log://', 'actor://space/name', 'actor://space/name?method=take']"
    assert load(GOOD.replace("[file://]", urls)).sinks[0].publishers == (
        FilePublisher("json"),
        FilePublisher("parquet"),
        LogPublisher(),
        ActorPublisher("space", "name", "publish"),
        ActorPublisher("space", "name", "take"),
    )


def test_the_fingerprint_is_of_the_pipelines_alone(load):
    config = load(GOOD)
    assert load(f"agents: 2\n{GOOD}").fingerprint == config.fingerprint
    assert load(GOOD.replace("[file://]", "[log://]")).fingerprint != config.fingerprint


def test_jobs_pipelines_yaml_is_good():
    config = load_config(str(Path(__file__).parents[3] / "jobs" / "pipelines.yaml"), {})
    assert sum(len(source.sinks) for source in config.sources) == 12


def sink(text):
    """A file whose second sink, from line 8 on, is the text."""
    return GOOD + "".join(f"  {line}\n" for line in text.splitlines())


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("agents: [", 1, "not YAML: "),
        ("a: 1\n\tb: 2", 2, "not YAML: found character '\\t'"),
        ("a: *gone", 1, "not YAML: found undefined alias"),
        ("- sources", 1, "got '- sources', expected a mapping of settings, such as 'sources:'"),
        ("", 1, "sources: field required"),
        ("just text", 1, "got 'just text', expected a mapping of settings"),
        (f"agents: 4\n{GOOD}agents: 5\n", 9, "agents: got 5, expected it once: line 1 has it already"),
        (f"a: &a\n  - *a\n{GOOD}", 1, "a.0: an alias of a value that contains it"),
        (f"? [a]\n: 1\n{GOOD}", 1, "[a]: got 1, expected the name of a setting"),
        (f"when: !!timestamp x\n{GOOD}", 1, "when: got '!!timestamp x', expected the name of a setting"),
        (f"{GOOD}agnets: 4\n", 8, "agnets: got 4, expected the name of a setting: did you mean agents?"),
        (f"agents: 0\n{GOOD}", 1, "agents: got 0, expected a number greater than or equal to 1"),
        (f"agents: '4'\n{GOOD}", 1, "agents: got '4', expected a valid integer"),
        (f"lease: .nan\n{GOOD}", 1, "lease: got nan, expected a "),
        (GOOD.replace("name: all", "nam: all"), 2, "sources.0.name: field required"),
        (GOOD.replace("name: all", "name: a/b"), 2, "sources.0.name: got 'a/b', expected text that matches ^[A-Za-z"),
        (GOOD.replace('["*"]', "[]"), 3, "sources.0.meters: got '[]', expected a list of 1 or more"),
        (GOOD.replace('["*"]', '["!"]'), 3, "sources.0.meters.0: expected a meter after the !"),
        (GOOD.replace('["*"]', "cpu"), 3, "sources.0.meters: got 'cpu', expected a list"),
        (GOOD.replace("sinks: [out]", "sinks: []"), 4, "sources.0.sinks: got '[]', expected a list of 1 or more"),
        (GOOD.replace("sinks: [out]", "sinks: [uot]"), 4, "sources.0.sinks.0: there is no sink 'uot'"),
        (GOOD.replace("sinks: [out]", "sinks: [out, out]"), 4, "sources.0.sinks.1: the sink 'out' is there twice"),
        (sink("- name: out\n  publishers: [log://]"), 8, "sinks.1.name: there is another of the name 'out'"),
        (sink("- name: b"), 8, "sinks.1: the sink 'b' is empty: it has no publisher and feeds no sink"),
        (sink("- name: b\n  transformers: []\n  publishers: []"), 8, "sinks.1: the sink 'b' is empty"),
        (sink("- name: b\n  sinks: [b]"), 9, "sinks.1.sinks: the sink 'b' feeds itself: b -> b"),
        (sink("- name: b\n  publishers: [ftp://x]"), 9, "sinks.1.publishers.0: ftp://x: expected file://, "),
        (sink("- name: b\n  publishers:\n    - log://\n    - file://?format=csv"), 11, "the format is json or parquet"),
        (sink("- name: b\n  publishers: [3]"), 9, "expected a URL such as file://, got 3"),
        (sink("- name: b\n  publishers: ['actor://name']"), 9, "expected file://, "),
        (sink("- name: b\n  publishers: ['actor://a/b?method=1']"), 9, "expected file://, "),
        (
            sink("- name: b\n  transformers:\n    - name: rate_of_chang"),
            10,
            "sinks.1.transformers.0.name: got 'rate_of_chang', expected 'rate_of_change', 'delta', ",
        ),
        (
            sink("- name: b\n  transformers:\n    - parameters: {}"),
            10,
            "sinks.1.transformers.0.name: field required",
        ),
        (
            sink(
                "- name: b\n  transformers:\n    - name: delta\n      parameters:\n        target:\n          scal: 2"
            ),
            13,
            "sinks.1.transformers.0.parameters.target.scal: got 2, expected no such key here",
        ),
        (
            sink("- name: b\n  transformers:\n    - name: aggregator\n      parameters: {function: sum}"),
            11,
            "sinks.1.transformers.0.parameters: expected size, window or both",
        ),
        (
            sink("- name: b\n  transformers:\n    - name: unit_conversion\n      parameters: {source: {name: 'a('}}"),
            11,
            "parameters.source.name: not a regular expression: missing )",
        ),
        (
            sink("- name: b\n  transformers:\n    - {name: unit_conversion, parameters: {target: {name: '\\1'}}}"),
            10,
            "parameters: target.name '\\\\1': invalid group reference 1",
        ),
    ],
)
def test_every_problem_is_reported_with_file_and_line(refused, path, text, line, said):
    assert any(each.startswith(f"{path}:{line}: ") and said in each for each in refused(text)), refused(text)


def test_a_cycle_over_several_sinks_is_named_at_each(refused, path):
    cycle = "- name: a\n  sinks: [b]\n- name: b\n  sinks: [c]\n- name: c\n  sinks: [a]\n  publishers: [log://]"
    assert refused(sink(cycle)) == [
        f"{path}:9: sinks.1.sinks: the sink 'a' feeds itself: a -> b -> c -> a",
        f"{path}:11: sinks.2.sinks: the sink 'b' feeds itself: b -> c -> a -> b",
        f"{path}:13: sinks.3.sinks: the sink 'c' feeds itself: c -> a -> b -> c",
    ]


def test_all_problems_are_reported_in_the_order_of_the_file(refused, path):
    text = "agents: 0\n" + sink("- name: b\n  publishers: [x, y]")
    places = [line.split(": ")[0] for line in refused(text)]
    assert places == [f"{path}:1", f"{path}:10", f"{path}:10"]


def test_an_alias_that_would_grow_without_bound_is_refused(refused, path):
    levels = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    (said,) = refused(levels)
    assert said.endswith("more than 100000 values")


def test_a_file_that_is_not_there_or_not_text_is_named(path, load):
    with pytest.raises(InvalidSettings, match=r"pipelines\.yaml: cannot be read: No such file"):
        load_config(str(path), {})
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidSettings, match=r"pipelines\.yaml: got bytes that are not UTF-8"):
        load_config(str(path), {})


def test_a_bad_option_is_named_as_the_user_typed_it(refused):
    assert refused(GOOD, agents=0) == ["--agents 0: expected a number greater than or equal to 1"]


@pytest.mark.parametrize("options", [{"kill": 4}, {"kill": 2, "stop": 2}, {"agents": 1, "kill": 1}])
def test_one_agent_must_stay_untouched(refused, options):
    (said,) = refused(GOOD, **options)
    assert said.endswith("one must stay untouched")
