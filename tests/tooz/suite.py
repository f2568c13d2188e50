"""Run the tests that tooz's wheel ships against ``ray://`` on a local Ray.

All of tests/test_coordination.py and tests/test_partitioner.py must pass; none may be skipped.

    python tests/tooz/suite.py
"""

from __future__ import annotations

import os
import sys
from collections import Counter

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.pop("RAY_ADDRESS", None)

import pytest
import ray

TESTS_OF_COORDINATION = 83


class Tally:
    """Counts the outcomes of the tests."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.coordination: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.outcome] += 1
            if not report.nodeid.rpartition("::")[0].endswith("TestPartitioner"):
                self.coordination[report.outcome] += 1


def main() -> int:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    os.environ["TOOZ_TEST_URL"] = f"ray://{ray.get_runtime_context().gcs_address}/tooz/suite"
    from tooz.drivers import etcd3gw

    from partition_actor.tooz.driver import RayDriver

    # One test runs only on drivers that can destroy a group, which it lists by class; ours can.
    etcd3gw.Etcd3Driver = (etcd3gw.Etcd3Driver, RayDriver)
    tally = Tally()
    arguments = [
        *("-q", "-ra", "-c", os.devnull, "-p", "no:cacheprovider", "--timeout", "120"),
        *("--pyargs", "tooz.tests.test_coordination", "tooz.tests.test_partitioner"),
    ]
    code = pytest.main([*arguments, *sys.argv[1:]], plugins=[tally])
    ray.shutdown()
    print(f"test_coordination: {dict(tally.coordination)}; all: {dict(tally.outcomes)}")
    if sys.argv[1:]:
        return int(code)
    whole = tally.coordination == Counter(passed=TESTS_OF_COORDINATION) and set(tally.outcomes) == {"passed"}
    return int(code) or (0 if whole else 1)


if __name__ == "__main__":
    sys.exit(main())
