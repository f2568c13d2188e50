"""What ``jobs/pipelines.py`` is made of: agents that share out pipelines, and the inputs that feed them.

::

    documents.py     a YAML file with the line of everything in it
    definitions.py   sources, sinks, transformers and publishers as the YAML has them
    config.py        what the user asked for: YAML and command line, checked before anything starts
    samples.py       a sample, and the line of JSON that it is written as
    reading.py       which inputs there are, and their lines from an offset on
    offsets.py       up to where each input is published, and its corrupt lines
    feeding.py       the way of one input into the pipelines; batching.py: how many samples go at a time
    transformers.py  pure functions of a series' state and its next sample
    pipeline.py      a source with one of its sinks: samples in, what is to be published out
    checkpoints.py   what a pipeline's owner remembers; database.py: SQLite between processes that get killed
    publishers.py    where samples go
    shard.py         a pipeline at its owner: takes batches, publishes, remembers
    worker.py        what an agent does, without Ray; lone.py: one that does it all
    agent.py         the Ray actor: a worker among others, and the way to them
    fleet.py         the agents from the driver's side: start, look, kill, stop, replace
    run.py           a job with several agents
    report.py        what it came to, out of its checkpoints and its published files
    display.py       the progress bar and the summary
"""
