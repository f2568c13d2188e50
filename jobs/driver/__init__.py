"""What every program in ``jobs`` needs to drive its agents. Private to ``jobs``.

A program parses its options (``command_line``), joins a Ray cluster and finds or deploys the partition actor
(``cluster``), starts its agents on this node (``cluster``), identifies and signals their processes (``processes``)
and shows its progress (``progress``). ``extras`` says which packages are missing. Errors come back through
``command_line`` as lines and an exit status.
"""
