"""Group membership and work partitioning for Ray, with no service beside Ray.

Start with ``deploy()`` and ``PartitionCoordinator``. ``docs/guarantees.md`` states the guarantees, their assumptions
and their limits.
"""

from partition_actor.core.autoscale import Autoscale
from partition_actor.deployment import connect, deploy, shutdown
from partition_actor.fleet.fleet import Fleet
from partition_actor.member.callbacks import Elected, GroupEvent
from partition_actor.member.coordinator import PartitionCoordinator
from partition_actor.member.guard import owned_by
from partition_actor.member.lock import Lock
from partition_actor.member.partition import Partition
from partition_actor.ring import KeyIndex, Ring
from partition_actor.router.router import Router
from partition_actor.settings import Settings
from partition_actor.version import __version__

__all__ = [
    "Autoscale",
    "Elected",
    "Fleet",
    "GroupEvent",
    "KeyIndex",
    "Lock",
    "Partition",
    "PartitionCoordinator",
    "Ring",
    "Router",
    "Settings",
    "__version__",
    "connect",
    "deploy",
    "owned_by",
    "shutdown",
]
