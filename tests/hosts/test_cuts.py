"""Hosts are cut off, slowed down and powered off, and the ledger of tests/chaos judges what exclusive members did."""

import itertools
import sys
import time
from pathlib import Path

import bed
import pytest
from deployments import wait_until
from ray_hosts import HEAD, Driver, RayHosts

from partition_actor import clock

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "chaos"))

from cut_driver import SETTINGS  # noqa: E402
from ledger import Tail, judge  # noqa: E402
from ledger_worker import KEYS_OF, Unit  # noqa: E402

KEYS = {key for keys in KEYS_OF.values() for key in keys}
WORKERS = {0: ["0-a"], 1: ["1-a", "1-b"], 2: ["2-a", "2-b"]}
"""On each host; a worker's id begins with its host."""
EVERYBODY = sorted(worker for of_host in WORKERS.values() for worker in of_host)
LEASE_AND_PROOF = SETTINGS.ttl * (1 + SETTINGS.clock_rate_margin) + SETTINGS.node_proof_interval
ONE_MORE = SETTINGS.ttl / 2
"""Seconds after which a member that hears nothing sends another request. It arrives if only the replies are lost."""
SHORT = 1.0
"""Seconds. A cut after which TCP has sent again, and every lease been renewed, before a lease ends."""


class Ledger(Tail):
    """All units of work so far."""

    def __init__(self, folder):
        super().__init__(folder)
        self.units = []

    def _take(self, line):
        super()._take(line)
        self.units.append(Unit(*line))


class Cluster:
    def __init__(self, hosts, folder, **variables):
        self.hosts, self.ledger = hosts, Ledger(folder)
        self.rays = RayHosts(hosts, HERE, HERE.parent / "chaos", **variables)
        self.driver = Driver(self.rays, HERE / "cut_driver.py", folder)
        for host, workers in WORKERS.items():
            self.driver.start(host, *workers)
        self.wait_until_back(clock.now())

    def units(self, since, hosts=WORKERS):
        """What workers on these hosts began after a moment because they owned its key."""
        self.ledger.read()
        owned = (unit for unit in self.ledger.units if unit.start > since and unit.kind == "owns")
        return [unit for unit in owned if int(unit.worker[0]) in hosts]

    def first(self, since, hosts):
        """Of each key, when the first such unit began. None: there are not all yet."""
        first = {}
        for unit in self.units(since, hosts):
            first[unit.key] = min(unit.start, first.get(unit.key, unit.start))
        return first if first.keys() == KEYS else None

    def wait_until_served(self, since, hosts=WORKERS):
        """Wait until workers on these hosts have worked on every key; returns the seconds that it took them."""
        return max(wait_until(lambda: self.first(since, hosts)).values()) - since

    def wait_until_back(self, since, everybody=EVERYBODY):
        """Wait until everybody is a member and has worked since then; returns the seconds that it took."""
        wait_until(lambda: self.driver.members() == everybody)

        def first_of_each():
            first = {}
            for unit in self.units(since):
                worker = unit.worker.partition(".")[0]
                first[worker] = min(unit.start, first.get(worker, unit.start))
            return first if first.keys() >= {*everybody} else None

        took = max(wait_until(first_of_each).values()) - since
        self.wait_until_served(clock.now())  # so that the hand-offs are over
        return took

    def longest_pause(self, since, until):
        """The longest time in which nobody worked on some key."""
        longest, units = 0.0, sorted(self.units(0.0), key=lambda unit: unit.start)
        for key in KEYS:
            of_key = [unit for unit in units if unit.key == key]
            for unit, following in itertools.pairwise(of_key):
                if unit.end < until and following.start > since:
                    longest = max(longest, following.start - unit.end)
        return longest

    def judge(self):
        self.ledger.read()
        assert judge(self.ledger.units) == {"overlaps": [], "reversals": []}


@pytest.fixture(scope="module")
def cluster(can_make_hosts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ledger")
    with bed.Hosts(3, share=[folder]) as hosts:
        yield Cluster(hosts, folder)


@pytest.fixture
def fault(cluster, measured, request):
    """Run a test with everybody at work; after it, everybody is back, and the ledger is clean."""
    began = clock.now()
    yield
    healed = clock.now()
    for host in WORKERS:
        cluster.hosts.heal(host)
    back = cluster.wait_until_back(healed)
    measured(request.node.name, everybody_back_after=back, longest_pause=cluster.longest_pause(began, clock.now()))
    cluster.judge()


@pytest.fixture
def nothing_pauses(cluster):
    """Whoever had a lease keeps it and its keys."""
    epochs, began = cluster.driver.epochs(), clock.now()
    yield
    ended = clock.now()
    cluster.wait_until_served(began + LEASE_AND_PROOF)  # a lease that was not renewed has ended by then
    assert cluster.driver.paused() < began
    assert cluster.driver.epochs() == epochs
    assert {unit.key for unit in cluster.units(began) if unit.end < ended} == KEYS


@pytest.fixture
def taken_over(cluster, measured, request):
    """Check that these hosts' workers have all keys a lease and a proof after a fault, and no others any."""

    def check(began, survivors, more=0.0):
        took, bound = cluster.wait_until_served(began, survivors), LEASE_AND_PROOF + more
        pause = cluster.longest_pause(began, clock.now())
        measured(request.node.name, survivors_have_all_keys_after=took, bound=bound, longest_pause=pause)
        assert took < bound + SETTINGS.handoff_timeout
        assert cluster.units(began + SETTINGS.ttl, WORKERS.keys() - survivors) == []

    return check


@pytest.mark.parametrize("way", ["both", "in", "out"])
def test_survivors_have_all_keys_after_a_lease_if_a_host_is_cut_off(cluster, fault, taken_over, way):
    cluster.hosts.cut(2, way)
    taken_over(clock.now(), {0, 1}, more=ONE_MORE if way == "in" else 0.0)


def test_the_heads_own_members_have_all_keys_after_a_lease_if_it_is_cut_off(cluster, fault, taken_over):
    cluster.hosts.cut(HEAD)
    taken_over(clock.now(), {HEAD})


def test_nothing_pauses_in_a_cut_that_is_shorter_than_the_lease(cluster, fault, nothing_pauses):
    cluster.hosts.cut(2)
    time.sleep(SHORT)
    cluster.hosts.heal(2)


def test_nothing_pauses_if_two_workers_are_cut_off_from_each_other(cluster, fault, nothing_pauses):
    cluster.hosts.cut_between(1, 2)
    time.sleep(1.5 * SETTINGS.ttl)


def test_nothing_pauses_if_a_link_delays_by_300_ms(cluster, fault, nothing_pauses):
    cluster.hosts.impair(2, delay=0.3)
    time.sleep(1.5 * SETTINGS.ttl)


def test_no_key_has_two_owners_if_a_link_loses_every_fifth_frame(cluster, fault):
    cluster.hosts.impair(2, loss=0.2)
    cluster.wait_until_served(clock.now() + 2 * SETTINGS.ttl)


def test_survivors_have_all_keys_after_a_lease_if_a_host_is_powered_off(cluster, taken_over):
    """The last one: the host does not come back."""
    cluster.hosts.power_off(2)
    taken_over(clock.now(), {0, 1})
    cluster.judge()


@pytest.mark.slow_hosts
def test_a_host_that_ray_has_given_up_comes_back_by_ray_start(can_make_hosts, tmp_path):
    """Ray gives it up while the leases of its members still run."""
    impatience = {"period_ms": "300", "timeout_ms": "300", "initial_delay_ms": "0", "failure_threshold": "3"}
    variables = {f"RAY_health_check_{name}": value for name, value in impatience.items()}
    with bed.Hosts(3, share=[tmp_path]) as hosts:
        cluster = Cluster(hosts, tmp_path, **variables)
        hosts.cut(2)
        began = clock.now()
        wait_until(lambda: bed.address(2) not in cluster.driver.alive())
        cluster.wait_until_served(began, {0, 1})
        hosts.heal(2)
        wait_until(lambda: "raylet/raylet" not in hosts.run(2, ["ps", "ax"]).stdout)
        cluster.rays.start(2)
        cluster.driver.start(2, "2-c", "2-d")
        cluster.wait_until_back(clock.now(), sorted([*WORKERS[0], *WORKERS[1], "2-c", "2-d"]))
        cluster.judge()
