"""What ``jobs/poll.py`` is made of: agents that share out a machine's resources and poll them.

::

    joining.py    which Ray to join; the command line's errors
    cluster.py    on that Ray: with a partition actor, and agents on this machine
    config.py     what the user asked for: YAML and command line, checked before anything starts
    targets.py    a line of the YAML's ``targets`` becomes a resource id
    resources.py  what there is to poll now: processes, disks, interfaces, cores, targets
    pollers.py    a resource id becomes samples
    store.py      samples become a Parquet dataset that a SIGKILL cannot break
    agent.py      the Ray actor: polls the subset that the partition actor gives it
    fleet.py      the agents from the driver's side: start, settle, kill, replace
    run.py        the cycles
    report.py     gaps and duplicates, out of the written samples
    progress.py   the progress bar
    display.py    what the user sees: it, and the summary
"""
