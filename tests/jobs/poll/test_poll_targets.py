import os
from pathlib import Path

import pytest

from jobs.poll.targets import TargetError, parse_target


@pytest.mark.parametrize(
    ("text", "resource"),
    [
        ("localhost:80", "tcp:localhost:80"),
        ("db.example.org:05432", "tcp:db.example.org:5432"),
        ("[::1]:22", "tcp:[::1]:22"),
        ("http://localhost:8080/health?full=1", "http://localhost:8080/health?full=1"),
        ("HTTPS://example.org", "https://example.org"),
    ],
)
def test_remote_targets(text, resource):
    assert parse_target(text, Path()) == resource


def test_paths_are_absolute_and_start_at_the_base(tmp_path):
    (tmp_path / "f").write_text("")
    assert parse_target("f", tmp_path) == f"file:{tmp_path / 'f'}"
    assert parse_target(str(tmp_path), Path("/elsewhere")) == f"directory:{tmp_path}"


def test_a_path_with_a_colon_is_written_with_a_dot(tmp_path):
    (tmp_path / "log:80").write_text("")
    assert parse_target("./log:80", tmp_path) == f"file:{tmp_path / 'log:80'}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a path"),
        ("  ", "expected a path"),
        ("localhost:", "port"),
        ("localhost:0", "port"),
        ("localhost:65536", "port"),
        ("localhost:http", "port"),
        ("localhost:²", "port"),
        ("::1:22", "no such file"),
        ("ftp://example.org", "ftp:// is not known"),
        ("http://", "no host"),
        ("http://[::1", "target 'http://"),
        ("/no/such/file", "no such file"),
        ("a\0b", "target"),
    ],
)
def test_a_malformed_target_is_named(text, said):
    with pytest.raises(TargetError) as refused:
        parse_target(text, Path("/"))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_directory_that_cannot_be_read_is_refused(tmp_path):
    tmp_path.chmod(0)
    try:
        with pytest.raises(TargetError, match="not readable"):
            parse_target(str(tmp_path), Path())
    finally:
        tmp_path.chmod(0o700)
