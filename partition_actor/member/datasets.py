"""A member's share of a Ray Data dataset, which Ray Data filters where the blocks are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from partition_actor.arguments import check_text, refuse
from partition_actor.core.share import Share
from partition_actor.ring.hash_space import hash_keys

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data


def is_dataset(items: object) -> bool:
    """Whether `items` is a ``ray.data.Dataset``, without importing Ray Data, which takes a second."""
    return any(kind.__module__.startswith("ray.data.") and kind.__name__ == "Dataset" for kind in type(items).__mro__)


class DatasetPartition:
    """The rows of a dataset whose key is this member's; made by ``PartitionCoordinator.partition``.

    ::

        partition = coordinator.partition("pollers", ray.data.read_parquet("tenants/"), column="tenant")
        for row in partition.rows().iter_rows(): ...
    """

    def __init__(self, group: str, dataset: ray.data.Dataset, column: str | None, share: Callable[[], Share]) -> None:
        """Bind `dataset` to `group`. Raises ``InvalidArgument`` when it has no such column."""
        self.group = group
        self._dataset = dataset
        self._column = check_text("column", column)
        columns = dataset.columns() or []
        if self._column not in columns:
            refuse("column", column, f"one of the dataset's columns: {', '.join(columns)}")
        self._share = share

    def __repr__(self) -> str:
        return f"DatasetPartition({self.group!r}, column={self._column!r})"

    def rows(self) -> ray.data.Dataset:
        """The rows that this member may work on now, as a lazy filter over the key's column.

        It does not follow later changes: call it again after one.
        """
        arcs, column = self._share().arcs, self._column
        if arcs is None:
            return self._dataset.limit(0)

        def mine(batch: pa.Table) -> pa.Table:
            keys = batch.column(column).to_pylist()
            return batch.filter(arcs.contains(hash_keys(keys, arcs.function)))

        return self._dataset.map_batches(mine, batch_format="pyarrow", zero_copy_batch=True)
