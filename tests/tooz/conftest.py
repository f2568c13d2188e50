"""Drivers for one partition actor, and programs that use tooz."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import ray
from deployments import HASTY

MEMBER = Path(__file__).with_name("member.py")


class Tooz:
    """Drivers for one partition actor, stopped after the test."""

    def __init__(self, deployment):
        self.deployment = deployment
        address = ray.get_runtime_context().gcs_address
        self.url = f"ray://{address}/{deployment.namespace}/{deployment.name}"
        self._made = []

    def driver(self, member, options="", *, started=True):
        from tooz import coordination

        made = coordination.get_coordinator(self.url + options, member)
        self._made.append(made)
        if started:
            made.start()
        return made

    def process(self, member, group, lock):
        command = [sys.executable, str(MEMBER), self.url, member, group.decode(), lock.decode()]
        process = subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": ""})
        self._made.append(process)
        return process

    def end(self):
        for made in self._made:
            if isinstance(made, subprocess.Popen):
                made.kill()
                made.wait()
            elif made.is_started:
                made.stop()


@pytest.fixture
def tooz(steady):
    made = Tooz(steady)
    yield made
    made.end()


@pytest.fixture
def own_tooz(make_deployment):
    """For a partition actor of the test's own, with short leases; it is not deployed yet."""
    made = Tooz(make_deployment(HASTY))
    yield made
    made.end()


@pytest.fixture
def hasty_tooz(own_tooz):
    own_tooz.deployment.deploy()
    return own_tooz


@pytest.fixture
def group():
    return uuid.uuid4().hex.encode()
