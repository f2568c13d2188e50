"""Programs to submit to a Ray cluster; run them as ``python -m jobs.NAME`` from the root of a checkout.

::

    poll        agents share out a machine's resources and poll them
    pipelines   agents share out pipelines and the inputs that feed them
    record      records samples of this machine for ``pipelines`` to read
    deploy      deploys the partition actor by itself
    driver      what the programs share; no program imports another

Ray adds the current directory, or a submitted job's ``--working-dir``, to the path of every worker, so agents
import ``jobs`` too.
"""

import os

# Ray reads this when it is first imported. Without it Ray reports every dead worker in the middle of the progress
# bar, including those that a job kills on purpose.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
