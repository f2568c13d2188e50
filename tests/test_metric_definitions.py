"""The table of metrics, its page, the dashboard and the alerts agree with each other; promtool tests the alerts."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import yaml
from ray.dashboard.modules.metrics import grafana_dashboard_factory
from ray.util.metrics import Counter

from partition_actor import metrics
from partition_actor.metrics import DEFINITIONS, Recorder
from partition_actor.operate.command_line import program

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "metrics.md").read_text()
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "partition_actor.json").read_text())
RULES_FILE = ROOT / "deploy" / "prometheus" / "rules.yaml"
RULES = [rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
QUERIES += [each["definition"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
EXPRESSIONS = [rule["expr"] for rule in RULES]

SUFFIXES = {"gauge": [""], "counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
EXPORTED = {f"ray_{name}{suffix}": made for name, made in DEFINITIONS.items() for suffix in SUFFIXES[made.kind]}
OF_RAY = {"ray_io_cluster", "WorkerId", "le"}
"""Tags that Ray, Prometheus or KubeRay adds."""

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool: `apt-get install prometheus` has it"
)


def names_in(expressions):
    return {name for each in expressions for name in re.findall(r"ray_partition_actor_\w+", each)}


def test_names_are_those_of_prometheus_with_their_unit_and_tags_name_no_member():
    for name, made in DEFINITIONS.items():
        assert re.fullmatch(r"partition_actor(_[a-z]+)+", name)
        assert name.endswith("_seconds") == (made.unit == "seconds"), name
        assert made.tags[0] == "actor"
        assert set(made.tags) <= {"actor", "group", "fleet", "what", "kind"}


def test_the_page_lists_every_metric_and_no_other():
    rows = re.findall(r"^\| `(ray_\w+)` \| (\w+) \| (.+?) \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)
    listed = {name: (kind, tuple(re.findall(r"`(\w+)`", tags)), unit, text) for name, kind, tags, unit, text in rows}
    assert listed == {
        f"ray_{name}{'_total' if made.kind == 'counter' else ''}": (made.kind, made.tags, made.unit, made.meaning)
        for name, made in DEFINITIONS.items()
    }


def test_the_dashboard_shows_every_metric_and_the_alerts_name_no_other():
    assert names_in(QUERIES) | names_in(EXPRESSIONS) <= EXPORTED.keys()
    assert {EXPORTED[name] for name in names_in(QUERIES)} == set(DEFINITIONS.values())


@pytest.mark.parametrize("query", QUERIES + EXPRESSIONS)
def test_a_query_uses_only_tags_that_the_metric_has(query):
    for name, filters in re.findall(r"(ray_partition_actor_\w+)\{(.*?)\}", query):
        assert set(re.findall(r"(\w+)=?[=~]", filters)) - OF_RAY <= set(EXPORTED[name].tags)
    tags = set.intersection(*({*EXPORTED[name].tags} for name in names_in([query])))
    for by in re.findall(r"(?:by|on) \((.*?)\)", query):
        assert {*by.split(", ")} - OF_RAY <= tags


def test_the_dashboard_has_the_shape_of_rays_own():
    content, _ = grafana_dashboard_factory.generate_serve_grafana_dashboard()
    rays = json.loads(content)
    assert rays.keys() - {"gnetId", "iteration", "rayMeta"} <= DASHBOARD.keys()
    assert DASHBOARD["uid"] != rays["uid"]
    (source, cluster), *_ = [
        [each for each in DASHBOARD["templating"]["list"] if each["name"] in ("datasource", "Cluster")]
    ]
    assert source == next(each for each in rays["templating"]["list"] if each["name"] == "datasource")
    assert cluster["query"]["query"].endswith(", ray_io_cluster)")
    keys = {"datasource", "description", "fieldConfig", "gridPos", "id", "options", "targets", "title", "type"}
    assert all(keys == panel.keys() and panel["datasource"] == "${datasource}" for panel in PANELS)
    assert all(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken = [
        (x, y)
        for at in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def test_every_alert_says_what_to_do_and_the_page_has_it():
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert f"`{rule['alert']}`" in PAGE


def test_the_commands_of_a_runbook_exist():
    named = set(re.findall(r"`partition-actor ([a-z-]+)", PAGE + RULES_FILE.read_text().replace("\n", " ")))
    assert named <= program.commands.keys()
    assert {"events", "status", "doctor"} <= named


def test_every_alert_has_a_test_in_which_it_fires():
    tests = (RULES_FILE.parent / "rules_test.yaml").read_text()
    firing = set(re.findall(r'labels: \'[^\']*alertname="(\w+)"', tests)) | {"PartitionActorGone"}
    assert firing == {rule["alert"] for rule in RULES}


@needs_promtool
@pytest.mark.parametrize("command", ["check rules rules.yaml", "test rules rules_test.yaml"])
def test_promtool_finds_no_fault(command):
    ran = subprocess.run(["promtool", *command.split()], cwd=RULES_FILE.parent, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_promtool
def test_prometheus_can_read_the_queries_of_the_dashboard(tmp_path):
    exprs = [target["expr"].replace("$__rate_interval", "1m") for panel in PANELS for target in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(exprs)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    ran = subprocess.run(["promtool", "check", "rules", "rules.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_first_increase_of_a_counter_follows_a_zero(monkeypatch):
    recorded = []
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    for verb in ("inc", "_record"):
        monkeypatch.setattr(Counter, verb, lambda self, value, tags: recorded.append((value, tags["group"])))
    recorder = Recorder(actor="a")

    def recording(value, group="g", **options):
        recorder.begin(**options)
        recorder.add("epochs", value, group=group)
        taken = recorded.copy()
        recorded.clear()
        return taken

    assert recording(5) == [(0.0, "g")]
    assert [recording(1), recording(0)] == [[], []]
    assert recording(2) == [(6, "g"), (2, "g")]
    assert recording(3, "h") == [(0.0, "h")]
    assert recording(0, last=True) == [(3, "h")]


def test_without_rays_metrics_nothing_is_lost_and_one_line_says_so(monkeypatch, caplog):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setitem(sys.modules, "ray.util.metrics", None)
    metrics._instrument.cache_clear()
    recorder = Recorder(actor="a")
    recorder.set("sessions", 1)
    recorder.add("heartbeats", 1)
    assert not recorder.works
    assert [record.levelname for record in caplog.records] == ["WARNING"]
