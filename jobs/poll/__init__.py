"""Agents share out what there is to poll, on all nodes. Private to this job.

::

    __main__.py   the command line
    config.py     the settings and the sources, from YAML and the command line
    targets.py    targets and lists of them: text, files and commands, as resource ids
    run.py        the cycles: let agents take their shares and poll them, kill some, write and judge what comes
    crew.py       the agents as the driver sees them: ask, agree, notice who died
    agent.py      one agent: looks what its node has, takes its share, polls it, sends samples
    pollers.py    turns a resource id into readings; driver/machine.py does so for what a machine has
    store.py      writes samples as a Parquet dataset
    report.py     finds gaps and duplicates in the samples; display.py and plot.py show them

The driver begins the cycles of each source, and every agent asks the partition actor for its share: of what its node
has among the agents of that node, and of remote targets among all. What a cycle shows is computed from the samples
alone.
"""

from jobs.driver.extras import check_extra

check_extra("jobs.poll")
