"""The command line on a real Ray: most commands in this process, and a few as programs of their own."""

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import click
import pytest
import ray
from click.testing import CliRunner
from deployments import HASTY, LIMIT, QUICK, STEADY, wait_until

from partition_actor import Settings
from partition_actor.operate import connection
from partition_actor.operate.command_line import program
from partition_actor.operate.observer import Observer
from partition_actor.operate.options import Chosen, Failure

DOCUMENT = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()
MODULE = [sys.executable, "-m", "partition_actor.operate"]


class Terminal:
    """Runs commands against one partition actor, in this process."""

    def __init__(self, deployment):
        self.where = ["--name", deployment.name, "--namespace", deployment.namespace]

    def __call__(self, *arguments, given=None, expected=0, columns=80):
        command = [*map(str, arguments), *self.where]
        result = CliRunner(env={"COLUMNS": str(columns)}).invoke(program, command, input=given, prog_name="p")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == expected, (result.stdout, result.stderr)
        return result

    def json(self, *arguments, **options):
        return json.loads(self(*arguments, "--json", **options).stdout)

    def lines(self, *arguments, **options):
        return [json.loads(line) for line in self(*arguments, "--json", **options).stdout.splitlines()]


@pytest.fixture
def terminal(steady):
    return Terminal(steady)


def refusal(result):
    """The one line on stderr, without anything on stdout."""
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


# -- looking ----------------------------------------------------------------------------------------------------------


def test_status_shows_the_partition_actor_and_its_groups(steady, terminal, group):
    for number in (1, 2):
        steady.member(f"agent-{number}").join_group(group, exclusive=True)
    told = terminal.json("status")
    assert told["name"] == steady.name
    assert told["groups"][group]["members"] == 2
    lines = terminal("status").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert next(line.split()[1:3] for line in lines if line.startswith(group)) == ["exclusive", "2"]


def test_status_of_a_group_shows_its_members(steady, terminal, group):
    for number in (1, 2):
        steady.member(f"agent-{number}").join_group(group, weight=number)
    wait_until(lambda: all(each["lag"] == 0 for each in terminal.json("status", group)["members"]))
    told = {each["id"]: each for each in terminal.json("status", group)["members"]}
    assert told["agent-2"]["weight"] == 2
    assert told["agent-2"]["pid"] == os.getpid()
    assert sum(each["share"] for each in told.values()) == pytest.approx(1)
    for columns in (80, 160):
        lines = terminal("status", group, columns=columns).stdout.splitlines()
        (line,) = [line for line in lines if line.startswith("agent-2")]
        assert max(map(len, lines)) <= columns
        assert {f"{100 * told['agent-2']['share']:.1f}%", str(os.getpid()), told["agent-2"]["watched_by"]} <= {
            *line.split()
        }


@pytest.mark.parametrize("settings", [STEADY, Settings(**{**STEADY.to_dict(), "hash_function": "md5", "vnodes": 40})])
def test_owners_and_subsets_are_the_partition_actors_own(make_deployment, tmp_path, group, settings):
    deployment = make_deployment(settings)
    deployment.deploy()
    terminal = Terminal(deployment)
    for number in (1, 2, 3):
        deployment.member(f"agent-{number}").join_group(group, weight=number)
    keys = [f"key {number} ü" for number in range(60)]
    owners = {key: deployment.call("get_owner", group, key) for key in keys}
    assert terminal.json("owner", group, *keys)["owners"] == owners
    assert terminal("owner", group, *keys[:2]).stdout == "".join(f"{key}\t{owners[key]}\n" for key in keys[:2])
    file = tmp_path / "keys"
    file.write_text("".join(f"{key}\n" for key in keys))
    theirs = [key for key in keys if owners[key] == "agent-3"]
    assert theirs
    assert terminal("subset", group, "agent-3", file).stdout.splitlines() == theirs
    assert terminal.lines("subset", group, "agent-3", "-", given=file.read_bytes()) == theirs


def test_keys_that_are_no_text_are_refused(steady, terminal, group):
    steady.member("agent-1").join_group(group)
    assert "<stdin>:2: byte 0xff" in refusal(terminal("subset", group, "agent-1", "-", given=b"\n\xff\n", expected=2))
    assert "no member 'nobody'" in refusal(terminal("subset", group, "nobody", "-", given="", expected=1))


def test_events_tell_what_happened_to_a_group(steady, terminal, group):
    member = steady.member("agent-1")
    member.join_group(group)
    member.leave_group(group)

    def told(*options):
        return {each["id"]: each for each in terminal.lines("events", "--group", group, *options)}

    def ids(*options):
        return list(told(*options))

    first, last = found = wait_until(lambda: len(found := told()) == 2 and found)
    assert [found[each]["what"] for each in found] == ["joined", "left"]
    assert {each["member"] for each in found.values()} == {"agent-1"}
    assert ids("--last", 1) == ids("--since", last) == [last]
    assert ids("--since", "1h") == [first, last]
    joined, left = terminal("events", "--group", group).stdout.splitlines()
    assert re.search(rf"joined\s+{group}  agent-1", joined)
    assert re.search(rf"left\s+{group}  agent-1", left)


def test_events_of_a_former_partition_actor_are_a_gap(terminal):
    assert terminal.lines("events", "--since", 1)[0] == {"what": "missed", "missed": -1}
    assert "another partition actor" in terminal("events", "--since", 1).stdout.splitlines()[0]


def test_top_prints_one_screen_where_there_is_no_terminal(steady, terminal, group):
    steady.member("agent-1").join_group(group)
    text = terminal("top", "--interval", 0.5).stdout
    assert "heartbeats/s" in text
    assert group in text
    (look,) = terminal.lines("top", "--once", "--interval", 0.5)
    assert look["heartbeats_per_second"] >= 0
    assert look["status"]["groups"][group]["members"] == 1


def test_an_observer_finds_the_partition_actor_again(hasty):
    chosen = Chosen()
    chosen.name, chosen.namespace, chosen.as_json = hasty.name, hasty.namespace, False
    with click.Context(program, obj=chosen):
        observer = Observer(hasty.handle, hasty.call("status")["events"])
        first = observer.ask()
        assert first["events"]["missed"] == 0
        ray.kill(hasty.handle, no_restart=True)
        wait_until(lambda: observer.ask() is None)
        assert observer.lost_for > 0
        assert observer.reason
        hasty.deploy()
        back = wait_until(observer.ask)
    assert observer.lost_for == 0
    assert back["events"]["missed"] == -1
    assert back["status"]["incarnation"] > first["status"]["incarnation"]


def test_doctor_finds_a_sound_partition_actor_sound(terminal):
    found = {each["check"]: each for each in terminal.json("doctor")}
    assert {"ray", "death watch", "partition actor", "version", "node", "clocks", "room", "recovery"} <= set(found)
    assert not [each for each in found.values() if each["level"] == "FAIL"]
    assert found["node"]["level"] == "OK"
    assert found["clocks"]["level"] == "OK"
    assert (found["features of Ray"]["level"], found["metrics"]["level"]) == ("OK", "OK")


def test_doctor_says_what_to_do(make_deployment, group):
    terminal = Terminal(make_deployment())
    result = terminal("doctor", expected=1)
    assert "FAIL partition actor: there is no partition actor" in result.stdout
    assert "`partition-actor deploy`" in result.stdout
    full = make_deployment(Settings(**{**HASTY.to_dict(), "max_members": 1, "ttl": 1.0, "hold": 0.4}))
    full.deploy()
    full.call("join", group, "bare")
    found = {each["check"]: each for each in Terminal(full).json("doctor", expected=1)}
    assert found["room"]["level"] == "FAIL"
    assert found["settings"]["level"] == "WARN"
    assert found["members"]["level"] == "WARN"
    assert all(each["advice"] for each in found.values() if each["level"] != "OK")


# -- changing ---------------------------------------------------------------------------------------------------------


def test_deploy_and_shutdown(make_deployment, tmp_path):
    deployment = make_deployment()
    terminal, file = Terminal(deployment), tmp_path / "settings.yaml"
    file.write_text("ttl: 4\nhold: 1\n")
    made = terminal.json("deploy", "--settings", file)
    assert (made["created"], made["differing"], made["settings"]["ttl"]) == (True, [], 4.0)
    file.write_text("ttl: 5\nhold: 1\n")
    again = terminal("deploy", "--settings", file)
    assert "runs already" in again.stdout
    assert "ttl is 4.0, not 5.0" in again.stdout
    replaced = terminal("deploy", "--replace", "--settings", file)
    assert "is replaced" in replaced.stdout
    assert "0 sessions taken over" in replaced.stdout
    assert terminal.json("deploy", "--replace")["settings"]["ttl"] == 5.0
    file.write_text("vnodes: 7\n")
    assert "keys would move" in refusal(terminal("deploy", "--replace", "--settings", file, expected=2))
    file.write_text("ttl: much\n")
    assert "ttl" in refusal(terminal("deploy", "--settings", file, expected=2))
    assert "has ended" in terminal("shutdown", "--yes").stdout
    assert "`partition-actor deploy` starts one" in refusal(terminal("shutdown", "--yes", expected=3))


def test_forget_and_drain(steady, terminal, group):
    for number in (1, 2):
        steady.member(f"agent-{number}").join_group(group)
    assert terminal.json("forget", group, "agent-1", "--yes")["epoch"]
    wait_until(lambda: len(steady.members(group)) == 2)  # it is alive, so it rejoins
    told = terminal.json("drain", group, "agent-2", "--wait", "--yes")
    assert told["seconds"] < LIMIT
    assert steady.members(group) == ["agent-1"]
    assert "no member 'agent-2'" in refusal(terminal("drain", group, "agent-2", "--yes", expected=1))
    assert "nowhere" in refusal(terminal("drain", "nowhere", "agent-2", "--yes", expected=1))


def test_drain_waits_for_the_keys_and_says_who_holds_them(make_deployment, group):
    deployment = make_deployment(Settings(**{**QUICK.to_dict(), "handoff_timeout": 60.0}))
    deployment.deploy()
    terminal, may_return = Terminal(deployment), threading.Event()
    member = deployment.member("agent-1")
    member.join_group(group, exclusive=True)
    deployment.member("agent-2").join_group(group)
    partition = member.partition(group, range(20))
    gained = threading.Event()
    partition.on_gained(lambda _keys: gained.set())
    partition.on_lost(lambda _keys: may_return.wait(LIMIT))
    assert gained.wait(LIMIT)
    held = terminal("drain", group, "agent-1", "--wait", "--timeout", 0.1, "--yes", expected=4)
    assert "waiting for agent-1 to hand its keys over" in held.stderr
    handoff = terminal.json("status")["groups"][group]["handoff"]
    assert handoff["held_up_by"] == ["agent-1"]
    may_return.set()
    wait_until(lambda: [each["id"] for each in terminal.json("status", group)["members"]] == ["agent-2"])


def test_locks_are_shown_and_broken(steady, terminal, group):
    member, other = steady.member("agent-1"), steady.member("agent-2")
    lock, name = member.lock(group), f"lock:{group}"
    lock.acquire()
    member.join_group(group)
    member.elect(group)
    wait_until(lambda: f"leader:{group}" in terminal.json("locks"))
    waiting = other.lock(group)
    waiter = threading.Thread(target=waiting.acquire)
    waiter.start()
    wait_until(lambda: terminal.json("locks")[name]["waiting"] == ["agent-2"])
    assert terminal.json("locks")[name]["holders"][0]["id"] == "agent-1"
    assert sorted(line.split()[1:3] for line in terminal("locks").stdout.splitlines() if line.startswith(group)) == [
        ["leader", "agent-1"],
        ["lock", "agent-1"],
    ]
    assert terminal.json("break-lock", group, "--yes") == {"lock": name, "holders": 1}
    waiter.join(LIMIT)
    assert waiting.held
    assert not lock.held
    waiting.release()
    assert "see `locks`" in refusal(terminal("break-lock", f"{group}-unknown", "--yes", expected=1))


def test_settings_are_shown_and_wrong_ones_are_refused(terminal):
    assert terminal.json("settings") == STEADY.to_dict()
    assert "60.0" in next(line for line in terminal("settings").stdout.splitlines() if line.startswith("ttl"))
    assert "no setting" in terminal("settings", "set", "tlt=5", "--yes", expected=2).stderr
    assert "expected field=value" in terminal("settings", "set", "ttl", "--yes", expected=2).stderr
    assert "ttl" in refusal(terminal("settings", "set", "ttl=0.1", "--yes", expected=2))


def test_settings_are_changed_while_it_runs(quick):
    terminal = Terminal(quick)
    told = terminal("settings", "set", "hold=0.3", "handoff_timeout=1", "--yes").stdout
    assert told.splitlines() == ["handoff_timeout: 0.8 -> 1.0", "hold: 0.4 -> 0.3"]
    assert terminal.json("settings")["hold"] == 0.3
    assert "nothing to change" in terminal("settings", "set", "hold=0.3", "--yes").stdout
    refused = refusal(terminal("settings", "set", "hash_function=md5", "hold=0.2", "--yes", expected=2))
    assert "hash_function" in refused
    assert "until the next deploy()" in refused
    assert terminal.json("settings")["hold"] == 0.3


@pytest.mark.parametrize("value", ["2001-99-99", "!!int x", "!!bool x", "!!timestamp x", "[" * 5000, "9" * 5000])
def test_a_value_that_yaml_chokes_on_is_wrong_usage(value):
    result = CliRunner().invoke(program, ["settings", "set", f"ttl={value}", "--yes"])
    assert result.exit_code == 2
    assert "is not YAML" in result.stderr
    assert len(result.stderr) < 500


@pytest.mark.parametrize(
    "command",
    ["forget g m", "drain g m", "break-lock l", "shutdown", "settings set ttl=5"],
)
def test_what_changes_a_cluster_is_refused_where_nobody_can_be_asked(terminal, command):
    assert "--yes" in refusal(terminal(*command.split(), given="y\n", expected=2))


# -- errors and help --------------------------------------------------------------------------------------------------


def test_an_unknown_group_is_an_error_of_one_line(terminal):
    assert "nowhere" in refusal(terminal("status", "nowhere", expected=1))


def test_options_count_before_the_command_and_after_it(steady, monkeypatch):
    monkeypatch.setenv("PARTITION_ACTOR_NAME", "nobody")
    monkeypatch.setenv("PARTITION_ACTOR_NAMESPACE", steady.namespace)
    before = CliRunner().invoke(program, ["--name", steady.name, "--json", "status"])
    assert json.loads(before.stdout)["name"] == steady.name
    after = CliRunner().invoke(program, ["--name", "nobody", "status", "--name", steady.name, "--json"])
    assert json.loads(after.stdout)["name"] == steady.name
    assert CliRunner().invoke(program, ["status"]).exit_code == 3


def test_no_ray_is_started_for_want_of_one(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def none(_address):
        raise ConnectionError

    monkeypatch.setattr(connection.ray_internals, "bootstrap_address", none)
    with pytest.raises(Failure, match="ray start --head") as failure:
        connection.find_gcs(None)
    assert failure.value.exit_code == 3
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with pytest.raises(Failure, match="would start a new Ray"):
        connection.find_gcs(None)


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:none", "head:99999"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(Failure, match="expected host:port") as failure:
        connection.find_gcs(address)
    assert failure.value.exit_code == 2


def commands(found=program, path=()):
    for name, command in found.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_every_command_has_an_example_that_parses_and_a_place_in_the_document(path):
    told = CliRunner().invoke(program, [*path, "--help"], prog_name="partition-actor").stdout
    examples = told.partition("Example:\n")[2].strip().splitlines()
    assert examples
    for line in examples:
        words = shlex.split(re.split(r"[|<]", line)[0])
        assert words[0] == "partition-actor"
        assert CliRunner().invoke(program, [*words[1:], "--help"]).exit_code == 0, line
    assert f"`{' '.join(path)}" in DOCUMENT


# -- as a program of its own ------------------------------------------------------------------------------------------


def environment(**more):
    return {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(Path(__file__).parents[2]), **more}


def run(*arguments, **options):
    command = [*MODULE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment(), **options)


@pytest.fixture
def where(cluster, steady):
    return ["--address", cluster.address_info["gcs_address"], "--name", steady.name, "--namespace", steady.namespace]


@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_no_ray_is_one_line_and_exit_code_3(kind):
    with socket.create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if kind == "closed":
            server.close()
        result = run("status", "--address", address)
    assert result.returncode == 3
    assert "no Ray answers" in refusal(result)


def test_no_partition_actor_is_one_line_and_exit_code_3(where):
    result = run("status", *where, "--name", f"nobody-{uuid.uuid4().hex}")
    assert result.returncode == 3
    assert "`partition-actor deploy` starts one" in refusal(result)


def test_json_of_a_program_is_all_that_it_prints(steady, where):
    result = run("status", "--json", *where)
    assert json.loads(result.stdout)["name"] == steady.name
    assert result.stderr == ""


def test_a_reader_that_has_had_enough_ends_it_quietly(where):
    with subprocess.Popen(
        [*MODULE, "events", "--follow", "--json", "--since", "1", *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert json.loads(process.stdout.readline()) == {"what": "missed", "missed": -1}
        process.stdout.close()
        with contextlib.closing(Stirring(where)):
            assert process.wait(LIMIT) == 0
        assert process.stderr.read() == ""


class Stirring:
    """Makes events until it is closed."""

    def __init__(self, where):
        self._handle = ray.get_actor(where[3], where[5])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        group = f"stirred-{uuid.uuid4().hex}"
        while not self._over.wait(0.05):
            ray.get(self._handle.join.remote(group, "bare"))
            ray.get(self._handle.leave.remote(group, "bare"))

    def close(self):
        self._over.set()
        self._thread.join(LIMIT)


def test_following_events_ends_with_ctrl_c(steady, where, group):
    with subprocess.Popen(
        [*MODULE, "events", "--follow", "--json", "--last", "1", *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job of a shell ignores it
    ) as process:
        process.stdout.readline()
        steady.member("agent-1").join_group(group)
        wait_until(lambda: json.loads(process.stdout.readline())["group"] == group)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 0
        assert process.stderr.read() == ""


def on_a_terminal(*arguments, given="", **variables):
    """Run it on a pseudo-terminal of 80 columns. Returns the exit code and everything that it wrote."""
    ours, theirs = pty.openpty()
    env = environment(TERM="xterm-256color", COLUMNS="80", LINES="24", **variables)
    env = {name: value for name, value in env.items() if value is not None}
    process = subprocess.Popen([*MODULE, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    os.write(ours, given.encode())
    written = b""
    with contextlib.suppress(OSError):  # raised when the other side is closed
        while part := os.read(ours, 65536):
            written += part
    os.close(ours)
    return process.wait(LIMIT), written.decode()


def test_colours_are_for_terminals_and_not_with_no_color(steady, where):
    colours = re.compile(r"\x1b\[[\d;]*3\d")
    code, coloured = on_a_terminal("doctor", *where, NO_COLOR=None)
    assert code == 0
    assert colours.search(coloured)
    _, plain = on_a_terminal("doctor", *where, NO_COLOR="1")
    assert "ray:" in plain
    assert not colours.search(plain)
    assert "\x1b" not in Terminal(steady)("doctor").stdout


def test_a_person_is_told_what_will_happen_and_can_say_no(steady, where, group):
    steady.member("agent-1").join_group(group)
    code, written = on_a_terminal("drain", group, "agent-1", *where, given="n\n")
    assert code == 1
    assert "it hands 100.0% of the keys over" in written
    assert "NOBODY is left to get them" in written
    assert "nothing was changed" in written
    assert steady.members(group) == ["agent-1"]


def test_the_demonstration_lives_and_cleans_up(cluster):
    name = f"partition-actor-{uuid.uuid4().hex[:8]}"
    where = ["--address", cluster.address_info["gcs_address"], "--name", name, "--namespace", "tests"]
    process = subprocess.Popen(
        [*MODULE, "demo", "--members", "2", "--every", "0.2", "--seed", "1", "--json", *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert "2 members are in group demo" in json.loads(process.stdout.readline())["what"]
        handle = ray.get_actor(name, "tests")
        wait_until(lambda: "died" in {each["what"] for each in ray.get(handle.events.remote(0, "demo"))["events"]})
    finally:
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, errors) == (0, "")
    said = [json.loads(line)["what"] for line in out.splitlines()]  # and no line of Ray's own
    assert any("is killed" in what for what in said)
    assert said[-1] == "the partition actor that it deployed has ended"
    with pytest.raises(ValueError, match="Failed to look up actor"):
        ray.get_actor(name, "tests")
