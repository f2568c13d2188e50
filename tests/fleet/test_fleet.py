"""Fleets of real workers on a real cluster."""

import contextlib
import os
import signal
import sys
import threading
import types

import crews
import pytest
import ray
from crews import AsyncClerk, Clerk, Dawdler, Sulker
from deployments import LIMIT, wait_until

from partition_actor import Autoscale, Fleet
from partition_actor.errors import (
    FleetNotFound,
    FleetNotReady,
    InvalidArgument,
    NotStarted,
    PartitionActorNotFound,
    PartitionError,
)


@pytest.fixture
def make(steady, group):
    """Make fleets of this test's group; they are stopped after the test."""
    ray.cloudpickle.register_pickle_by_value(crews)
    made = []

    def make(worker=Clerk, **options):
        options.setdefault("args", (group,))
        if not {"per_node", "autoscale"} & options.keys():
            options.setdefault("size", 2)
        where = {"actor": steady.name, "namespace": steady.namespace}
        made.append(Fleet(group, worker, exclusive=True, ready_timeout=LIMIT, **where, **options))
        return made[-1]

    yield make
    for fleet in made:
        fleet.stop()


def owned(fleet):
    """All keys that workers own, sorted."""
    calls = [handle.mine.remote() for handle in fleet.workers().values()]
    return sorted(key for keys in ray.get(calls) for key in keys)


def versions(fleet):
    return {each["version"] for each in fleet.status()["workers"] if each["phase"] == "serving"}


def worker_in(fleet, slot):
    return next(each for each in fleet.status()["workers"] if (each["slot"], each["phase"]) == (slot, "serving"))


def test_a_fleet_is_ready_when_all_keys_have_owners_and_ends_with_its_block(make, tmp_path, group):
    with make(kwargs={"directory": tmp_path}) as fleet:
        assert fleet.slots() == {0: f"{group}/0", 1: f"{group}/1"}
        assert owned(fleet) == list(range(60))
        pids = ray.get([handle.pid.remote() for handle in fleet.workers().values()])
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    assert len(list(tmp_path.iterdir())) == 2  # close() was called


def test_a_killed_worker_is_replaced_with_the_same_slot_id_and_keys(make):
    with make() as fleet:
        before = {slot: ray.get(handle.mine.remote()) for slot, handle in fleet.workers().items()}
        dead = worker_in(fleet, 1)
        os.kill(dead["pid"], signal.SIGKILL)
        wait_until(lambda: 1 in fleet.slots() and worker_in(fleet, 1)["pid"] != dead["pid"])
        fleet.wait_until_ready(LIMIT)
        assert {slot: ray.get(handle.mine.remote()) for slot, handle in fleet.workers().items()} == before
        assert worker_in(fleet, 1)["restarts"] == 1


def test_it_scales_up_and_down_while_a_worker_is_busy(make):
    with make() as fleet:
        fleet.workers()[0].sleep.remote(1000)
        fleet.scale(3)
        fleet.wait_until_ready(LIMIT)
        assert sorted(fleet.slots()) == [0, 1, 2]
        fleet.scale(1)
        wait_until(lambda: [each["slot"] for each in fleet.status()["workers"]] == [0])


def test_it_updates_one_worker_after_another_and_rolls_a_bad_version_back(make, group):
    with make() as fleet:
        assert fleet.update(Clerk, args=(group, 2)) == 2
        wait_until(lambda: fleet.status()["ready"] and not fleet.status()["updating"])
        assert versions(fleet) == {2}
        fleet.update(Clerk, args=(group, 3, True))
        wait_until(lambda: fleet.status()["update_failed"])
        fleet.wait_until_ready(LIMIT)
        assert "RuntimeError: it cannot come up" in fleet.status()["update_failed"]
        assert versions(fleet) == {2}


def test_a_deployed_fleet_outlives_its_controllers_death(make, steady, group):
    fleet = make().deploy(name=f"crew of {group}")
    pids = sorted(each["pid"] for each in fleet.status()["workers"])
    fleet.scale(3)
    fleet.wait_until_ready(LIMIT)
    controller = ray.get_actor(f"partition_actor_fleet:{fleet.name}", steady.namespace)
    ray.kill(controller, no_restart=False)
    again = Fleet.connect(f"crew of {group}", steady.namespace)
    wait_until(lambda: again.status()["ready"])
    after = again.status()
    assert after["size"] == 3
    assert set(pids) < {each["pid"] for each in after["workers"]}
    os.kill(worker_in(again, 0)["pid"], signal.SIGKILL)
    wait_until(lambda: again.status()["restarts"] == 1 and again.status()["ready"])
    again.stop()
    with pytest.raises(FleetNotFound):
        Fleet.connect(f"crew of {group}", steady.namespace)
    prefix = f"partition_actor_fleet_worker:crew of {group}/"
    wait_until(lambda: not any(each.startswith(prefix) for each in ray.util.list_named_actors(all_namespaces=False)))


def test_workers_that_report_more_load_get_company(make):
    rule = Autoscale(min=1, max=2, target=10.0, load="depth", up_after=0.5, down_after=0.5)
    with make(autoscale=rule) as fleet:
        ray.get(fleet.workers()[0].set_load.remote(20.0))
        wait_until(lambda: sorted(fleet.slots()) == [0, 1])
        ray.get(fleet.workers()[0].set_load.remote(0.0))
        wait_until(lambda: sorted(fleet.slots()) == [0])


def test_an_asyncio_worker_whose_loop_is_held_up_still_hands_over(make, tmp_path):
    with make(AsyncClerk, args=(tmp_path,)) as fleet:
        fleet.workers()[0].hold_up_the_loop.remote()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_worker_that_does_not_return_from_close_is_ended_all_the_same(make):
    with make(Dawdler, drain_timeout=2.0) as fleet:
        fleet.scale(1)
        wait_until(lambda: [each["slot"] for each in fleet.status()["workers"]] == [0])


def test_on_ready_is_called_when_all_workers_serve(make):
    told = []
    with make(on_ready=told.append) as fleet:
        wait_until(lambda: told)
        assert told[0] is fleet


def test_a_fleet_that_cannot_start_says_why_and_leaves_nothing(steady, group):
    ray.cloudpickle.register_pickle_by_value(crews)
    fleet = Fleet(
        group,
        Clerk,
        size=1,
        args=(group, 1, True),
        actor=steady.name,
        namespace=steady.namespace,
        ready_timeout=LIMIT,
    )
    with pytest.raises(FleetNotReady, match="RuntimeError: it cannot come up"):
        fleet.start()
    with pytest.raises(NotStarted):
        fleet.status()


def test_it_needs_a_partition_actor(steady, group):
    with pytest.raises(PartitionActorNotFound):
        Fleet(group, Clerk, size=1, actor="nobody", namespace=steady.namespace).start()


def test_bad_arguments_are_refused_and_named():
    remote = ray.remote(Clerk)
    for match, options in (
        ("size, per_node, autoscale: got .* expected exactly one", {}),
        ("size, per_node, autoscale", {"size": 1, "per_node": 1}),
        ("size: got -1", {"size": -1}),
        ("per_node: got 0", {"per_node": 0}),
        ("autoscale: got 5", {"autoscale": 5}),
        ("kwargs: got", {"size": 1, "kwargs": [1]}),
        ("options, lifetime: got 'detached', expected none", {"size": 1, "options": {"lifetime": "detached"}}),
        ("options: got .*nonsense", {"size": 1, "options": {"nonsense": 1}}),
        ("drain_timeout: got 0", {"size": 1, "drain_timeout": 0}),
        ("spread: got ''", {"size": 1, "spread": ""}),
    ):
        with pytest.raises(InvalidArgument, match=match):
            Fleet("group", Clerk, **options)
    with pytest.raises(InvalidArgument, match=r"worker: got .* without @ray.remote"):
        Fleet("group", remote, size=1)
    with pytest.raises(NotStarted):
        Fleet("group", Clerk, size=1).slots()


def test_a_fleet_of_no_workers_is_ready(make):
    with make(size=0) as fleet:
        assert fleet.slots() == {}
        fleet.scale(1)
        fleet.wait_until_ready(LIMIT)
        fleet.scale(0)
        wait_until(lambda: fleet.status()["workers"] == [])
        fleet.wait_until_ready(LIMIT)


def test_a_fleet_that_was_stopped_may_be_deployed_again_at_once(make):
    for _ in range(2):
        make(size=1).deploy().stop()


def test_a_close_that_raises_does_not_keep_the_worker(make):
    with make(Sulker, size=1) as fleet:
        fleet.scale(0)
        wait_until(lambda: fleet.status()["workers"] == [])


def test_a_second_deploy_that_waits_in_vain_does_not_stop_the_fleet(make, steady, group):
    fleet = make().deploy()
    fleet.update(Clerk, args=(group,), options={"num_cpus": 1000})
    wait_until(lambda: not fleet.status()["ready"])
    again = Fleet(group, Clerk, size=2, actor=steady.name, namespace=steady.namespace, ready_timeout=0.1)
    with pytest.raises(FleetNotReady):
        again.deploy()
    assert fleet.status()["serving"] == 1


def test_a_connected_fleet_that_was_stopped_cannot_be_started(make, steady, group):
    make().deploy()
    fleet = Fleet.connect(group, steady.namespace)
    fleet.stop()
    with pytest.raises(PartitionError):
        fleet.start()


def test_a_class_that_the_controller_cannot_import_leaves_nothing(make, steady, group):
    module = types.ModuleType("nowhere")
    exec("class Nobody:\n    def __init__(self, coordinator): pass", module.__dict__)
    sys.modules["nowhere"] = module
    try:
        with pytest.raises(PartitionError):
            make(module.Nobody).deploy()
        wait_until(lambda: _has_ended(f"partition_actor_fleet:{group}", steady.namespace), 5.0)
    finally:
        del sys.modules["nowhere"]
        if not _has_ended(f"partition_actor_fleet:{group}", steady.namespace):
            ray.kill(ray.get_actor(f"partition_actor_fleet:{group}", steady.namespace))


def _has_ended(name, namespace):
    return {"name": name, "namespace": namespace} not in ray.util.list_named_actors(all_namespaces=True)


def test_two_threads_that_start_a_fleet_make_one_controller(monkeypatch, group):
    made, both = [], threading.Barrier(2)

    class Fake:
        def __init__(self, *_):
            made.append(self)

        def start(self):
            pass

        def status(self):
            return {"ready": True}

    def connect(_):
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(1.0)

    monkeypatch.setattr("partition_actor.fleet.fleet.Controller", Fake)
    monkeypatch.setattr("partition_actor.fleet.fleet.connect_to", connect)
    fleet = Fleet(group, Clerk, size=1)
    threads = [threading.Thread(target=fleet.start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


SHUT_DOWN = """
from partition_actor import Fleet
from partition_actor.errors import NotStarted

class Clerk:
    def __init__(self, coordinator):
        pass

connect()
fleet = Fleet(group, Clerk, size=2, actor=name, namespace=namespace)
fleet.start()
ray.shutdown()
wait_until(lambda: fleet.status()["over"])
try:
    fleet.scale(3)
except NotStarted as error:
    say(ready=fleet.status()["ready"], raised=str(error), ray=ray.is_initialized())
"""


def test_a_fleet_whose_process_leaves_ray_ends_and_does_not_start_it_anew(program, steady):
    with program(steady, SHUT_DOWN) as running:
        said = running.says()
        code, errors = running.end()
    assert (said["ready"], said["ray"]) == (False, False)
    assert "has left Ray" in said["raised"]
    assert (code, "Traceback" in errors) == (0, False), errors


def test_a_member_without_a_fleet_that_asks_for_a_slot_takes_none_of_the_fleets(make, steady, group):
    outsider = steady.member("outsider")
    outsider.join_group(group, exclusive=True, slot=True)
    with make() as fleet:
        assert sorted(fleet.slots()) == [0, 1]
        assert outsider.slot(group) == 0
