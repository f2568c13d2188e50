"""The main job on a Ray with token authentication and on one with TLS, and those whom these refuse.

``ray.init`` alone would try for 20 s with a wrong token, and for many minutes with a wrong certificate.
"""

import pytest
from certificates import make_certificates
from heads import Head


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("secured")


@pytest.fixture(scope="module")
def with_token(folder):
    (folder / "token.txt").write_text("the-right-token-of-this-cluster")
    (folder / "other.txt").write_text("a-token-of-some-other-cluster")
    yield from started(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(folder / "token.txt"))


@pytest.fixture(scope="module")
def certificates(folder):
    return {name: make_certificates(folder / name) for name in ("right", "other")}


@pytest.fixture(scope="module")
def with_tls(certificates):
    yield from started(**certificates["right"])


def started(**environment):
    head = Head(**environment)
    try:
        head.wait()
        yield head
    finally:
        head.stop()


def poll(head, out, **environment):
    return head.run(
        *("python", "-m", "jobs.poll", "--address", head.address, "--agents", 2, "--cycles", 4, "--interval", 0),
        *("--out", out, "--kill", 1),
        **environment,
    )


def check_refused(head, said, **environment):
    asked = head.run("python", "-m", "partition_actor.operate", "doctor", "--address", head.address, **environment)
    assert asked.returncode == 1
    assert f"does not let this process in: {said}" in asked.stdout.splitlines()[0]


def check_nothing_starts(head, out, said, **environment):
    """The job, and a program that leaves it to the library to join Ray, end with a line that says why."""
    polled = poll(head, out, **environment)
    assert polled.returncode == 2
    assert polled.stdout == ""
    line = polled.stderr.splitlines()[-1]  # gRPC, too, says something of certificates
    assert line.startswith("jobs.poll: ")
    assert said in line
    assert [*out.iterdir()] == []
    deployed = head.run(
        *("python", "-c", "import partition_actor; partition_actor.deploy()"), RAY_ADDRESS=head.address, **environment
    )
    assert deployed.returncode == 1
    last = deployed.stderr.splitlines()[-1]
    assert "PartitionActorUnavailable: the Ray at " in last
    assert said in last


def check_served(head, out):
    polled = poll(head, out)
    assert polled.returncode == 0, polled.stdout + polled.stderr
    for part in ("cycle 4 of 4", "killed in cycle 2", "survivors covered everything again"):
        assert part in polled.stdout


def test_the_job_runs_with_the_token(with_token, tmp_path):
    check_served(with_token, tmp_path / "out")


def test_the_job_and_the_library_say_that_the_token_is_wrong(with_token, folder, tmp_path):
    wrong = {"RAY_AUTH_TOKEN_PATH": str(folder / "other.txt")}
    check_nothing_starts(with_token, tmp_path, "it refuses this process's token", **wrong)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RAY_AUTH_TOKEN": "a-token-of-some-other-cluster"}, "it refuses this process's token"),
        ({"RAY_AUTH_TOKEN_PATH": "gone.txt"}, "RAY_AUTH_TOKEN_PATH is set but file cannot be opened"),
        ({"RAY_AUTH_MODE": "disabled"}, "it wants its token: set RAY_AUTH_MODE=token"),
    ],
    ids=["wrong", "unreadable", "none"],
)
def test_who_has_not_the_token_is_refused(with_token, environment, said):
    check_refused(with_token, said, **environment)


def test_the_job_runs_under_tls(with_tls, tmp_path):
    check_served(with_tls, tmp_path / "out")


def test_the_job_and_the_library_say_that_the_certificate_is_wrong(with_tls, certificates, tmp_path):
    check_nothing_starts(with_tls, tmp_path, "its certificate is not signed by", **certificates["other"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"], "its certificate is not signed by"),
        (["RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY"], "it refuses this process's certificate"),
        (["RAY_USE_TLS"], "it speaks TLS: set RAY_USE_TLS=1"),
    ],
    ids=["another authority", "a certificate of another authority", "no TLS"],
)
def test_who_has_not_a_certificate_of_the_authority_is_refused(with_tls, certificates, wrong, said):
    environment = {**certificates["other"], "RAY_USE_TLS": "0"}
    check_refused(with_tls, said, **{name: environment[name] for name in wrong})
