"""The repository's pages and configuration agree with each other and with the code."""

import ast
import importlib
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

import partition_actor

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
SECURITY = (ROOT / "docs" / "security.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE))
TEST_NAMES = {
    node.name
    for path in (ROOT / "tests").rglob("test_*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef)
}


def tools_of_check():
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE).group(1)
    return {tool(command.strip().removeprefix("$(BIN)/")) for command in recipe.splitlines()}


def tool(command):
    """A command without its options and paths, such as ``("ruff", "check")``."""
    return tuple(word for word in command.split() if not word.startswith("-") and word != ".")


def test_the_versions_agree():
    assert re.findall(r'^version = "(.+)"$', PYPROJECT, re.MULTILINE) == [partition_actor.__version__]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_make_targets_that_a_page_names_exist(page):
    commands = re.findall(r"(?:^|`)make ((?:[a-z-]+ ?)+)", page.read_text(), re.MULTILINE)
    assert {target for command in commands for target in command.split()} <= TARGETS


def test_contributing_describes_every_make_target():
    assert set(re.findall(r"^\| `make ([a-z-]+)` \|", CONTRIBUTING, re.MULTILINE)) == TARGETS - {"help"}


def test_contributing_names_every_room_and_no_other():
    rooms = {path.parent.name for path in (ROOT / "partition_actor").glob("*/__init__.py")}
    drawing = re.search(r"```\n(\s*operate/.*?)```", CONTRIBUTING, re.DOTALL).group(1)
    assert set(re.findall(r"\b([a-z]+)/", drawing)) == rooms
    table = CONTRIBUTING.partition("| to change | look in |")[2].partition("\n\n")[0]
    for path in re.findall(r"`([a-zA-Z_/]+(?:\.\w+)?)`", table):
        assert any((base / path).exists() for base in (ROOT, ROOT / "partition_actor")) or path.isidentifier(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pytest_commands_of_a_page_select_tests(page):
    for path, _, quoted, plain in re.findall(r'pytest (tests/\S*[\w/])( -k (?:"(.+?)"|(\w+)))?', page.read_text()):
        found = [ROOT / path] if path.endswith(".py") else list((ROOT / path).rglob("test_*.py"))
        text = "".join(each.read_text() for each in found)
        for word in set(re.findall(r"\w+", quoted or plain)) - {"and", "or", "not"}:
            assert word in text, (path, word)


@pytest.mark.parametrize("page", ["bugs.md", "security.md"])
def test_the_tests_that_a_page_names_exist(page):
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / page).read_text()))
    assert named - TEST_NAMES == set()


def test_the_limits_of_the_page_on_security_are_those_of_the_code():
    rows = re.findall(r"^\| .+? \| (.+?) \| `([\w.]+)\.([A-Z_]+)` \|", SECURITY, re.MULTILINE)
    assert len(rows) > 5
    for said, module, name in rows:
        limit = getattr(importlib.import_module(f"partition_actor.{module}"), name)
        assert f"{limit:,}" in said, (name, said)


def test_pre_commit_runs_the_tools_of_make_check():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks)
    assert {tool(hook["entry"].removeprefix(".venv/bin/")) for hook in hooks} == tools_of_check()


def test_ci_runs_make_check_and_test_on_every_supported_python():
    (job,) = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"].values()
    (command,) = [step["run"] for step in job["steps"] if "run" in step]
    assert re.fullmatch(r"make \$\{\{ matrix\.targets \}\} PYTHON=python", command)
    matrix = job["strategy"]["matrix"]
    targets = {each["python"]: each["targets"].split() for each in matrix["include"]}
    targets |= {python: targets.split() for python in matrix["python"] for targets in matrix["targets"]}
    lowest = re.search(r'^requires-python = ">=(.+)"$', PYPROJECT, re.MULTILINE).group(1)
    assert min(targets, key=lambda python: tuple(map(int, python.split(".")))) == lowest
    assert all("test" in each and set(each) <= TARGETS for each in targets.values())
    assert "check" in targets["3.11"]


def test_no_two_classes_of_the_library_share_a_name():
    files = (ROOT / "partition_actor").rglob("*.py")
    names = Counter(
        node.name for path in files for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    )
    assert [name for name, number in names.items() if number > 1] == []
