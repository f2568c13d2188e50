"""What an operator is told of a real cluster: each change with its cause, its witness and its process."""

import os
import signal

import pytest
import ray
from deployments import LIMIT, wait_until
from fleet_statuses import fleet
from members import ExclusiveWorker, HandedOver, LockHolder, Worker, member_in_a_task

from partition_actor.core.events import Cause
from partition_actor.errors import InvalidArgument


class Reader:
    """Follows the events of a deployment, or of one group."""

    def __init__(self, deployment, group=None):
        self.deployment, self.group = deployment, group
        self.since = deployment.call("status")["events"]
        self.events = []

    def read(self):
        answer = self.deployment.call("events", self.since, self.group)
        self.since = answer["next"]
        self.events += answer["events"]
        return self.events

    def find(self, what, **fields):
        """The events of this kind with these fields, so far."""
        wanted = {"what": what, **fields}
        return [event for event in self.read() if wanted.items() <= event.items()]

    def wait_for(self, what, **fields):
        """The first such event, as soon as there is one."""
        return wait_until(lambda: self.find(what, **fields))[0]


def pid_of(worker):
    return ray.get(worker.pid.remote(), timeout=LIMIT)


def member_of(deployment, group, member_id):
    (found,) = [each for each in deployment.call("status", group)["members"] if each["id"] == member_id]
    return found


@pytest.fixture
def worker(steady, group, spawn):
    """An actor that is a member, with its pid."""
    made = spawn(Worker, *steady.worker_arguments("worker", group))
    pid = pid_of(made)
    wait_until(lambda: steady.members(group) == ["worker"])
    return made, pid


def test_who_joins_is_told_with_its_node_and_process(steady, group, spawn):
    reader = Reader(steady, group)
    worker = spawn(ExclusiveWorker, *steady.worker_arguments("worker", group))
    joined = reader.wait_for("joined", member="worker")
    node = ray.get_runtime_context().get_node_id()
    assert (joined["node"], joined["pid"]) == (node, pid_of(worker))
    assert joined["epoch"] == steady.call("status", group)["epoch"]
    member = member_of(steady, group, "worker")
    assert (member["node"], member["pid"], member["session"]) == (node, joined["pid"], joined["session"])
    assert member["watched_by"] == "actor"


def test_a_killed_actor_has_died_and_the_kernel_is_the_witness(steady, group, worker):
    reader = Reader(steady, group)
    os.kill(worker[1], signal.SIGKILL)
    died = reader.wait_for("died", member="worker")
    assert "the kernel of its node closed its connection" in died["why"]
    assert died["pid"] == worker[1]
    assert died["seconds"] >= 0.0


def test_an_actor_that_ray_ends_is_ending_and_then_dead(steady, group, worker):
    reader = Reader(steady, group)
    ray.kill(worker[0])
    died = reader.wait_for("died", member="worker")
    assert "the kernel of its node says that it has ended" in died["why"]
    assert [event["what"] for event in reader.events] == ["ending", "died"]


def test_a_killed_task_has_died_and_the_kernel_of_this_node_is_the_witness(steady, group, tmp_path):
    reader = Reader(steady, group)
    task = ray.remote(member_in_a_task).options(num_cpus=0, max_retries=0)
    reference = task.remote(*steady.worker_arguments("in-task", group), str(tmp_path / "pid"))
    joined = reader.wait_for("joined", member="in-task")
    assert member_of(steady, group, "in-task")["watched_by"] == "process"
    os.kill(joined["pid"], signal.SIGKILL)
    assert "says that its process has ended" in reader.wait_for("died", member="in-task")["why"]
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(reference, timeout=LIMIT)


def test_a_stopped_process_expires_and_rejoins(hasty, group, spawn):
    reader = Reader(hasty, group)
    worker = spawn(Worker, *hasty.worker_arguments("worker", group))
    pid = pid_of(worker)
    reader.wait_for("joined", member="worker")
    os.kill(pid, signal.SIGSTOP)
    try:
        expired = reader.wait_for("expired", member="worker")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert expired["seconds"] >= hasty.settings.ttl
    assert expired["why"] == f"no heartbeat for {expired['seconds']:.1f} s"
    assert reader.wait_for("rejoined", member="worker")["pid"] == pid


def test_a_bare_caller_is_told_of_as_well(steady, group, spawn):
    reader = Reader(steady, group)
    caller = spawn(HandedOver, steady.handle, "caller")
    ray.get(caller.ask.remote("join", group=group), timeout=LIMIT)
    pid = pid_of(caller)
    assert (member_of(steady, group, "caller")["pid"], member_of(steady, group, "caller")["watched_by"]) == (
        pid,
        "actor",
    )
    os.kill(pid, signal.SIGKILL)
    assert reader.wait_for("died", member="caller")["pid"] == pid


def test_nobody_tells_of_the_death_of_one_that_has_only_the_handle(steady, group):
    steady.call("join", group, "bare")
    member = member_of(steady, group, "bare")
    assert (member["node"], member["pid"], member["watched_by"]) == (None, None, "lease")


def test_what_operators_do_is_told(steady, group):
    reader = Reader(steady, group)
    for member_id in ("a", "b", "c"):
        steady.call("join", group, member_id)
    steady.call("drain", group, "a")
    steady.call("forget", group, "b")
    steady.call("leave", group, "c")
    told = [(event["what"], event["member"]) for event in reader.read()[-3:]]
    assert told == [("drained", "a"), ("forgotten", "b"), ("left", "c")]


def test_a_broken_lock_and_the_next_holder_are_told(steady, group):
    reader = Reader(steady)
    first, second = (steady.member(name).lock(group) for name in ("first", "second"))
    assert first.acquire()
    lock = f"lock:{group}"
    reader.wait_for("lock_granted", member="first", lock=lock)
    steady.call("break_lock", lock)
    assert second.acquire()
    reader.wait_for("lock_granted", member="second", lock=lock)
    assert [event["what"] for event in reader.events if event["lock"] == lock] == [
        "lock_granted",
        "lock_broken",
        "lock_granted",
    ]


def test_a_lock_is_lost_with_its_holder_and_so_is_a_lead(steady, group, spawn):
    reader = Reader(steady)
    holder = spawn(LockHolder, *steady.worker_arguments("holder", group))
    ray.get(holder.elect.remote(), timeout=LIMIT)
    steady.call("join", group, "somebody")
    reader.wait_for("leader", group=group, member="holder")
    assert steady.call("status")["groups"][group]["leader"] == steady.call("status", group)["leader"] == "holder"
    pid = pid_of(holder)
    os.kill(pid, signal.SIGKILL)
    reader.wait_for("leader", group=group, member=None)
    lost = reader.wait_for("lock_lost", member="holder", lock=f"lock:{group}")
    assert lost["pid"] == pid
    assert "the kernel" in lost["why"]
    assert steady.call("status", group)["leader"] is None


def test_who_holds_a_hand_off_up_is_told_and_when_it_is_over(hasty, group, spawn):
    reader = Reader(hasty, group)
    worker = spawn(ExclusiveWorker, *hasty.worker_arguments("slow", group))
    pid = pid_of(worker)
    reader.wait_for("joined", member="slow")
    os.kill(pid, signal.SIGSTOP)
    try:
        hasty.call("join", group, "next", exclusive=True)
        handoff = hasty.call("status")["groups"][group]["handoff"]
        assert (handoff["held_up_by"], handoff["members"]) == (["slow"], 1)
        assert member_of(hasty, group, "slow")["lag"] > 0.0
        over = reader.wait_for("handed_over", member="slow")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert over["seconds"] > 0.0
    assert "held it up" in over["why"]


def test_a_cursor_that_fell_behind_is_told_how_much_it_missed(hasty, group):
    since = hasty.call("status")["events"]

    def fill(self):
        for _ in range(10_010):
            self._driver.membership.events.record(0.0, Cause("settings", ("the same",)))

    ray.get(hasty.handle.__ray_call__.remote(fill), timeout=LIMIT)
    answer = hasty.call("events", since)
    assert answer["missed"] == 10
    assert (len(answer["events"]), answer["more"]) == (500, True)
    assert hasty.call("events", answer["next"], limit=1)["missed"] == 0


def test_the_next_partition_actor_knows_a_cursor_that_is_not_its_own(hasty, group):
    hasty.call("join", group, "member")
    since = hasty.call("status")["events"]
    os.kill(hasty.call("status")["pid"], signal.SIGKILL)

    def answered():
        try:
            return hasty.call("events", since)
        except ray.exceptions.RayActorError:
            return None

    answer = wait_until(answered)
    assert answer["missed"] == -1
    assert answer["events"][0]["what"] == "started"
    reader = Reader(hasty)
    reader.since = answer["next"]
    reader.wait_for("recovered", group=None)


def test_observe_is_status_of_all_and_of_groups_events_and_fleets_at_one_moment(steady, group):
    since = steady.call("status")["events"]
    steady.call("note_fleet", fleet(f"{group}-fleet", group))
    steady.call("join", group, "member")
    seen = steady.call("observe", [group, "no such group"], since)
    assert seen["status"]["groups"][group]["members"] == 1
    assert seen["status"]["events"] == seen["events"]["next"]
    assert [event["what"] for event in seen["events"]["events"] if event["group"] == group] == ["joined"]
    assert [member["share"] for member in seen["groups"][group]["members"]] == [pytest.approx(1.0)]
    assert seen["groups"]["no such group"] is None
    assert seen["fleets"][f"{group}-fleet"]["group"] == group


def test_status_tells_how_busy_the_partition_actor_is(steady, group):
    member = steady.member("member")
    member.join_group(group)
    before = steady.call("status")
    wait_until(lambda: steady.call("status")["heartbeats"] > before["heartbeats"])
    wait_until(lambda: steady.call("status")["held"] >= 1)
    status = steady.call("status")
    assert status["namespace"] == steady.namespace
    assert status["max_members"] == steady.settings.max_members
    assert status["late"] >= 0.0
    assert status["longest_step"] >= 0.0


@pytest.mark.parametrize("bad", ["", 5, b"group"])
def test_a_group_that_cannot_be_one_is_refused(steady, bad):
    with pytest.raises(InvalidArgument, match="group"):
        steady.call("events", group=bad)
    with pytest.raises(InvalidArgument, match="groups, a group"):
        steady.call("observe", [bad])
