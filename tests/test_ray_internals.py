"""What is private to Ray: what this Ray has, and what is told where one lacks it."""

import ray

from partition_actor import ray_internals
from partition_actor.actor.partition_actor import PartitionActor


def test_the_ray_of_the_tests_lacks_nothing(cluster):
    assert ray_internals.lacking() == []
    assert ray_internals.can_write_keys()
    assert ray_internals.has_raylet()


def test_what_is_lacking_is_told(monkeypatch):
    monkeypatch.setattr(ray_internals, "draining_nodes_asker", lambda: None)
    monkeypatch.setattr(ray_internals, "_enable_token", None)
    monkeypatch.setattr(ray_internals, "RuntimeContext", object)
    told = " ".join(ray_internals.lacking())
    assert all(word in told for word in ("draining nodes", "async method", "tokens"))
    ray_internals.enable_found_token()  # and nothing happens


def test_a_key_is_written_with_the_names_of_older_rays(cluster, monkeypatch):
    import asyncio

    written = []

    class Client:
        def internal_kv_put(self, *arguments, timeout):
            written.append(arguments)

    monkeypatch.setattr(ray_internals, "gcs_client", Client)
    asyncio.run(ray_internals.write_key(b"key", b"value", b"namespace", 5.0))
    assert written == [(b"key", b"value", True, b"namespace")]


def test_the_class_of_the_partition_actor_is_found_by_its_name_alone():
    """A process with another version, whose class has other methods, can then load it."""
    copy = ray_internals.remote_class(PartitionActor).__ray_metadata__.modified_class
    assert vars(PartitionActor).keys() & vars(copy).keys() <= {
        "__module__",
        "__doc__",
        "__annotations__",
        "__firstlineno__",
    }
    pickled = ray.cloudpickle.dumps(copy)
    assert b"copy_state" not in pickled
    assert b"PartitionActor" in pickled


def test_a_method_that_ray_has_not_called_has_no_name():
    def method():
        return ray_internals.method_that_ray_called(method)

    assert method() == ""
    assert ray_internals.method_that_ray_called(test_what_is_lacking_is_told) == ""
