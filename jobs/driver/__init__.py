"""What every program in ``jobs`` needs to drive its agents. Private to ``jobs``.

A program parses its options (``command_line``), joins a Ray cluster and finds or deploys the partition actor
(``cluster``), starts its agents on this node (``cluster``), signals their processes (``processes``) and shows its
progress (``progress``). ``machine`` discovers and measures what a machine has, ``meters`` picks among meters by
wildcard. ``extras`` says which packages are missing. Errors come back through ``command_line`` as lines and an exit
status.
"""
