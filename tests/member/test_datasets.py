"""A Ray Data dataset shared out among members, filtered by Ray Data."""

import pytest
from deployments import wait_until

from partition_actor import PartitionCoordinator
from partition_actor.errors import InvalidArgument


@pytest.fixture
def dataset(cluster):
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data.from_items([{"tenant": number % 50, "value": number} for number in range(2000)])


def test_members_share_out_the_rows_of_a_dataset_by_the_key_in_a_column(steady, group, dataset):
    members = [steady.member(f"member-{number}") for number in range(3)]
    for member in members:
        member.join_group(group)

    wait_until(lambda: all(len(member.members(group)) == 3 for member in members))
    shares = [member.partition(group, dataset, column="tenant").rows().take_all() for member in members]
    assert sorted(row["value"] for rows in shares for row in rows) == list(range(2000))
    for member, rows in zip(members, shares, strict=True):
        assert {row["tenant"] for row in rows} == set(member.extract_my_subset(group, range(50)))


def test_a_member_that_may_not_act_gets_no_rows(steady, group, dataset):
    assert steady.member("member").partition(group, dataset, column="value").rows().count() == 0


def test_in_the_single_instance_mode_every_row_is_ours(cluster, dataset):
    partition = PartitionCoordinator(actor=None).partition("group", dataset, column="tenant")
    assert partition.rows().count() == 2000
    assert repr(partition) == "DatasetPartition('group', column='tenant')"


def test_a_column_that_is_not_there_is_refused_with_those_that_are(cluster, dataset):
    local = PartitionCoordinator(actor=None)
    with pytest.raises(InvalidArgument, match=r"column: got 'tenand', .*tenant, value"):
        local.partition("group", dataset, column="tenand")
    with pytest.raises(InvalidArgument, match="column"):
        local.partition("group", dataset)
    with pytest.raises(InvalidArgument, match="column"):
        local.partition("group", [1, 2], column="tenant")
