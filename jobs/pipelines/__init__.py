"""Agents share out pipelines and the inputs that feed them. Private to this job.

::

    __main__.py      the command line
    config.py        the settings; definitions.py: sources, sinks, transformers and publishers as the YAML has them
    run.py           a run with several agents; single_agent.py: a run with one, without Ray
    agents.py        the agents as the driver sees them, a Fleet; agent.py: the Ray actor around a worker
    worker.py        what one agent does, without Ray
    feeding.py       one input on its way to the shards; reading.py: lines of an input; samples.py: a line as a sample
    batching.py      the size of batches
    shard.py         a pipeline, or a shard of one, at its owner: takes batches, publishes, commits
    pipeline.py      samples in, samples to publish out; transformers.py: the steps; publishers.py: the destinations
    checkpoints.py   state and watermarks of the pipelines; offsets.py: how far inputs are read; database.py: SQLite
    report.py        the result, from the checkpoints and the published files; display.py shows it

The owner of an input reads it and sends batches to the owners of the shards. A shard's owner transforms and publishes a
batch, commits its state, and returns a receipt. The reader acknowledges what all shards have committed.
"""

from jobs.driver.extras import check_extra

check_extra("jobs.pipelines")
