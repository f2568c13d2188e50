"""What a real Ray node exports at its metrics port, after everything has happened that a metric tells of."""

import contextlib
import re
import subprocess
import sys
import urllib.request
from collections import defaultdict
from pathlib import Path

import pytest
from deployments import wait_until
from heads import LIMIT, ROOT, Head
from test_metric_definitions import EXPORTED, EXPRESSIONS, QUERIES, names_in

SCENARIO = Path(__file__).with_name("metrics_scenario.py")


@pytest.fixture(scope="module")
def head():
    head = Head(RAY_metrics_report_interval_ms="1000", PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
    try:
        head.wait()
        yield head
    finally:
        head.stop()


@pytest.fixture(scope="module")
def scenario(head, tmp_path_factory):
    """The process of the scenario, once everything has happened."""
    process = subprocess.Popen(
        [sys.executable, SCENARIO, tmp_path_factory.mktemp("scenario")],
        env={**head.environment, "RAY_ADDRESS": head.address},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(process, "ready")
        yield process
    finally:
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LIMIT)
        process.kill()


def wait_for(process, line):
    """Wait until a process prints a line; Ray prints others."""
    assert any(printed == f"{line}\n" for printed in process.stdout)


def scrape(head):
    """Our time series: name to the list of their tags and values."""
    with urllib.request.urlopen(head.metrics, timeout=LIMIT) as page:
        text = page.read().decode()
    found = defaultdict(list)
    for name, tags, value in re.findall(r"^(ray_partition_actor_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        found[name].append((dict(re.findall(r'(\w+)="(.*?)"', tags)), float(value)))
    return found


def test_every_metric_that_the_dashboard_and_the_alerts_name_is_exported_and_no_other(head, scenario):
    seen = defaultdict(list)

    def values(name, tag):
        return {tags[tag] for tags, _ in seen[name]}

    def missing():
        seen.update(scrape(head))
        names = names_in(QUERIES + EXPRESSIONS) - seen.keys()
        what = {"started", "joined", "died", "handed_over", "lock_granted"}
        kinds = {"NoOwner", "CallMayHaveRun"}
        what -= values("ray_partition_actor_changes_total", "what")
        return names | what | (kinds - values("ray_partition_actor_router_errors_total", "kind"))

    wait_until(lambda: not missing(), LIMIT)
    assert seen.keys() <= EXPORTED.keys()
    for name, series in seen.items():
        for tags, _ in series:
            assert {*EXPORTED[name].tags, "WorkerId"} <= tags.keys()
            assert tags["actor"] == "metered"


def test_a_group_that_is_gone_has_no_series_any_more(head, scenario):
    def groups():
        return {tags["group"] for tags, _ in scrape(head)["ray_partition_actor_members"]}

    wait_until(lambda: groups() >= {"tenants", "short-lived"})
    scenario.stdin.write("\n")
    scenario.stdin.flush()
    wait_for(scenario, "deleted")
    wait_until(lambda: "tenants" in groups() and "short-lived" not in groups())
