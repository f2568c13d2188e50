"""The page in a real browser: what a person would do with it.

Without Chromium they are skipped; Debian's is in the package ``chromium``.
"""

import os
import shutil
import signal
import statistics
from urllib.parse import urlencode

import pytest
import ray
from deployments import LIMIT, wait_until
from fleet_statuses import worker
from members import ExclusiveWorker
from served_page import ServedPage

from partition_actor.operate.page.asking_process import AskingProcess
from partition_actor.ring import Ring

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")

HOSTILE = [
    "<img src=x onerror=hacked()>",
    "<script>hacked()</script>",
    "a/b/../c?d#e&name=f",
    "..",
    "javascript:hacked()",
    "100% \u202egnp ünï 🦆\nnext line",
    "<b>" + "x" * 997,
]
WIDTHS = (400, 1000, 1600)
expect = sync_api.expect
expect.set_options(timeout=1000 * LIMIT)


@pytest.fixture(scope="module")
def chromium():
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if root else [])
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium):
    """Open a page, wait until it is live, and fail the test at its end if the page complained of the unexpected."""
    contexts, wrong = [], []

    def browse(url, width=1000, expected="willReadFrequently", **options):
        contexts.append(chromium.new_context(viewport={"width": width, "height": 800}, **options))
        tab = contexts[-1].new_page()
        tab.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        tab.on("console", lambda said: wrong.append(said.text) if is_wrong(said, expected) else None)
        tab.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        tab.on("request", lambda asked: None if asked.url.startswith(url[:17]) else wrong.append(asked.url))
        tab.goto(url)
        expect(tab.locator("#connection")).to_have_attribute("data-live", "live")
        return tab

    yield browse
    for context in contexts:
        context.close()
    assert wrong == []


def is_wrong(said, expected):
    return said.type in ("error", "warning") and expected not in said.text


def rows(tab, table):
    return tab.locator(f"#{table} > tr")


def tile(tab, label):
    return tab.locator("#tiles > div", has=tab.get_by_text(label, exact=True)).locator("dd > span")


# -- looking ------------------------------------------------------------------------------------------------------


def test_the_groups_at_a_glance(serve, actor, browse):
    actor.group("pipelines", [f"w{number}" for number in range(12)], exclusive=False)
    actor.elect("agents", "b")
    actor.hand_off("agents", 1.5, "a", "c")
    actor.lock("reindex", "a", "c")
    tab = browse(serve().url)
    expect(rows(tab, "groups")).to_have_count(2)
    first = rows(tab, "groups").nth(0)
    expect(first).to_contain_text("agents")
    expect(first).to_contain_text("1.5 s: held up by a, c")
    balance = 3 * max(Ring(["a", "b", "c"]).share().values())
    expect(first).to_contain_text(f"{balance:.2f}×")
    expect(first.locator("td").last).to_have_text("b")
    expect(rows(tab, "groups").nth(1)).to_contain_text("not exclusive")
    expect(tile(tab, "Sessions")).to_have_text("15")
    expect(rows(tab, "locks")).to_contain_text("reindex")
    expect(rows(tab, "events").first).to_contain_text("leader")


def test_a_group_is_found_and_opened(serve, actor, browse):
    for number in range(30):
        actor.group(f"group-{number:02}")
    tab = browse(serve().url)
    tab.get_by_label("Find groups whose names contain").fill("P-17")
    expect(rows(tab, "groups")).to_have_count(1)
    tab.get_by_role("link", name="group-17").first.click()
    expect(tab.locator("#title")).to_have_text("group-17")
    expect(tab.locator("#members-empty")).to_have_text("This group has no member now.")
    tab.go_back()
    expect(tab.get_by_role("heading", name="Groups", exact=True)).to_be_visible()


def test_a_fleet_is_seen_and_opened_with_its_workers_and_what_happened(serve, actor, browse):
    actor.fleet("well", "agents", 3)
    workers = [worker(0, load=4.0, restarts=2, reason="it was killed"), worker(1, phase="starting", pid=None)]
    waiting = [{"slot": 2, "seconds": 30.0, "reason": "no database"}]
    events = [{"seconds_ago": 70.0, "what": "updates to version 2"}, {"seconds_ago": 60.0, "what": "no database"}]
    said = {"size": 3, "ready": False, "update_failed": "version 2 was rolled back", "seconds_ago": 9.0}
    actor.fleet("billers", "agents", workers, waiting=waiting, events=events, **said)
    page = serve()
    tab = browse(page.url)
    first = rows(tab, "fleets").nth(0)
    for shown in ("billers", "not ready", "update failed", "not heard of for 9 s", "1 of 3", "no database"):
        expect(first).to_contain_text(shown)
    expect(rows(tab, "fleets").nth(1)).to_contain_text("ready")
    tab.get_by_role("link", name="billers").click()
    expect(rows(tab, "workers")).to_have_count(3)
    for slot, shown in enumerate(
        (["serving", "it was killed", "pid 12345"], ["starting"], ["starts again", "no data"])
    ):
        for each in shown:
            expect(rows(tab, "workers").nth(slot)).to_contain_text(each)
    expect(rows(tab, "happened").first).to_contain_text("no database")
    expect(tab.locator("#failed")).to_have_text("version 2 was rolled back")
    expect(tile(tab, "Load")).to_have_text("4")
    actor.fleet("billers", "agents", [worker(0), worker(1), worker(2)], version=3)
    expect(tab.locator("#workers .badge.good")).to_have_count(3)
    expect(tab.locator("#badges")).to_have_text("ready")
    expect(tab.locator("#failed")).to_be_empty()
    actor.fleet("billers", "agents", [], size=3, ready=False, cannot_start="no database")
    expect(tab.locator("#badges")).to_have_text("cannot start")
    expect(tab.locator("#failed")).to_have_text("no database")
    expect(tab.locator("#workers-empty")).to_be_visible()
    actor.fleets.clear()
    expect(tab.locator("#absent")).to_contain_text("within 30 s")
    tab.get_by_role("link", name="Groups").click()
    expect(rows(tab, "groups")).to_have_count(1)
    expect(tab.locator("#fleets-card")).to_be_hidden()


def test_a_group_shows_its_fleets(serve, actor, browse):
    actor.fleet("billers", "agents")
    actor.fleet("others", "elsewhere")
    tab = browse(f"{serve().url}/group?name=agents")
    expect(rows(tab, "fleets")).to_have_count(1)
    tab.get_by_role("link", name="billers").click()
    expect(tab.locator("#title")).to_have_text("billers")


def test_a_fleet_of_any_words_is_text(serve, actor, browse):
    for name in HOSTILE:
        event = {"seconds_ago": 1.0, "what": name}
        workers = [worker(0, name, phase=name, reason=name, node=name)]
        actor.fleet(name, "agents", workers, events=[event], update_failed=name)
    tab = browse(serve().url, width=400)
    expect(rows(tab, "fleets")).to_have_count(len(HOSTILE))
    for name in HOSTILE:
        tab.goto(f"{tab.url.partition('/fleet')[0].rstrip('/')}/fleet?{urlencode({'name': name})}")
        expect(rows(tab, "workers")).to_have_count(1)
        assert tab.locator("#title").text_content() == name
        assert tab.locator("main img, main script").count() == 0
        assert tab.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert tab.evaluate("typeof hacked") == "undefined"


def test_a_partition_actor_without_groups_says_so(serve, actor, browse):
    actor.groups.clear()
    tab = browse(serve().url)
    expect(tab.locator("#groups-empty")).to_contain_text("There is no group yet")
    expect(tab.locator("#locks-empty")).to_be_visible()


def test_a_group_with_its_ring_its_shares_and_its_members(serve, actor, browse):
    actor.join("agents", "heavy", weight=3, metadata="{'zone': 'north'}", watched_by="lease", lag=1.25)
    actor.elect("agents", "a")
    actor.lock("reindex", "heavy")
    actor.lock("of another", "nobody-here")
    tab = browse(f"{serve().url}/group?name=agents")
    share = Ring({"a": 1, "b": 1, "c": 1, "heavy": 3}).share()["heavy"]
    bar = tab.locator("#shares li", has_text="heavy")
    expect(bar).to_contain_text(f"{100 * share:.1f} % · {2 * share:.2f}×")
    row = rows(tab, "members").filter(has_text="heavy")
    for text in ("zone", "1.3 s", "lease only", f"{100 * share:.1f} %"):
        expect(row).to_contain_text(text)
    expect(rows(tab, "members").nth(0)).to_contain_text("leader")
    expect(tile(tab, "Longest lag")).to_have_text("1.3 s")
    expect(rows(tab, "locks")).to_have_count(1)
    name = tab.locator("#ring").get_attribute("aria-label")
    assert "Hash ring of 4 members" in name
    wait_until(lambda: len(colours_of_the_ring(tab)) >= 4)


def colours_of_the_ring(tab):
    """The colours that cover much of the ring."""
    return tab.evaluate("""() => {
        const canvas = document.getElementById("ring");
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const found = {};
        for (let at = 0; at < data.length; at += 4) {
            const colour = data.slice(at, at + 3).join();
            if (data[at + 3] === 255) found[colour] = (found[colour] ?? 0) + 1;
        }
        return Object.keys(found).filter((colour) => found[colour] > 500);
    }""")


def test_a_bar_that_is_pressed_stands_out_on_the_ring(serve, browse):
    tab = browse(f"{serve().url}/group?name=agents")
    wait_until(lambda: len(colours_of_the_ring(tab)) == 3)
    bar = tab.get_by_role("button", name="b 3", exact=False).first
    bar.press("Enter")
    expect(bar).to_have_attribute("aria-pressed", "true")
    expect(tab.locator("#centre strong")).to_have_text("b")
    wait_until(lambda: len(colours_of_the_ring(tab)) == 1)  # those of the others are pale


def test_what_happens_is_seen(serve, actor, browse):
    tab = browse(f"{serve().url}/group?name=agents")
    actor.join("agents", "d")
    expect(rows(tab, "members").filter(has_text="d").first).to_be_visible()
    expect(tile(tab, "Members")).to_have_text("4")
    actor.end("agents", "b", why="killed: the kernel of its node said so 4 ms after its end")
    actor.end("agents", "c", "drained", "an operator drained it")
    expect(rows(tab, "members")).to_have_count(2)
    event = rows(tab, "events").nth(1)
    expect(event).to_contain_text("died")
    expect(event).to_contain_text("4 ms after its end")
    for kind in ("joined", "died", "drained"):
        expect(tab.locator(f"#timeline .mark.{kind}").first).to_be_attached()
        expect(tab.locator("#timeline-legend")).to_contain_text(kind)
    assert "b died" in tab.locator("#timeline .mark.died title").text_content()
    assert "4 joined, 1 died, 1 drained" in tab.locator("#timeline svg").get_attribute("aria-label")
    expect(tab.locator("#timeline .epoch").first).to_be_attached()


def test_the_timeline_goes_back_as_far_as_one_likes(serve, actor, browse):
    actor.join("agents", "old", ago=1800)
    actor.end("agents", "old", ago=900)
    tab = browse(f"{serve().url}/group?name=agents")
    expect(tab.locator("#timeline .mark.joined")).to_have_count(3)
    expect(tab.locator("#timeline .mark.died")).to_have_count(0)
    tab.get_by_label("1 h").check()
    expect(tab.locator("#timeline .mark.died")).to_have_count(1)
    tab.get_by_label("All").check()
    expect(tab.locator("#timeline .mark.joined")).to_have_count(4)


def test_a_typed_key_shows_its_owner_and_the_next_two(serve, actor, browse):
    tab = browse(f"{serve().url}/group?name=agents")
    tab.get_by_role("textbox", name="Who owns a key?").fill("order 1042")
    answer = tab.locator("#key-answer li")
    wanted = Ring(["a", "b", "c"]).owners("order 1042", 3)
    expect(answer).to_have_text([f"Owner{wanted[0]}", f"then{wanted[1]}", f"then{wanted[2]}"])
    actor.end("agents", wanted[0])
    expect(answer).to_have_text([f"Owner{wanted[1]}", f"then{wanted[2]}"])
    tab.get_by_role("textbox", name="Who owns a key?").fill("")
    expect(answer).to_have_count(0)


def test_members_are_found_and_sorted(serve, actor, browse):
    actor.group("many", [f"m{number:03}" for number in range(60)])
    actor.groups["many"]["members"]["m042"]["lag"] = 9.0
    tab = browse(f"{serve().url}/group?name=many")
    expect(rows(tab, "members")).to_have_count(25)
    tab.get_by_role("button", name="Show 35 more").click()
    expect(rows(tab, "members")).to_have_count(60)
    tab.get_by_role("button", name="Lag").click()
    tab.get_by_label("Show members").focus()
    expect(rows(tab, "members").first).to_contain_text("m042")
    expect(tab.get_by_role("columnheader", name="Lag")).to_have_attribute("aria-sort", "descending")
    tab.get_by_label("Show members").fill("m01")
    expect(rows(tab, "members")).to_have_count(10)


def test_events_are_found(serve, actor, browse):
    for number in range(50):
        actor.join("agents", f"m{number:02}")
    actor.end("agents", "m07", "expired", "no heartbeat for 10.2 s")
    tab = browse(f"{serve().url}/group?name=agents")
    expect(rows(tab, "events")).to_have_count(20)
    tab.get_by_role("button", name="Show older events").click()
    expect(rows(tab, "events")).to_have_count(55)
    tab.get_by_label("Show events that contain").fill("no heartbeat")
    expect(rows(tab, "events")).to_have_count(1)


def test_a_group_that_is_not_there_comes_when_it_is(serve, actor, browse):
    tab = browse(f"{serve().url}/group?name=later")
    expect(tab.locator("#absent")).to_contain_text("There is no group of this name now")
    actor.group("later", ["first"])
    expect(rows(tab, "members")).to_have_count(1)


# -- hostile text -------------------------------------------------------------------------------------------------


def test_text_of_members_is_only_ever_text(serve, actor, browse):
    for name in HOSTILE:
        actor.group(name, exclusive=False)
        for member in HOSTILE:
            actor.join(name, member, metadata=member)
        actor.elect(name, HOSTILE[0])
        actor.hand_off(name, 1.0, *HOSTILE)
    actor.lock(HOSTILE[0], HOSTILE[1], *HOSTILE)
    actor.note("died", HOSTILE[0], HOSTILE[1], why=HOSTILE[0], session=HOSTILE[1])
    page = serve(allow_changes=True)
    tab = browse(page.url, width=400)
    for name in HOSTILE:
        tab.goto(page.url)
        link = tab.locator("#groups a", has_text=name.replace("\n", " ")).first
        assert link.get_attribute("title") == name
        link.click()
        expect(rows(tab, "members")).to_have_count(len(HOSTILE))
        assert tab.locator("#title").text_content() == name
        titles = tab.locator("#members .who .id").evaluate_all("found => found.map((one) => one.title)")
        assert sorted(titles) == sorted(HOSTILE)
        assert tab.locator("main img, main script").count() == 0
        assert tab.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    tab.locator("button", has_text="Forget").first.click()
    expect(tab.get_by_role("dialog")).to_be_visible()
    assert tab.locator("dialog img, dialog script").count() == 0
    assert tab.evaluate("typeof hacked") == "undefined"


# -- changes ------------------------------------------------------------------------------------------------------


def test_a_page_that_is_read_only_has_no_such_buttons(serve, browse):
    tab = browse(f"{serve().url}/group?name=agents")
    expect(rows(tab, "members")).to_have_count(3)
    expect(tab.locator("#mode")).to_have_text("read-only")
    expect(tab.get_by_role("button", name="Drain")).to_have_count(0)


def test_a_member_is_drained_by_keyboard_alone_after_one_has_read_what_follows(serve, actor, browse):
    tab = browse(f"{serve(allow_changes=True).url}/group?name=agents")
    expect(rows(tab, "members")).to_have_count(3)
    press_until(tab, "Tab", lambda: focused(tab) == "Drain b")
    tab.keyboard.press("Enter")
    dialog = tab.get_by_role("dialog", name="Drain b?")
    expect(dialog).to_contain_text("hands its keys over")
    expect(dialog).to_contain_text("the other 2 members")
    assert focused(tab) == "Cancel"
    tab.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert (focused(tab), actor.changes) == ("Drain b", [])
    tab.keyboard.press("Enter")
    press_until(tab, "Tab", lambda: focused(tab) == "Drain b")
    tab.keyboard.press("Enter")
    expect(tab.locator("#said")).to_have_text("b was drained.")
    expect(rows(tab, "members")).to_have_count(2)
    assert actor.changes == [("drained", "agents", "b")]


def test_a_member_is_forgotten_after_one_has_read_what_follows(serve, actor, browse):
    tab = browse(f"{serve(allow_changes=True).url}/group?name=agents")
    tab.get_by_role("button", name="Forget c").click()
    dialog = tab.get_by_role("dialog", name="Forget c?")
    expect(dialog).to_contain_text("until its lease has ended, at most")
    dialog.get_by_role("button", name="Cancel").click()
    assert actor.changes == []
    tab.get_by_role("button", name="Forget c").click()
    dialog.get_by_role("button", name="Forget c").click()
    expect(tab.locator("#said")).to_have_text("c was forgotten.")
    expect(tab.locator("#timeline .mark.forgotten")).to_be_attached()


def test_a_change_that_is_refused_says_why(serve, actor, browse):
    tab = browse(f"{serve(allow_changes=True).url}/group?name=agents", expected="Failed to load resource")
    tab.get_by_role("button", name="Drain a").click()
    actor.away = "it does not run"
    tab.get_by_role("dialog").get_by_role("button", name="Drain a").click()
    expect(tab.locator("#said")).to_have_text("a is as it was: it does not run")


# -- live ---------------------------------------------------------------------------------------------------------


def test_it_says_when_it_has_lost_the_partition_actor_and_when_it_is_back(serve, actor, browse):
    tab = browse(f"{serve().url}/group?name=agents")
    expect(rows(tab, "members")).to_have_count(3)
    actor.away = "the partition actor does not run: Ray may be starting it again"
    expect(tab.locator("#connection")).to_have_attribute("data-live", "lost")
    expect(tab.get_by_role("alert")).to_contain_text("is lost: the partition actor does not run")
    expect(tab.get_by_role("alert")).to_contain_text("What you see is from")
    expect(rows(tab, "members")).to_have_count(3)
    actor.restart(keep_members=True)
    actor.away = None
    expect(tab.locator("#connection")).to_have_attribute("data-live", "live")
    expect(tab.get_by_role("alert")).to_contain_text(f"is back. It was restarted, as incarnation {actor.incarnation}")
    expect(rows(tab, "events").first).to_contain_text("started")


def test_it_says_when_the_server_of_the_page_is_gone_and_finds_it_again(actor, browse):
    with ServedPage(actor) as page:
        tab = browse(f"{page.url}/group?name=agents", expected="Failed to load resource")
        expect(rows(tab, "members")).to_have_count(3)
    expect(tab.get_by_role("alert")).to_contain_text("server of this page does not answer")
    with ServedPage(actor, port=page.port):
        expect(tab.locator("#connection")).to_have_attribute("data-live", "live")
        expect(tab.get_by_role("alert")).to_be_empty()


def test_a_page_that_nobody_sees_costs_nothing(serve, actor, browse):
    page = serve()
    tab = browse(page.url)

    def hide(hidden):
        tab.evaluate(f"Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }})")
        tab.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    hide("true")
    wait_until(lambda: page.call(lambda: page.feed._loop.done()))
    calls = len(actor.calls)
    actor.group("new", ["x"])
    hide("false")
    expect(rows(tab, "groups")).to_have_count(2)
    assert len(actor.calls) > calls


def test_a_token_in_the_address_opens_the_page_and_does_not_stay_there(serve, browse):
    page = serve(token="a-token-of-many-characters")
    tab = browse(f"{page.url}/group?name=agents&token=a-token-of-many-characters")
    assert "token" not in tab.url
    expect(rows(tab, "members")).to_have_count(3)


# -- for everybody ------------------------------------------------------------------------------------------------


def focused(tab):
    return tab.evaluate(
        "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim()"
    )


def press_until(tab, key, condition):
    for _ in range(100):
        tab.keyboard.press(key)
        if condition():
            return
    pytest.fail(f"not reached with {key}: {focused(tab)!r} has the focus")


def shown(actor):
    """Something of everything."""
    for number in range(7):
        actor.join(
            "agents", f"agent-{number}-{'long-' * number * 4}name", weight=1 + number % 3, metadata="{'zone': 1}"
        )
    actor.end("agents", "b")
    actor.end("agents", "a", "expired", "no heartbeat for 10.2 s")
    actor.join("agents", "a", watched_by="lease", lag=1.0, lease=0.5)
    actor.end("agents", "c", "drained", "an operator drained it")
    actor.elect("agents", "a")
    actor.hand_off("agents", 2.0, "a")
    actor.lock("reindex", "a", "agent-0-name")
    actor.group("a group with a name that is rather long, as names are that programs make up " * 3, ["x"])
    actor.group("empty")
    workers = [worker(0, "long-" * 30), worker(1, phase="starting", load=1.5, reason="it fails for a reason " * 10)]
    events = [{"seconds_ago": 3.0, "what": "it fails for a reason " * 10}]
    waiting = [{"slot": 2, "seconds": 3.0, "reason": "it fails for a reason " * 10}]
    said = {"ready": False, "updating": True, "update_failed": "it fails " * 20, "seconds_ago": 9.0}
    actor.fleet("fleet", "agents", workers, events=events, waiting=waiting, **said)
    actor.fleet("long-name-" * 20, "agents", 2)


@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("/", "light"),
        ("/", "dark"),
        ("/group?name=agents", "light"),
        ("/group?name=agents", "dark"),
        ("/group?name=empty", "light"),
        ("/group?name=none", "dark"),
        ("/fleet?name=fleet", "light"),
        ("/fleet?name=fleet", "dark"),
    ],
)
def test_axe_finds_nothing(serve, actor, browse, path, scheme):
    axe_playwright = pytest.importorskip("axe_playwright_python.sync_playwright")
    shown(actor)
    # axe itself needs what the page's policy forbids.
    tab = browse(serve(allow_changes=True).url + path, color_scheme=scheme, bypass_csp=True)
    wait_until(lambda: tab.locator("#events > tr, #happened > tr").count())
    if "agents" in path:
        tab.get_by_role("textbox", name="Who owns a key?").fill("k")
        expect(tab.locator("#key-answer li")).to_have_count(3)
    found = axe_playwright.Axe().run(tab)
    assert found.violations_count == 0, found.generate_report()
    if "agents" in path:
        tab.get_by_role("button", name="Drain a", exact=True).click()
        found = axe_playwright.Axe().run(tab)
        assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", ["/", "/group?name=agents", "/fleet?name=fleet"])
def test_nothing_is_cut_off_at_any_width(serve, actor, browse, path, width):
    shown(actor)
    tab = browse(serve(allow_changes=True).url + path, width)
    wait_until(lambda: tab.locator("#events > tr, #happened > tr").count())
    assert tab.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    outside = tab.evaluate("""() => [...document.querySelectorAll("button, input, a, h1, h2, dd, canvas")]
        .filter((one) => one.offsetParent && !one.closest(".scroll, .segments, .skip, .hidden"))
        .map((one) => [one.getBoundingClientRect(), one.outerHTML.slice(0, 80)])
        .filter(([box]) => box.left < 0 || box.right > innerWidth + 0.5).map(([, html]) => html)""")
    assert outside == []


def test_every_control_is_reached_by_keyboard_has_a_name_and_shows_that_it_has_the_focus(serve, actor, browse):
    shown(actor)
    tab = browse(f"{serve(allow_changes=True).url}/group?name=agents")
    wait_until(lambda: tab.locator("#members > tr").count() == 8)
    controls = tab.evaluate("""() => [...document.querySelectorAll("a, button, input")]
        .filter((one) => one.offsetParent && (one.type !== "radio" || one.checked)).length""")
    seen = set()
    for _ in range(controls):
        tab.keyboard.press("Tab")
        name, outline, at = tab.evaluate("""() => {
            const one = document.activeElement;
            const shown = one.type === "radio" ? one.nextElementSibling : one;
            const label = one.labels?.[0]?.textContent ?? "";
            return [(one.getAttribute("aria-label") ?? one.textContent.trim()) || label,
                    getComputedStyle(shown).outlineStyle, [...document.querySelectorAll("*")].indexOf(one)];
        }""")
        assert name
        assert outline == "solid", name
        seen.add(at)
    assert len(seen) == controls


def test_the_focus_stays_while_everything_is_updated(serve, actor, browse):
    page = serve(allow_changes=True)
    tab = browse(f"{page.url}/group?name=agents")
    tab.get_by_role("button", name="Forget b").focus()
    for number in range(5):
        actor.join("agents", f"a{number}")
        expect(rows(tab, "members")).to_have_count(4 + number)
        assert focused(tab) == "Forget b"


def test_nothing_moves_for_those_who_do_not_want_that(serve, browse):
    moves = "getComputedStyle(document.querySelector('#connection i')).animationName"
    url = serve().url
    assert browse(url, reduced_motion="no-preference").evaluate(moves) == "beat"
    assert browse(url, reduced_motion="reduce").evaluate(moves) == "none"


def test_dark_and_light(serve, browse):
    ground = "getComputedStyle(document.body).backgroundColor"
    url = serve().url
    light, dark = (browse(url, color_scheme=scheme).evaluate(ground) for scheme in ("light", "dark"))
    assert sum(map(int, light[4:-1].split(","))) > 600 > 150 > sum(map(int, dark[4:-1].split(",")))


def test_a_group_of_a_thousand_members_stays_smooth(serve, actor, browse, record_property):
    """An update takes less than 50 ms of the main thread: of its CPU time, so that other programs do not count."""
    actor.group("many", [f"member-{number:04}" for number in range(1000)])
    tab = browse(f"{serve(allow_changes=True, period=0.25).url}/group?name=many")
    expect(tile(tab, "Members")).to_have_text("1,000")
    tab.get_by_role("textbox", name="Who owns a key?").fill("k")
    client = tab.context.new_cdp_session(tab)
    client.send("Performance.enable", {"timeDomain": "threadTicks"})
    tab.evaluate("""() => {
        window.updates = 0;
        new PerformanceObserver((list) => { window.updates += list.getEntriesByName("page:state").length; })
            .observe({ type: "measure" });
    }""")

    def spent():
        metrics = client.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    costs = []
    for number in range(8):
        before, updates, calls = spent(), tab.evaluate("updates"), len(actor.calls)
        if number % 2:  # with every second one the ring changes too
            actor.end("many", f"member-{number:04}")
        wait_until(lambda wanted=calls + 2: len(actor.calls) >= wanted)  # to ask the browser itself costs it time
        tab.evaluate("new Promise((drawn) => requestAnimationFrame(() => setTimeout(drawn)))")
        costs.append((spent() - before) / max(1, tab.evaluate("updates") - updates))
    record_property(
        "milliseconds of main thread for an update of 1,000 members", [round(1000 * cost) for cost in costs]
    )
    print("milliseconds of main thread for an update of 1,000 members:", [round(1000 * cost) for cost in costs])
    assert statistics.median(costs) < 0.05


# -- on a real Ray ------------------------------------------------------------------------------------------------


@pytest.fixture
def page_of(cluster):
    pages = []

    def page_of(deployment):
        source = AskingProcess(cluster.address_info["gcs_address"], deployment.namespace, deployment.name)
        pages.append(ServedPage(source, period=1.0, allow_changes=True))
        return pages[-1].__enter__()

    yield page_of
    for page in pages:
        page.__exit__()


def pid_of(worker):
    return ray.get(worker.pid.remote(), timeout=LIMIT)


def test_a_real_group_loses_a_member_and_drains_another(steady, page_of, browse, group, spawn):
    workers = {
        name: spawn(ExclusiveWorker, *steady.worker_arguments(name, group)) for name in ("first", "second", "third")
    }
    pids = {name: pid_of(worker) for name, worker in workers.items()}
    tab = browse(page_of(steady).url)
    tab.get_by_role("link", name=group).first.click()
    expect(rows(tab, "members")).to_have_count(3)
    for name, pid in pids.items():
        expect(rows(tab, "members").filter(has_text=name)).to_contain_text(f"pid {pid} ")
    tab.get_by_role("textbox", name="Who owns a key?").fill("key")
    owners = tab.locator("#key-answer li .id")
    expect(owners).to_have_text(Ring(list(pids)).owners("key", 3))

    os.kill(pids["first"], signal.SIGKILL)
    expect(tab.locator("#timeline .mark.died")).to_have_count(1)
    assert "first died" in tab.locator("#timeline .mark.died title").text_content()
    expect(rows(tab, "members")).to_have_count(2)
    expect(owners).to_have_text(Ring(["second", "third"]).owners("key", 2))

    tab.get_by_role("button", name="Drain second").click()
    tab.get_by_role("dialog").get_by_role("button", name="Drain second").click()
    expect(tab.locator("#said")).to_have_text("second was drained.")
    expect(tab.locator("#timeline .mark.drained")).to_have_count(1)
    expect(rows(tab, "members")).to_have_count(1)
    assert steady.members(group) == ["third"]


def test_a_real_partition_actor_is_lost_and_is_back(hasty, page_of, browse, group):
    hasty.member("m").join_group(group)
    tab = browse(f"{page_of(hasty).url}/group?name={group}", expected="Failed to load resource")
    expect(rows(tab, "members")).to_have_count(1)
    os.kill(hasty.call("status")["pid"], signal.SIGKILL)
    expect(tab.get_by_role("alert")).to_contain_text("is back. It was restarted")
    expect(tab.locator("#connection")).to_have_attribute("data-live", "live")
    hasty.stop_members()
    hasty.shutdown()
    expect(tab.get_by_role("alert")).to_contain_text("there is no partition actor")
    hasty.deploy()
    expect(tab.locator("#connection")).to_have_attribute("data-live", "live")
