"""What the server of the page answers, without a browser, and what that costs the partition actor."""

import asyncio
import json
import socket
import threading
import time

import httpx
import pytest
from deployments import wait_until
from served_page import ServedPage

from partition_actor.operate.page import asker, feed
from partition_actor.ring import Ring

TOKEN = "a-token-of-many-characters"
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "a/b/../c",
    "..",
    "100%2F&name=x#y?z",
    "ünïcødé 🦆 \u202egnp",
    "new\nline\r\n\r\ndata: x",
    "x" * 1000,
]


def ask(page, method="GET", path="/", **options):
    return httpx.request(method, page.url + path, timeout=20, **options)


def as_json(page, path="/", **params):
    return ask(page, path=path, params=params, headers={"Accept": "application/json"})


def change(page, path="/drain", **headers):
    headers = {"Origin": page.url, "X-CSRF-Token": ask(page, path="/session").json()["csrf"], **headers}
    body = {"group": "agents", "member": "a"}
    return ask(page, "POST", path, json=body, headers={name: value for name, value in headers.items() if value})


# -- access -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/group?name=x", "/static/page.css", "/session", "/nothing", "/owner", "/live", "/fleet?name=x"]
)
def test_every_answer_forbids_what_the_page_does_not_need(serve, path):
    with httpx.stream("GET", serve().url + path, timeout=20) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "Python" not in answer.headers["Server"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8270", "127.0.0.1.evil.example", "", "[", "192.0.2.7"])
def test_a_name_that_was_pointed_at_this_machine_gets_nothing(serve, host):
    answer = ask(serve(), headers={"Host": host})
    assert answer.status_code in (400, 421)
    assert "<html" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1:1", "[::1]:8270", "page.localhost"])
def test_names_of_this_machine_get_the_page_also_through_a_tunnel_of_another_port(serve, host):
    assert ask(serve(), headers={"Host": host}).status_code == 200


def test_with_a_token_nobody_without_it_gets_anything(serve):
    page = serve(token=TOKEN)
    wrong = {"Authorization": "Bearer wrong"}
    for path in ("/", "/group?name=agents", "/static/page.css", "/live", "/session", "/owner?name=agents&key=1"):
        assert ask(page, path=path).status_code == 401
        assert ask(page, path=path, headers=wrong).status_code == 401
    assert ask(page, path="/", params={"token": "wrong"}).status_code == 401
    assert ask(page, path="/", params={"token": "ü" * 20}).status_code == 401
    assert ask(page, headers={"Cookie": f"partition_actor_page_{page.port}={TOKEN}"}).status_code == 401
    assert ask(page, "POST", "/drain").status_code == 401
    assert page.source.calls == []


def test_the_token_is_taken_as_bearer_whatever_the_host(serve):
    page = serve(token=TOKEN)
    headers = {"Authorization": f"Bearer {TOKEN}", "Host": "head.cluster.example", "Accept": "application/json"}
    assert ask(page, headers=headers).json()["connection"]["state"] == "live"


@pytest.mark.parametrize("path", ["/", "/group?name=a%2Fb%20%3F"])
def test_the_token_in_the_address_is_traded_for_a_cookie(serve, path):
    page = serve(token=TOKEN)
    with httpx.Client() as browser:
        first = browser.get(f"{page.url}{path}{'&' if '?' in path else '?'}token={TOKEN}")
        assert first.status_code == 303
        cookie = first.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert TOKEN not in cookie
        assert TOKEN not in first.headers["Location"]
        again = browser.send(first.next_request)
        assert again.status_code == 200
        wanted = httpx.URL(page.url + path)
        assert (again.url.path, again.url.params) == (wanted.path, wanted.params)
        assert "<!doctype html>" in again.text


def test_a_page_is_read_only_unless_it_is_told_otherwise(serve, actor):
    answer = change(serve())
    assert answer.status_code == 403
    assert "--allow-changes" in answer.json()["error"]
    assert actor.changes == []


@pytest.mark.parametrize(("path", "what"), [("/drain", "drained"), ("/forget", "forgotten")])
def test_a_change_from_the_page_itself_is_made(serve, actor, path, what):
    answer = change(serve(allow_changes=True), path)
    assert (answer.status_code, answer.json()) == (200, {})
    assert actor.changes == [(what, "agents", "a")]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-CSRF-Token": None},
        {"X-CSRF-Token": "wrong"},
        {"Origin": None},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
    ],
    ids=str,
)
def test_a_change_from_elsewhere_is_refused(serve, actor, headers):
    assert change(serve(allow_changes=True), **headers).status_code in (403, 421)
    assert actor.changes == []


def test_nothing_changes_by_looking(serve, actor):
    page = serve(allow_changes=True)
    for path in ("/drain", "/forget"):
        assert ask(page, path=f"{path}?group=agents&member=a").status_code == 405
    assert actor.changes == []


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"group": 1, "member": "a"}', '{"group": "agents"}', "x" * 200_000])
def test_a_change_that_makes_no_sense_is_refused(serve, actor, body):
    page = serve(allow_changes=True)
    headers = {"Origin": page.url, "X-CSRF-Token": ask(page, path="/session").json()["csrf"]}
    assert ask(page, "POST", "/drain", content=body, headers=headers).status_code in (400, 413)
    assert actor.changes == []


def test_what_the_partition_actor_says_against_a_change_is_passed_on(serve, actor):
    actor.end("agents", "a")
    answer = change(serve(allow_changes=True))
    assert answer.status_code == 409
    assert "no member 'a'" in answer.json()["error"]
    actor.away = "it does not run"
    answer = change(serve(allow_changes=True))
    assert (answer.status_code, answer.json()["error"]) == (503, "it does not run")


# -- data ---------------------------------------------------------------------------------------------------------


def test_the_page_is_html_for_browsers_and_json_for_programs(serve):
    page = serve()
    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    assert ask(page, headers=browser).headers["Content-Type"].startswith("text/html")
    assert ask(page).headers["Content-Type"].startswith("text/html")
    answer = as_json(page)
    assert answer.headers["Content-Type"].startswith("application/json")
    assert [group["name"] for group in answer.json()["groups"]] == ["agents"]


def test_the_groups_as_json(serve, actor):
    actor.group("other", [])
    actor.elect("agents", "b")
    actor.hand_off("agents", 1.5, "a")
    actor.lock("reindex", "a", "b")
    page = serve()
    answer = wait_until(lambda: (found := as_json(page).json())["groups"][0]["balance"] and found)
    group = answer["groups"][0]
    assert (group["members"], group["leader"], group["handoff"]["held_up_by"]) == (3, "b", ["a"])
    ring = Ring(["a", "b", "c"])
    assert group["balance"] == pytest.approx(3 * max(ring.share().values()))
    assert answer["actor"]["sessions"] == 3
    assert answer["locks"][0]["waiting"] == ["b"]
    assert [event["what"] for event in answer["events"]][:2] == ["started", "joined"]
    assert [each["name"] for each in as_json(page, find="OTH").json()["groups"]] == ["other"]


def test_a_group_as_json(serve, actor):
    actor.join("agents", "d", weight=3, metadata={"zone": "x" * 500})
    answer = as_json(serve(), "/group", name="agents").json()
    members = {member["id"]: member for member in answer["group"]["members"]}
    ring = Ring({"a": 1, "b": 1, "c": 1, "d": 3})
    assert {name: member["share"] for name, member in members.items()} == ring.share()
    assert members["d"]["fair_share"] == 0.5
    assert len(members["d"]["metadata"]) < 400
    assert {event["group"] for event in answer["events"]} == {None, "agents"}


def test_fleets_as_json(serve, actor):
    event = {"seconds_ago": 7.0, "what": "scales from 2 to 3"}
    waiting = [{"slot": 2, "seconds": 0.5, "reason": "no database"}]
    actor.fleet("billers", "agents", 3, ready=False, events=[event], waiting=waiting, seconds_ago=2.0)
    actor.fleet("a", "agents")
    actor.fleet("others", "elsewhere")
    page = serve()
    found = as_json(page).json()
    assert [each["name"] for each in found["fleets"]] == ["billers", "a", "others"]
    assert found["fleets"][0]["last_event"] == {**event, "seconds_ago": 9.0}
    assert "workers" not in found["fleets"][0]
    assert [each["name"] for each in as_json(page, "/group", name="agents").json()["fleets"]] == ["billers", "a"]
    billers = as_json(page, "/fleet", name="billers").json()["fleet"]
    assert [each["seconds"] for each in billers["workers"]] == [4002.0] * 3
    assert billers["waiting"][0]["seconds"] == 0.0
    answer = as_json(page, "/fleet", name="nobody")
    assert (answer.status_code, answer.json()["fleet"]) == (404, None)


def test_a_partition_actor_that_knows_no_fleets_is_shown(serve, actor, monkeypatch):
    observe = actor.observe

    async def of_the_version_before(groups, since):
        answer = await observe(groups, since)
        del answer["fleets"]
        return answer

    monkeypatch.setattr(actor, "observe", of_the_version_before)
    assert as_json(serve()).json()["fleets"] == []


def test_a_group_that_is_not_there(serve):
    answer = as_json(serve(), "/group", name="nobody")
    assert answer.status_code == 404
    assert answer.json()["group"] is None


@pytest.mark.parametrize("name", ["", "x" * 1025, "ü" * 600])
@pytest.mark.parametrize("path", ["/group?name=", "/owner?name=", "/live?group=", "/fleet?name=", "/live?fleet="])
def test_a_name_that_no_group_can_have_is_refused_and_never_asked_for(serve, actor, path, name):
    page = serve()
    assert ask(page, path=path + name).status_code == 400
    assert as_json(page).status_code == 200
    assert {group for groups in actor.calls for group in groups} <= {"agents"}


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:20])
def test_a_group_of_any_name_has_its_page_and_its_data(serve, actor, name):
    actor.group(name, [name])
    page = serve()
    assert ask(page, path="/group", params={"name": name}).text.startswith("<!doctype html>")
    group = as_json(page, "/group", name=name).json()["group"]
    assert group["name"] == name
    assert [member["id"] for member in group["members"]] == [name]
    assert ask(page, path="/owner", params={"name": name, "key": name}).json()["owner"] == name


def test_the_owner_of_a_key_and_the_next_two(serve):
    answer = ask(serve(), path="/owner", params={"name": "agents", "key": "order 7"}).json()
    ring = Ring(["a", "b", "c"])
    assert [answer["owner"], *answer["next"]] == ring.owners("order 7", 3)
    assert 0 <= answer["place"] < 1


def test_an_empty_group_owns_no_key(serve, actor):
    actor.group("empty")
    assert ask(serve(), path="/owner", params={"name": "empty", "key": "k"}).json()["owner"] is None
    assert ask(serve(), path="/owner", params={"name": "nobody", "key": "k"}).status_code == 404


def test_when_the_partition_actor_is_lost_the_answer_says_why(serve, actor):
    actor.away = "it was shut down"
    answer = as_json(serve())
    assert answer.status_code == 503
    assert answer.json()["connection"]["why"] == "it was shut down"


def test_an_answer_that_cannot_be_read_is_said_and_does_not_end_the_page(serve, actor):
    page = serve()
    actor.incarnation, kept = None, actor.incarnation
    actor.groups["agents"]["epoch"] = None
    assert "cannot be read" in as_json(page, "/group", name="agents").json()["connection"]["why"]
    actor.incarnation = kept
    actor.groups["agents"]["epoch"] = (kept, 99)
    wait_until(lambda: as_json(page, "/group", name="agents").status_code == 200)


# -- what it costs ------------------------------------------------------------------------------------------------


class Browser:
    """Reads a stream of states in a thread."""

    def __init__(self, page, **params):
        self.messages = []
        self._stream = httpx.stream("GET", page.url + "/live", params=params, timeout=20)
        self._ends = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        with self._stream as answer:
            kind = None
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: "):
                    self.messages.append((kind, json.loads(line[6:])))
                if self._ends:
                    return

    def of(self, kind):
        return [data for each, data in list(self.messages) if each == kind]

    def close(self):
        self._ends = True
        self._thread.join(10)


def test_many_browsers_cost_as_many_calls_as_one(serve, actor):
    page = serve()
    browsers = [Browser(page, **({"group": "agents"} if number % 2 else {})) for number in range(12)]
    wait_until(lambda: all(len(browser.of("state")) > 3 for browser in browsers))
    before, told = len(actor.calls), len(browsers[0].of("state"))
    wait_until(lambda: len(browsers[0].of("state")) >= told + 10)
    assert len(actor.calls) - before <= 12
    assert all(set(groups) <= {"agents"} for groups in actor.calls)
    for browser in browsers:
        browser.close()


def test_programs_that_ask_in_a_loop_cost_no_more_either(serve, actor):
    page = serve()
    began = time.monotonic()
    for _ in range(20):
        as_json(page, "/group", name="agents")
    assert len(actor.calls) <= 2 + (time.monotonic() - began) / page.feed._period


def test_nobody_asks_when_nobody_looks(serve, actor):
    page = serve()
    assert actor.calls == []
    browser = Browser(page)
    wait_until(lambda: browser.of("state"))
    browser.close()
    wait_until(lambda: page.call(lambda: page.feed._loop.done()))
    calls = len(actor.calls)
    ask(page)
    ask(page, path="/static/page.css")
    assert len(actor.calls) == calls


def test_a_browser_is_sent_a_ring_once_for_each_epoch_and_each_event_once(serve, actor):
    page = serve()
    browser = Browser(page, group="agents")
    wait_until(lambda: len(browser.of("state")) > 5)
    assert len(browser.of("ring")) == 1
    actor.join("agents", "d")
    wait_until(lambda: len(browser.of("ring")) == 2 and browser.of("events"))
    browser.close()
    assert browser.of("ring")[1]["members"] == ["a", "b", "c", "d"]
    (events,) = browser.of("events")
    assert [(event["what"], event["member"]) for event in events] == [("joined", "d")]
    (log,) = browser.of("log")
    assert [event["member"] for event in log] == [None, "a", "b", "c"]


def test_a_group_of_many_members_has_a_drawing_of_the_usual_size(serve, actor):
    actor.group("many", [f"member-{number}" for number in range(300)])
    browser = Browser(serve(), group="many")
    (ring,) = wait_until(lambda: browser.of("ring"))
    browser.close()
    assert len(ring["places"]) == 2880
    assert ring["virtual_nodes"] == 300 * 160
    shares = Ring(ring["members"]).share()
    drawn = [ring["places"].count(index) / 2880 for index in range(300)]
    assert sum(abs(drawn[index] - shares[name]) for index, name in enumerate(ring["members"])) < 0.3


def test_a_browser_that_reads_nothing_makes_nothing_wait_and_nothing_grow(serve, actor):
    actor.group("many", [f"member-{number}" for number in range(1000)])
    page = serve()
    stuck = socket.create_connection(("127.0.0.1", page.port))
    stuck.sendall(b"GET /live?group=many HTTP/1.1\r\nHost: localhost\r\n\r\n")
    wait_until(lambda: max(page.unsent(), default=0))
    browser = Browser(page)
    wait_until(lambda: len(browser.of("state")) > 10)
    assert max(page.unsent()) < 3 * len(json.dumps(page.call(lambda: page.feed.state("many"))))
    stuck.close()
    browser.close()


def test_a_stream_ends_with_the_server(actor):
    with ServedPage(actor) as page:
        browser = Browser(page)
        wait_until(lambda: browser.of("state"))
    browser._thread.join(10)
    assert not browser._thread.is_alive()


def test_more_groups_than_one_call_may_ask_for_are_asked_for_in_turn(serve, actor):
    page = serve()
    for number in range(30):
        actor.group(f"g{number:02}", ["m"])
    browsers = [Browser(page, group=f"g{number:02}") for number in range(30)]
    wait_until(lambda: all(browser.of("state") for browser in browsers))
    assert max(len(groups) for groups in actor.calls) == 20
    for browser in browsers:
        browser.close()


def test_balances_are_worked_out_only_for_what_has_changed(serve, actor, monkeypatch):
    monkeypatch.setattr(feed, "BALANCE_AFTER", 0.0)
    for number in range(45):
        actor.group(f"g{number:02}", ["m", "n"])
    page = serve()
    browser = Browser(page)
    wait_until(
        lambda: all(group["balance"] for group in browser.of("state")[-1]["groups"]) if browser.of("state") else 0
    )
    before = len(actor.calls)
    wait_until(lambda: len(actor.calls) > before + 5)
    assert actor.calls[before + 1 :] == [[]] * len(actor.calls[before + 1 :])
    browser.close()


def test_a_partition_actor_that_does_not_answer_counts_as_lost_until_it_does(serve, actor, monkeypatch):
    monkeypatch.setattr(feed, "PATIENCE", 0.1)
    answers, observe = threading.Event(), actor.observe

    async def hang(groups, since):
        while not answers.is_set():
            await asyncio.sleep(0.01)
        return await observe(groups, since)

    actor.observe = hang
    browser = Browser(serve())
    wait_until(lambda: browser.of("state"))
    assert browser.of("state")[-1]["connection"]["why"] == "it has not answered yet"
    answers.set()
    wait_until(lambda: browser.of("state")[-1]["connection"]["state"] == "live")
    browser.close()


def test_another_incarnation_is_told(serve, actor):
    page = serve()
    browser = Browser(page)
    wait_until(lambda: browser.of("state"))
    actor.away = "the partition actor does not run"
    wait_until(lambda: browser.of("state")[-1]["connection"]["state"] == "lost")
    actor.away = None
    actor.restart(keep_members=True)
    wait_until(lambda: browser.of("state")[-1]["connection"]["state"] == "live")
    browser.close()
    connection = browser.of("state")[-1]["connection"]
    assert connection["incarnation"] == actor.incarnation
    assert connection["replaced"]


def test_a_group_may_be_named_as_a_field_is():
    member = {"id": "a", "metadata": {"zone": b"x"}}
    told = {
        "status": {"groups": {"metadata": {"members": 1}}},
        "groups": {"metadata": {"members": [member]}, "b": None},
    }
    assert asker.plain(told) == {
        "status": {"groups": {"metadata": {"members": 1}}},
        "groups": {"metadata": {"members": [{"id": "a", "metadata": "{'zone': b'x'}"}]}, "b": None},
    }


def test_the_owner_of_a_key_is_not_told_while_the_partition_actor_is_lost(serve, actor):
    page = serve()
    actor.away = "it is gone"
    answer = ask(page, path="/owner?name=agents&key=x")
    assert (answer.status_code, answer.json()) == (503, {"error": "it is gone"})


@pytest.mark.parametrize("path", ["/https:evil.example", "//evil.example/x", "/%5C%5Cevil.example"])
def test_the_token_leads_nowhere_else(serve, path):
    there = ask(serve(token=TOKEN), path=f"{path}?token={TOKEN}").headers["Location"]
    assert there.startswith("./")
