"""What the death watch reads in Ray's words, from Ray itself.

If a version of Ray says it otherwise, a test here fails; until the watch knows the new words, the kernel of the node
decides, or else the lease.
"""

import os
import signal

import pytest
import ray
from death_watch_fakes import KEY, FakeActor, Ray, died, life, run, settle
from deployments import LIMIT
from members import Bare, Pending, call_method
from ray.exceptions import ActorDiedError

from partition_actor.actor.death_watch import CONNECTION_BROKE
from partition_actor.processes import pending_call


@pytest.fixture
def last_words(cluster, spawn):
    """What Ray says to a pending call when an actor ends in this way."""
    pending = spawn(Pending)
    never = pending.pend.remote()

    def last_words(end):
        actor = ray.remote(Bare).options(num_cpus=0).remote()
        pid = ray.get(actor.pid.remote(), timeout=LIMIT)
        call = pending_call(actor, never)
        end(actor, pid)
        del actor
        with pytest.raises(ActorDiedError) as raised:
            ray.get(call, timeout=LIMIT)
        return str(raised.value)

    return last_words


def ask(method):
    """Calls of one caller run in their order, and this one's first call waits: so another one asks."""
    return lambda actor, _: ray.remote(call_method).options(num_cpus=0).remote(actor, method)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSEGV], ids=lambda sent: sent.name)
def test_a_killed_process_is_told_in_the_words_that_the_watch_knows(last_words, sent):
    said = last_words(lambda _, pid: os.kill(pid, sent))
    assert CONNECTION_BROKE in said, f"Ray {ray.__version__} says it otherwise: deaths are learnt late. It says: {said}"


@pytest.mark.parametrize(
    "end",
    [lambda actor, _: ray.kill(actor), ask("exit"), ask("__ray_terminate__")],
    ids=["kill", "exit_actor", "terminate"],
)
def test_an_orderly_end_is_never_told_in_those_words(last_words, end):
    """The process of such an actor may still run, so its keys may not move yet."""
    assert CONNECTION_BROKE not in last_words(end)


def test_in_other_words_nothing_is_concluded_before_the_kernel_says_so():
    async def scenario():
        fake, actor = Ray(), FakeActor()
        fake.watch.watch(KEY, life(actor))
        await settle()
        actor.life.set_exception(died("its worker process has ended in a way that this Ray tells in new words."))
        await settle()
        assert fake.dead == []
        fake.process.set_result(False)  # nobody can tell: its lease decides
        await settle()
        assert fake.dead == []
        assert KEY not in fake.watch

    run(scenario)
