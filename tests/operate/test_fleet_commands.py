"""What operators see of real fleets, and how they change them."""

import contextlib
import sys

import pytest
import ray
from deployments import LIMIT, wait_until
from test_command_line import Terminal, refusal

from partition_actor import Fleet
from partition_actor.errors import FleetNotFound


class Clerk:
    """Does nothing."""

    def __init__(self, coordinator, fails=False):
        if fails:
            raise RuntimeError("it cannot come up")


@pytest.fixture
def terminal(steady):
    return Terminal(steady)


@pytest.fixture
def make(steady, group):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    made = []

    def make(size, **options):
        where = {"actor": steady.name, "namespace": steady.namespace}
        made.append(Fleet(group, Clerk, size=size, ready_timeout=LIMIT, **where, **options))
        return made[-1]

    yield make
    for fleet in made:
        with contextlib.suppress(FleetNotFound):  # stopped by the command line
            fleet.stop()


def serving(told):
    return {each["slot"]: each["member_id"] for each in told["workers"] if each["phase"] == "serving"}


def test_a_fleet_of_somebodys_program_is_seen_until_it_ends(make, terminal, steady, group):
    with make(2, name=f"{group}-fleet") as fleet:
        told = wait_until(lambda: (found := terminal.json("fleets").get(fleet.name)) and found["ready"] and found)
        assert (told["group"], told["size"], told["serving"]) == (group, 2, 2)
        assert serving(terminal.json("fleet", fleet.name)) == fleet.slots()
        assert steady.call("observe")["fleets"][fleet.name]["ready"]
        line = next(line for line in terminal("fleets").stdout.splitlines() if line.startswith(fleet.name))
        assert line.split()[1:5] == [group, "2", "2", "ready"]
        ray.kill(fleet.workers()[1])  # after SIGKILL Ray would print a line, into the JSON too
        wait_until(lambda: (found := terminal.json("fleet", fleet.name))["restarts"] == 1 and found["ready"])
        (again,) = [each for each in terminal.json("fleet", fleet.name)["workers"] if each["slot"] == 1]
        assert again["pid"] != told["workers"][1]["pid"]
        shown = terminal("fleet", fleet.name, columns=160).stdout
        assert f"{fleet.name}/1" in shown
        assert "the worker in slot 1 has failed" in shown
        assert "only its program can change it" in refusal(
            terminal("fleet", fleet.name, "--scale", 3, "-y", expected=1)
        )
    wait_until(lambda: fleet.name not in terminal.json("fleets"))
    assert f"no fleet '{fleet.name}'" in refusal(terminal("fleet", fleet.name, expected=1))


def test_a_deployed_fleet_is_scaled_and_stopped(make, terminal, steady, group):
    make(1).deploy()
    assert "nobody can be asked here" in refusal(terminal("fleet", group, "--scale", 2, expected=2))
    assert "exclude each other" in refusal(terminal("fleet", group, "--scale", 2, "--stop", "--yes", expected=2))
    assert terminal.json("fleet", group, "--scale", 2, "--yes") == {"fleet": group, "before": 1, "size": 2}
    wait_until(lambda: terminal.json("fleets")[group]["serving"] == 2)
    assert terminal.json("fleet", group, "--stop", "--yes") == {"fleet": group, "ended": True}
    with pytest.raises(FleetNotFound):
        Fleet.connect(group, steady.namespace)
    assert "no fleet" in refusal(terminal("fleet", group, "--stop", "--yes", expected=1))
    assert "name: got ''" in refusal(terminal("fleet", "", expected=2))


def test_the_doctor_names_a_fleet_that_is_not_ready_with_the_reason(make, terminal, group):
    with make(1) as fleet:
        fleet.update(Clerk, kwargs={"fails": True})

        def troubles():
            return [each for each in terminal.json("doctor") if each["check"] == "fleet" and group in each["what"]]

        (trouble,) = wait_until(troubles)
        assert trouble["level"] == "WARN"
        wait_until(lambda: "it cannot come up" in troubles()[0]["what"])
        assert trouble["advice"].startswith(f"`partition-actor fleet {group}`")
