"""`status`, `top`, `events` and the page tell the same while members come, die and are drained."""

import itertools
import json
import os
import signal
import threading
import urllib.request

import ray
from deployments import LIMIT, in_thread, wait_until
from members import ExclusiveWorker
from served_page import ServedPage
from test_command_line import Terminal

from partition_actor.core.events import BEGINS, ENDS
from partition_actor.operate.page.asking_process import AskingProcess

ROUNDS = 12


def members_by_events(events):
    """By epoch, who was in the group according to its events."""
    members, found = set(), {}
    for event in events:
        if event["what"] in BEGINS:
            members.add(event["member"])
        elif event["what"] in ENDS:
            members.discard(event["member"])
        else:  # such as the end of a hand-off, which may be of an earlier epoch
            continue
        found[tuple(event["epoch"])] = frozenset(members)
    return found


def test_all_that_operators_look_at_agrees_while_members_come_and_go(cluster, quick, group, spawn):
    terminal = Terminal(quick)
    source = AskingProcess(cluster.address_info["gcs_address"], quick.namespace, quick.name)
    told = {"status": {}, "page": {}}
    sizes = {"top": {}, "status": {}}
    problems = []
    over = threading.Event()

    def note(kind, said):
        if said is not None and said["epoch"] is not None:
            named = [member["id"] for member in said["members"] if member["has_place"]]
            told[kind][tuple(said["epoch"])] = frozenset(named)

    def note_size(kind, groups):
        if group in groups and groups[group]["epoch"] is not None:
            sizes[kind][tuple(groups[group]["epoch"])] = groups[group]["members"]

    def look():
        """Look in all ways until it is over; the page in this thread, as it takes no longer than a call."""
        with ServedPage(source) as page:
            request = urllib.request.Request(f"{page.url}/group?name={group}", headers={"Accept": "application/json"})
            while not over.is_set():
                note("status", quick.call("status", group))
                note_size("status", quick.call("status")["groups"])
                note_size("top", quick.call("observe")["status"]["groups"])
                with urllib.request.urlopen(request, timeout=LIMIT) as answer:
                    note("page", json.load(answer)["group"])
        return True

    names = itertools.count()
    workers = {}
    drained = []  # their processes go on: the death of one that leaves is an event of its own

    def start():
        name = f"member-{next(names)}"
        workers[name] = spawn(ExclusiveWorker, *quick.worker_arguments(name, group))
        return name

    for _ in range(3):
        ray.get(workers[start()].pid.remote(), timeout=LIMIT)
    looked = in_thread(look)
    try:
        for turn in range(ROUNDS):
            seen = len(told["page"])
            leaver = next(iter(workers))
            worker = workers.pop(leaver)
            if turn % 2:
                os.kill(ray.get(worker.pid.remote(), timeout=LIMIT), signal.SIGKILL)
            else:
                quick.call("drain", group, leaver)
                drained.append(worker)
            start()
            wait_until(lambda: set(quick.members(group)) == set(workers))
            wait_until(lambda seen=seen: len(told["page"]) > seen or problems)
    finally:
        over.set()
    assert looked()

    by_events = members_by_events(terminal.lines("events", "--group", group, "--last", 10_000))
    assert len(told["status"]) > ROUNDS / 2
    assert len(told["page"]) >= ROUNDS
    for kind, known in told.items():
        for epoch, members in known.items():
            assert members == by_events[epoch], (kind, epoch)
    assert sizes["top"]
    for kind, known in sizes.items():
        for epoch, size in known.items():
            assert size == len(by_events[epoch]), (kind, epoch)
    (latest,) = terminal.lines("top", "--once")
    assert latest["status"]["groups"][group]["members"] == len(workers)
