import { $, el, id, name, say, show, soon } from "./dom.js";
import { assign, colourOf, isByLoad } from "./colours.js";
import { change } from "./changes.js";
import { EventLog } from "./events.js";
import { drawFleets } from "./fleets.js";
import { epoch, number, seconds, time, times } from "./format.js";
import { handoff, live, session, tiles } from "./live.js";
import { drawLocks } from "./locks.js";
import { Members } from "./members.js";
import { RingView } from "./ring.js";
import { drawShares } from "./shares.js";
import { Timeline } from "./timeline.js";

const groupName = new URLSearchParams(location.search).get("name") ?? "";
say($("title"), groupName);
name($("title"), "title", groupName);
document.title = `${groupName} · partition actor`;

const { allow_changes: allowed } = await session();
const log = new EventLog({ withGroup: false });
const timeline = new Timeline();
const members = new Members(allowed ? (what, member) => change(what, member, group, settings) : null);
const ring = new RingView((pointed) => point(pointed));

let group = null;
let settings = {};
let drawn = ""; // what the ring and the shares were last drawn from
let pressed = null;
let pointed = null;
let owners = [];

const drawRing = soon(() => {
  if (!group) return;
  const one = pointed ?? pressed;
  ring.chosen = one ? [one] : owners;
  ring.draw();
  ring.describe(group, one);
  drawShares(group.members, pressed, press, point);
});

live(() => ({ group: groupName }), {
  state(state) {
    if (state.actor) settings = state.actor.settings;
    if (state.connection.state === "lost" && !state.group && group) return;
    group = state.group;
    show($("there"), group !== null);
    show($("absent"), group === null && state.actor !== null);
    if (!group) {
      say($("absent"), "There is no group of this name now. It comes back by itself here as soon as a member joins it.");
      return;
    }
    drawTiles();
    const told = JSON.stringify([group.epoch, group.members.map((member) => [member.id, member.weight, member.share, member.has_place])]);
    if (told !== drawn) {
      drawn = told;
      assign(group.members.filter((member) => member.has_place));
      ring.members = new Map(group.members.map((member) => [member.id, member]));
      drawRing();
    }
    members.draw(group, Math.max(state.actor.ttl, 0.001));
    timeline.show(group, state.now);
    drawFleets(state, false);
    drawLocks(state);
  },
  ring(data) {
    ring.ring = data;
    drawRing();
    askOwner();
  },
  log(events) { log.replace(events); timeline.take(log.events, groupName); },
  events(events) { log.add(events); timeline.take(log.events, groupName); },
});

function drawTiles() {
  const placed = group.members.filter((member) => member.has_place);
  const lag = Math.max(0, ...group.members.map((member) => member.lag ?? 0));
  const late = group.members.find((member) => lag > 0 && member.lag === lag);
  const worst = placed.reduce((most, member) => (member.share / member.fair_share > (most ? most.share / most.fair_share : 0) ? member : most), null);
  const hand = group.handoff;
  const changed = log.events.findLast((event) => event.group === groupName && epoch(event.epoch) === epoch(group.epoch));
  tiles([
    ["Members", number(placed.length), group.waiting.length ? `${number(group.waiting.length)} waiting for a place` : `${number(group.watchers)} watching`],
    ["Epoch", epoch(group.epoch), changed ? `since ${time(changed.time)}` : ""],
    ["Balance", times(group.balance), worst ? `the most: ${worst.id}` : ""],
    ["Hand-off", hand ? seconds(hand.seconds) : "none", hand ? handoff(hand).split(": ")[1] ?? "" : "", hand ? "warn" : ""],
    ["Longest lag", lag > 0 ? seconds(lag) : "none", late ? late.id : "all are up to date", lag > 2 ? "warn" : ""],
    ["Leader", group.leader ?? "none", ""],
  ]);
  const badges = [el("span", { class: "badge", title: group.exclusive ? "A key never has two owners" : "For a moment two members may work on one key" }, group.exclusive ? "exclusive" : "not exclusive")];
  if (group.recovering) badges.push(el("span", { class: "badge warn" }, "recovering"));
  const told = badges.map((badge) => badge.textContent).join();
  if ($("badges").told !== told) $("badges").replaceChildren(...badges);
  $("badges").told = told;
}

// -- the ring, its bars, and a key ------------------------------------------------------------------------------

function point(member) {
  if (member === pointed) return;
  pointed = member;
  drawRing();
}

function press(member) {
  pressed = pressed === member ? null : member;
  drawRing();
}


let asking = 0;

async function askOwner() {
  const key = $("key").value;
  const mine = ++asking;
  if (!key) {
    owners = [];
    ring.place = null;
    $("key-answer").replaceChildren();
    drawRing();
    return;
  }
  try {
    const answer = await fetch(`owner?${new URLSearchParams({ name: groupName, key })}`);
    if (mine !== asking) return;
    if (!answer.ok) throw new Error();
    drawOwner(await answer.json());
  } catch {
    if (mine === asking) $("key-answer").replaceChildren(el("p", { class: "note" }, "The owner could not be looked up."));
  }
}

function drawOwner(found) {
  owners = found.owner ? [found.owner, ...found.next] : [];
  ring.place = found.owner ? found.place : null;
  const told = JSON.stringify([found.key, owners, isByLoad()]);
  if ($("key-answer").told !== told || !$("key-answer").childElementCount) {
    $("key-answer").told = told;
    const rows = owners.map((owner, at) => {
      const chip = el("span", { class: "chip", "aria-hidden": "true" });
      chip.style.background = colourOf(group?.members.find((member) => member.id === owner && member.has_place));
      return el("li", {}, el("span", { class: "muted" }, at === 0 ? "Owner" : "then"), chip, at === 0 ? el("strong", { class: "id", title: owner }, owner) : id(owner));
    });
    $("key-answer").replaceChildren(rows.length ? el("ol", {}, ...rows) : el("p", { class: "note" }, "Nobody: the group has no member."));
  }
  drawRing();
}

let typing = 0;
$("key").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(askOwner, 120); });
$("key-form").addEventListener("submit", (event) => { event.preventDefault(); askOwner(); });
