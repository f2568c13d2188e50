"""How soon survivors have the keys of a killed worker, over Ray's own floor: a small ``benchmarks/failover.py``.

Prints JSON. ``matrix.py`` runs it.
"""

import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import failover
import ray

import partition_actor

PLAN = failover.Plan(workers=8, kills=12, floor_kills=12, idle=0.5, stall=0.2)


def main() -> None:
    ray.cloudpickle.register_pickle_by_value(failover)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    partition_actor.deploy(failover.NAME)
    ours, floor = failover.Failovers(PLAN), failover.floors(PLAN.floor_kills)
    ray.shutdown()
    took, least = statistics.median(ours.seconds), statistics.median(floor)
    print(json.dumps({"ms": 1000 * took, "floor_ms": 1000 * least, "ratio": took / least, "expired": ours.expired}))


if __name__ == "__main__":
    main()
