"""Agents share out a machine's resources and poll them. Private to this job.

::

    __main__.py   the command line
    config.py     the settings, from YAML and the command line; targets.py parses the YAML's ``targets``
    run.py        the cycles: discover resources, let agents poll them, kill and replace agents, report
    fleet.py      the agents as the driver sees them: start, wait for agreement, kill, replace
    agent.py      the Ray actor: polls its subset of the resources
    resources.py  what there is to poll; pollers.py turns a resource id into readings
    store.py      writes samples as a Parquet dataset
    report.py     finds gaps and duplicates in the dataset; display.py shows them

The driver discovers the resources of a cycle and sends them to every agent. Each agent asks the partition actor for its
subset, polls it and writes samples. The report is computed from the samples alone.
"""

from jobs.driver.extras import check_extra

check_extra("jobs.poll")
