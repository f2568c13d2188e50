"""``python -m partition_actor.operate`` is the command ``partition-actor``."""

from partition_actor.operate.command_line import main

if __name__ == "__main__":
    main()
