"""The programs of ``jobs`` on a real ``ray start --head``, by address and by ``ray job submit``."""

import json
import subprocess
import sys

import pyarrow.dataset
import pytest
from heads import LIMIT, ROOT, Head
from job_runs import Run


@pytest.fixture(scope="module")
def head():
    head = Head()
    try:
        head.wait()
        yield head
    finally:
        head.stop()


def deploy(head, *arguments):
    return head.run("python", "-m", "jobs.deploy", "--address", head.address, *arguments)


def samples_in(out):
    (dataset,) = out.iterdir()
    return pyarrow.dataset.dataset(dataset / "samples", format="parquet").to_table()


def cycles_in(out):
    return set(samples_in(out)["cycle"].to_pylist())


def test_submitted_to_a_cluster_the_job_runs_with_a_kill_and_succeeds(head, tmp_path):
    submitted = head.run(
        *("ray", "job", "submit", f"--address={head.dashboard}", "--submission-id=polling"),
        *("--working-dir", ".", "--", "python", "-m", "jobs.poll", "--config", "jobs/poll.yaml"),
        *("--kill", 1, "--cycles", 4, "--interval", 0, "--out", tmp_path / "out"),
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    status = head.run("ray", "job", "status", "polling", f"--address={head.dashboard}")
    assert "'polling' succeeded" in status.stdout
    logs = head.run("ray", "job", "logs", "polling", f"--address={head.dashboard}").stdout
    for part in ("cycle 4 of 4", "share per agent", "killed in cycle 2", "survivors covered everything again"):
        assert part in logs
    assert "\r" not in logs
    assert cycles_in(tmp_path / "out") == {1, 2, 3, 4}


def test_a_submitted_job_with_bad_input_fails_with_one_line(head):
    submitted = head.run(
        *("ray", "job", "submit", f"--address={head.dashboard}", "--submission-id=refused"),
        *("--working-dir", ".", "--", "python", "-m", "jobs.poll", "--agents", 0),
    )
    assert submitted.returncode != 0
    logs = head.run("ray", "job", "logs", "refused", f"--address={head.dashboard}").stdout
    assert "jobs.poll: --agents 0: expected a number greater than or equal to 1" in logs
    assert "Traceback" not in logs


def test_the_job_joins_a_running_ray_and_shuts_down_the_partition_actor_that_it_deployed(head, tmp_path):
    ran = head.run(
        *("python", "-m", "jobs.poll", "--address", "auto", "--agents", 2, "--cycles", 2),
        *("--interval", 0, "--out", tmp_path / "out"),
        RAY_ADDRESS=head.address,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert cycles_in(tmp_path / "out") == {1, 2}
    assert deploy(head, "--status").returncode == 1


def test_agents_of_two_jobs_share_everything_and_a_third_job_must_say_that_it_joins(head, runs, tmp_path):
    (tmp_path / "targets.txt").write_text("\n".join(f"127.0.0.1:{port}" for port in range(1, 31)))
    config = tmp_path / "poll.yaml"
    source = "{name: all, discovery: [cores, 'file:targets.txt']}"
    config.write_text(f"agents: 2\ncycles: 0\ninterval: 0.5\nspread: 0.1\nsources: [{source}]\n")

    def start(name, *arguments):
        options = ("--address", head.address, "--config", config, "--out", tmp_path / name)
        return runs.enter_context(Run("jobs.poll", *options, *arguments))

    nobody = start("nobody", "--join")
    assert (nobody.end(), nobody.lines) == (
        2,
        ["jobs.poll: --join: group pollers has no agents yet; start a run without --join"],
    )
    first = start("first")
    first.read_until("cycle 2")
    third = start("third")
    assert (third.end(), third.lines) == (
        2,
        ["jobs.poll: --group pollers: it has 2 members; --join adds agents to them"],
    )
    same = config.read_text()
    config.write_text(same.replace("[cores,", "["))
    other = start("other", "--join")
    assert (other.end(), other.lines) == (
        2,
        ["jobs.poll: --join: the agents in group pollers poll other sources; give both runs the same"],
    )
    config.write_text(same)
    second = start("second", "--join")
    second.read_until("cycle 3")
    second.process.terminate()
    assert second.end() == 0, second.text
    first.process.terminate()
    assert first.end() == 0, first.text
    polled = {}  # (epoch, resource) -> who polled it
    epochs = []
    for name in ("first", "second"):
        rows = samples_in(tmp_path / name).to_pylist()
        epochs.append({row["epoch"] for row in rows})
        for row in rows:
            polled.setdefault((row["epoch"], row["resource_id"]), set()).add((name, row["agent"]))
    assert all(len(agents) == 1 for agents in polled.values())
    both = epochs[0] & epochs[1]
    assert {resource for epoch, resource in polled if epoch in both} >= {
        f"tcp:127.0.0.1:{port}" for port in range(1, 31)
    }
    assert {name for (epoch, _), agents in polled.items() if epoch in both for name, _ in agents} == {"first", "second"}


def test_deploy_serves_other_jobs_and_takes_it_down_again(head, tmp_path):
    settings = tmp_path / "settings.yaml"
    settings.write_text("ttl: 7.5\n")
    for _ in range(2):  # safe to repeat
        deployed = deploy(head, "--settings", settings)
        assert deployed.returncode == 0, deployed.stderr
        assert "actor='partition-actor', namespace='partition_actor'" in deployed.stdout
    polled = head.run(
        *("python", "-m", "jobs.poll", "--agents", 1, "--cycles", 1, "--out", tmp_path / "out"),
        RAY_ADDRESS=head.address,
    )
    assert polled.returncode == 0, polled.stdout + polled.stderr
    assert polled.stdout.startswith("starting 1 agent on each node\n")
    status = deploy(head, "--status")
    assert status.returncode == 0, status.stderr
    assert "7.5" in json.dumps(json.loads(status.stdout))
    down = deploy(head, "--down")
    assert down.returncode == 0, down.stderr
    assert "is down" in down.stdout
    again = deploy(head, "--down")
    assert again.returncode == 1
    assert again.stderr.startswith("jobs.deploy: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--settings", "gone.yaml"], "gone.yaml"),
        (["--down", "--status"], "not allowed with"),
        (["--address", "local"], "would end with this program"),
        (["--nmae", "x"], "unrecognized arguments"),
    ],
)
def test_bad_input_to_deploy_is_one_line_and_status_2(arguments, said):
    ran = subprocess.run(
        [sys.executable, "-m", "jobs.deploy", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT
    )
    assert ran.returncode == 2
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith("jobs.deploy: ")
    assert said in line
