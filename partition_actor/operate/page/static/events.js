// The log of events: kept by incarnation and number, newest first.
import { $, el, id, keep, show } from "./dom.js";
import { epoch, moment, seconds, sign, time, wholeEpoch, word } from "./format.js";

const KEPT = 2000;
const STEP = 20;

const order = (a, b) => a.incarnation - b.incarnation || a.id - b.id;

export class EventLog {
  constructor({ withGroup }) {
    this.withGroup = withGroup;
    this.events = [];
    this.shown = STEP;
    this.find = "";
    $("events-more").addEventListener("click", () => { this.shown += 10 * STEP; this.draw(); });
    $("events-find").addEventListener("input", (event) => { this.find = event.target.value.toLowerCase(); this.draw(); });
  }

  replace(events) {
    this.events = [...events].sort(order);
    this.draw();
  }

  add(events) {
    const known = new Map([...this.events, ...events].map((event) => [`${event.incarnation} ${event.id}`, event]));
    this.events = [...known.values()].sort(order).slice(-KEPT);
    this.draw();
  }

  draw() {
    const found = [];
    let more = false;
    for (let at = this.events.length - 1; at >= 0; at--) {
      const event = this.events[at];
      if (this.find && !text(event).includes(this.find)) continue;
      if (found.length === this.shown) { more = true; break; }
      found.push(event);
    }
    show($("events-table"), found.length > 0);
    show($("events-empty"), found.length === 0);
    $("events-empty").textContent = this.find && this.events.length ? "No event contains this." : "Nothing has happened yet.";
    show($("events-more"), more);
    keep($("events"), found, (event) => `${event.incarnation} ${event.id}`, (event) => this.row(event));
  }

  row(event) {
    const where = event.lock ? id(event.lock.replace(/^lock:/, "")) : event.group ? link(event.group) : "";
    const why = [event.why, event.seconds !== null && event.seconds !== undefined && event.what === "handed_over" ? `took ${seconds(event.seconds)}` : ""];
    return el("tr", {},
      el("td", { class: "time" }, event.time ? el("time", { datetime: moment(event.time), title: moment(event.time) }, time(event.time)) : ""),
      el("td", { class: "what" }, el("span", {}, sign(event.what), word(event.what))),
      this.withGroup ? el("td", { class: "subject" }, where) : null,
      el("td", { class: "member" }, event.member ? memberOf(event) : !this.withGroup && event.lock ? where : ""),
      el("td", { class: "number", title: wholeEpoch(event.epoch), }, epoch(event.epoch)),
      el("td", { class: "why muted" }, why.filter(Boolean).join(", ")),
    );
  }
}

function memberOf(event) {
  const node = id(event.member);
  const facts = [event.session && `session ${event.session}`, event.node && `node ${event.node}`, event.pid && `pid ${event.pid}`];
  node.title = [event.member, ...facts.filter(Boolean)].join("\n");
  return node;
}

export const link = (group) => el("a", { href: `group?${new URLSearchParams({ name: group })}`, class: "id", title: group }, group);

const text = (event) => [word(event.what), event.group, event.member, event.lock, event.why].filter(Boolean).join("\n").toLowerCase();
