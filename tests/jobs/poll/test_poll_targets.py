import asyncio
import os
import sys
from pathlib import Path

import psutil
import pytest

from jobs.poll.targets import Lists, TargetError, is_remote, parse_discovery, parse_target


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


@pytest.fixture
def lists():
    """Read lists, one after the other; gives what they contain, and all that was told."""
    told = []
    lists = Lists(limit=20.0, say=told.append)

    def read(*listed):
        return asyncio.run(lists.read(listed)), told

    return read


def python(code, base):
    (base / "list.py").write_text(code)
    return parse_discovery(f"command:{sys.executable} list.py", base)


def test_a_file_is_read_again_each_time_and_comments_are_left_out(lists, tmp_path):
    path = tmp_path / "targets.txt"
    path.write_text("# all\nlocalhost:80\n\nhttp://localhost/#top  # a page\n./targets.txt\n")
    listed = parse_discovery("file:targets.txt", tmp_path)
    assert lists(listed)[0] == ["tcp:localhost:80", "http://localhost/#top", f"file:{path}"]
    path.write_text("localhost:81\n")
    assert lists(listed, "local") == (["tcp:localhost:81"], [])


def test_what_a_list_has_that_is_no_target_is_told_once_and_left_out(lists, tmp_path):
    path = tmp_path / "targets.txt"
    path.write_text("localhost:80\nlocalhost:99999\n")
    listed = parse_discovery("file:targets.txt", tmp_path)
    for _ in range(2):
        found, told = lists(listed)
        assert found == ["tcp:localhost:80"]
        assert told == [f"{path}: target 'localhost:99999': the port must be a number from 1 to 65535"]


def test_the_last_list_is_kept_while_a_file_is_gone(lists, tmp_path):
    path = tmp_path / "targets.txt"
    path.write_text("localhost:80\n")
    listed = parse_discovery("file:targets.txt", tmp_path)
    lists(listed)
    path.unlink()
    assert lists(listed)[0] == lists(listed)[0] == ["tcp:localhost:80"]
    path.write_text("localhost:81\n")
    found, told = lists(listed)
    assert found == ["tcp:localhost:81"]
    assert ["No such file" in line for line in told] == [True, False]
    assert told[-1] == f"{path}: is all right again"


def test_a_command_runs_in_the_directory_of_its_yaml(lists, tmp_path):
    listed = python("import os; print('localhost:80\\n' + os.getcwd())", tmp_path)
    assert lists(listed) == (["tcp:localhost:80", f"directory:{tmp_path}"], [])


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('localhost:81'); raise SystemExit(3)", "ended with status 3; its last list is kept"),
        ("import sys; sys.stdout.buffer.write(b'\\xff')", "invalid start byte; its last list is kept"),
    ],
)
def test_the_last_list_is_kept_when_a_command_fails(lists, tmp_path, code, said):
    listed = python("print('localhost:80')", tmp_path)
    lists(listed)
    assert listed == python(code, tmp_path)
    found, told = lists(listed)
    assert found == ["tcp:localhost:80"]
    assert said in told[0]


def test_a_command_that_takes_too_long_is_ended_with_what_it_has_started(tmp_path):
    code = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'import signal; signal.pause()', '{tmp_path}'])"
    )
    listed = python(code, tmp_path)
    told = []
    assert asyncio.run(Lists(limit=0.5, say=told.append).read([listed])) == []
    assert told == [f"{listed}: took more than 0.5 s; its last list is kept"]
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in (each.info["cmdline"] or [])]


def test_only_tcp_and_http_are_remote():
    ids = ["tcp:h:1", "http://h", "https://h", "file:/f", "machine@h", "process:1:2@h"]
    assert [is_remote(each) for each in ids] == [True, True, True, False, False, False]
