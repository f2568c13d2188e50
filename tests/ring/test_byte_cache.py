from concurrent.futures import ThreadPoolExecutor
from random import Random

from partition_actor.ring.byte_cache import ByteCache


def kept(cache, keys):
    return [key for key in keys if cache.get(key) is not None]


def test_it_keeps_what_was_used_last_within_its_bytes():
    cache = ByteCache(100)
    for key in "abcd":
        cache.put(key, key.upper(), 30)
    assert kept(cache, "abcd") == ["b", "c", "d"]
    assert cache.get("b") == "B"
    cache.put("e", "E", 30)
    assert kept(cache, "abcde") == ["b", "d", "e"]
    cache.put("f", "F", 50)
    assert kept(cache, "abcdef") == ["e", "f"]
    cache.put("b", "B", 20)
    cache.put("f", "F again", 50)
    assert kept(cache, "abcdef") == ["b", "e", "f"]
    assert cache.get("f") == "F again"


def test_the_newest_is_kept_however_large_it_is():
    cache = ByteCache(100)
    cache.put("small", 1, 10)
    cache.put("large", 2, 1000)
    assert kept(cache, ["small", "large"]) == ["large"]
    cache.put("small", 1, 10)
    assert kept(cache, ["small", "large"]) == ["small"]


def test_it_keeps_nearly_as_many_tiny_values_as_there_is_room_for():
    cache = ByteCache(1000)
    for number in range(10_000):
        cache.put(number, str(number), 10)
        least = min(number + 1, 87)
        assert cache.get(number) == str(number)
        assert kept(cache, range(number + 1 - least, number + 1)) == list(range(number + 1 - least, number + 1))
    assert len(kept(cache, range(10_000))) <= 100


def test_many_threads_leave_it_within_its_bytes():
    cache = ByteCache(1000)

    def work(seed):
        rng = Random(seed)
        for _ in range(3000):
            key = rng.randrange(200)
            found = cache.get(key)
            assert found is None or found == key
            if found is None:
                cache.put(key, key, 10 + key % 40)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    cache.put("last", 1, 10)
    left = kept(cache, range(200))
    assert sum(10 + key % 40 for key in left) <= 1000 - 10
    assert len(left) > 10
