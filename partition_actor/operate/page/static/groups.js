import { $, el, id, keep, name, say, show } from "./dom.js";
import { EventLog, link } from "./events.js";
import { drawFleets } from "./fleets.js";
import { epoch, number, seconds, times, wholeEpoch } from "./format.js";
import { handoff, live, session, tiles } from "./live.js";
import { drawLocks } from "./locks.js";

const log = new EventLog({ withGroup: true });
let find = "";
let later = 0;

const stream = live(() => (find ? { find } : {}), {
  state(state) {
    if (state.actor) drawTiles(state);
    drawGroups(state);
    drawFleets(state, true);
    drawLocks(state);
  },
  log: (events) => log.replace(events),
  events: (events) => log.add(events),
});

function drawTiles({ actor }) {
  const full = actor.max_members ? actor.sessions / actor.max_members : 0;
  const trouble = actor.recovering ? ["recovering", "members report"] : actor.stalled ? ["stalled", "no lease is granted"] : ["running", `for ${seconds(actor.uptime)}`];
  tiles([
    ["Groups", number(actor.groups), `${number(actor.locks)} ${actor.locks === 1 ? "lock" : "locks"}`],
    ["Sessions", number(actor.sessions), actor.max_members ? `of ${number(actor.max_members)} at most` : "", full > 0.9 ? "warn" : ""],
    ["Heartbeats", actor.heartbeat_rate === null ? "–" : `${Math.round(actor.heartbeat_rate)}/s`, `every ${seconds(actor.interval)}, lease ${seconds(actor.ttl)}`],
    ["Heartbeats late by", seconds(actor.late), "in the last 10 s", actor.late > actor.interval ? "warn" : ""],
    ["Longest step", seconds(actor.longest_step), "in the last 10 s", actor.longest_step > 0.2 ? "warn" : ""],
    ["Partition actor", ...trouble, actor.stalled ? "bad" : actor.recovering ? "warn" : ""],
  ]);
}

function drawGroups({ groups, found }) {
  say($("groups-count"), groups.length < found ? `first ${number(groups.length)} of ${number(found)}` : number(found));
  show($("groups-empty"), !groups.length);
  say($("groups-empty"), find ? "No group's name contains this." : "There is no group yet: a member that joins one makes it.");
  keep($("groups"), groups, (group) => group.name, makeRow, (row, group) => {
    const [, members, at, balance, hand, leader] = row.children;
    show(row.recovering, group.recovering);
    show(row.shared, !group.exclusive);
    say(members, number(group.members));
    name(members, "title", `${number(group.waiting)} waiting for a place, ${number(group.watchers)} watchers`);
    say(at, epoch(group.epoch));
    name(at, "title", wholeEpoch(group.epoch));
    const known = group.balance !== null && group.balance !== undefined;
    balance.bar.style.width = `${known ? Math.min(100, 50 * group.balance) : 0}%`;
    say(balance.lastChild, known ? times(group.balance) : group.members ? "…" : "–");
    name(balance, "class", "balance");
    say(hand.firstChild, handoff(group.handoff));
    name(hand.firstChild, "class", group.handoff ? "warn" : "muted");
    if (row.leader !== group.leader) leader.replaceChildren(group.leader ? id(group.leader) : el("span", { class: "muted" }, "none"));
    row.leader = group.leader;
  });
}

function makeRow(group) {
  const recovering = el("span", { class: "badge warn", hidden: true }, "recovering");
  const shared = el("span", { class: "badge", title: "Not exclusive: for a moment two members may work on one key", hidden: true }, "not exclusive");
  const bar = el("i");
  const balance = el("td", { "data-label": "Balance", class: "balance" }, el("span", { class: "meter", "aria-hidden": "true" }, bar), el("span"));
  balance.bar = bar;
  const row = el("tr", {},
    el("td", { class: "lead wide" }, el("span", { class: "who" }, link(group.name), shared, recovering)),
    el("td", { class: "number", "data-label": "Members" }),
    el("td", { class: "number", "data-label": "Epoch" }),
    balance,
    el("td", { "data-label": "Hand-off", class: "wide handoff" }, el("span")),
    el("td", { "data-label": "Leader" }),
  );
  return Object.assign(row, { recovering, shared });
}

$("find").addEventListener("input", (event) => {
  find = event.target.value;
  clearTimeout(later);
  later = setTimeout(() => stream.reopen(), 150);
});
session();
