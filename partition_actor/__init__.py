"""Group membership and work partitioning for Ray, with no service beside Ray.

Start with ``deploy()`` and ``PartitionCoordinator``; ``docs/guarantees.md`` says what holds and what does not.
"""

__version__ = "0.1.0"

from partition_actor.callbacks import GroupEvent
from partition_actor.coordinator import PartitionCoordinator
from partition_actor.deployment import connect, deploy, shutdown
from partition_actor.elections import Elected
from partition_actor.locking import Lock
from partition_actor.owned import owned_by
from partition_actor.partition import Partition
from partition_actor.ring import KeyIndex, Ring
from partition_actor.router import Router
from partition_actor.settings import Settings

__all__ = [
    "Elected",
    "GroupEvent",
    "KeyIndex",
    "Lock",
    "Partition",
    "PartitionCoordinator",
    "Ring",
    "Router",
    "Settings",
    "connect",
    "deploy",
    "owned_by",
    "shutdown",
]
