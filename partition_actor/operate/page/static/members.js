// The table of members: lag, lease, and how each one's death is learnt.
import { $, el, id, keep, name, say, show } from "./dom.js";
import { colourOf } from "./colours.js";
import { load, number, percent, seconds, times, wholeEpoch } from "./format.js";

const STEP = 25;
const MORE = 100;
const WATCHED = {
  actor: ["actor", "Ray says at once when this actor dies"],
  connection: ["connection", "its death breaks a connection, which is noticed at once"],
  process: ["process", "the kernel of its node says at once when the process ends"],
  lease: ["lease only", "Nothing watches it: its death is noticed only when its lease ends"],
};

const COLUMNS = [
  ["Member", (member) => member.id, ""],
  ["Weight", (member) => member.weight, "number"],
  ["Share", (member) => member.share, "number"],
  ["Lag", (member) => member.lag ?? 0, ""],
  ["Lease left", (member) => member.lease ?? 0, ""],
  ["Heartbeat", (member) => member.heartbeat_age ?? 0, "number"],
  ["In for", (member) => member.age, "number"],
  ["Watched by", (member) => member.watched_by ?? "", ""],
];

export class Members {
  /** `change(what, member)` when somebody presses Drain or Forget; without it there are no such buttons. */
  constructor(change) {
    this.change = change;
    this.find = "";
    this.shown = STEP;
    this.column = 0;
    this.down = false;
    this.group = null;
    $("members-find").addEventListener("input", (event) => { this.find = event.target.value.toLowerCase(); this.draw(); });
    $("members-more").addEventListener("click", () => { this.shown += MORE; this.draw(); });
    this.head();
  }

  head() {
    const cells = COLUMNS.map(([label, , kind], at) => el("th", { scope: "col", class: kind }, el("button", { type: "button", onclick: () => this.sort(at) }, label)));
    if (this.change) cells.push(el("th", { scope: "col" }, el("span", { class: "hidden" }, "Changes")));
    $("members-head").replaceChildren(...cells);
    this.cells = cells;
    this.sort(0);
  }

  sort(column) {
    this.down = column === this.column ? !this.down && this.group !== null : column > 1;
    this.column = column;
    this.cells.forEach((cell, at) => (at === column ? name(cell, "aria-sort", this.down ? "descending" : "ascending") : cell.removeAttribute("aria-sort")));
    if (this.group) this.draw();
  }

  draw(group = this.group, leases = this.leases) {
    this.group = group;
    this.leases = leases;
    if (!group) return;
    const value = COLUMNS[this.column][1];
    const found = group.members.filter((member) => !this.find || `${member.id}\n${member.metadata ?? ""}`.toLowerCase().includes(this.find));
    found.sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (this.down ? -1 : 1));
    const rows = found.slice(0, this.shown);
    say($("members-count"), found.length === group.members.length ? number(found.length) : `${number(found.length)} of ${number(group.members.length)}`);
    show($("members-more"), found.length > rows.length);
    say($("members-more"), `Show ${number(Math.min(MORE, found.length - rows.length))} more`);
    show($("members-empty"), !rows.length);
    show($("members-table"), rows.length > 0);
    say($("members-empty"), group.members.length ? "No member's id or metadata contains this." : "This group has no member now.");
    keep($("members"), rows, (member) => `${member.id}\n${member.session}`, (member) => this.row(member), (row, member) => this.fill(row, member));
  }

  row(member) {
    const parts = {
      chip: el("span", { class: "chip", "aria-hidden": "true" }),
      leader: el("span", { class: "badge", hidden: true }, "★ leader"),
      state: el("span", { class: "badge warn", hidden: true }),
      metadata: el("span", { class: "metadata", hidden: true }),
      weight: el("td", { class: "number", "data-label": "Weight" }),
      share: el("td", { class: "number", "data-label": "Share" }),
      lag: el("span", { class: "id" }),
      leaseBar: el("i"),
      lease: el("span"),
      heartbeat: el("td", { class: "number", "data-label": "Heartbeat" }),
      watched: el("span"),
      process: el("small", { class: "muted" }),
      age: el("td", { class: "number", "data-label": "In for" }),
    };
    parts.meter = el("span", { class: "meter", "aria-hidden": "true" }, parts.leaseBar);
    const row = el("tr", {},
      el("td", { class: "lead wide" }, el("div", {}, el("span", { class: "who" }, parts.chip, id(member.id), parts.leader, parts.state), parts.metadata)),
      parts.weight, parts.share,
      el("td", { "data-label": "Lag" }, parts.lag),
      el("td", { "data-label": "Lease left" }, el("span", {}, parts.meter, parts.lease)),
      parts.heartbeat, parts.age,
      el("td", { "data-label": "Watched by", class: "wide watched" }, el("span", {}, parts.watched, " ", parts.process)),
    );
    if (this.change) row.append(el("td", { class: "wide" }, el("span", { class: "row-actions" }, this.button("Drain", member), this.button("Forget", member))));
    row.parts = parts;
    return row;
  }

  button(what, member) {
    return el("button", { type: "button", "aria-label": `${what} ${member.id}`, onclick: () => this.change(what, member.id) }, what);
  }

  fill(row, member) {
    const { parts } = row;
    const colour = colourOf(member);
    if (parts.colour !== colour) parts.chip.style.background = parts.colour = colour;
    show(parts.leader, member.id === this.group.leader);
    const state = member.leaving ? "leaving" : member.has_place ? "" : "no place";
    show(parts.state, Boolean(state));
    say(parts.state, state);
    show(parts.metadata, Boolean(member.metadata));
    say(parts.metadata, member.metadata ?? "");
    if (member.metadata) name(parts.metadata, "title", member.metadata);
    say(parts.weight, number(member.weight));
    say(parts.share, member.has_place ? percent(member.share) : "–");
    name(parts.share, "title", `${times(load(member))} its weight's ${percent(member.fair_share)}`);
    const waits = member.waits_for ?? [];
    say(parts.lag, member.lag > 0 ? seconds(member.lag) : waits.length ? `waits for ${waits[0]}${waits.length > 1 ? ` and ${waits.length - 1} more` : ""}` : "none");
    name(parts.lag, "class", `id ${member.lag > 0 ? "warn" : waits.length ? "" : "muted"}`);
    name(parts.lag, "title", `acknowledged: ${wholeEpoch(member.acknowledged) || "no epoch"}${waits.length ? `; waits for ${waits.join(", ")}` : ""}`);
    const left = member.lease === null || member.lease === undefined ? 0 : Math.max(0, member.lease / this.leases);
    parts.leaseBar.style.width = `${Math.round(100 * Math.min(1, left))}%`;
    name(parts.meter, "class", left < 0.4 ? "meter low" : "meter");
    say(parts.lease, member.lease > 0 ? seconds(member.lease) : "over");
    say(parts.heartbeat, member.heartbeat_age === undefined ? "–" : `${member.heartbeat_age.toFixed(1)} s ago`);
    const [watched, why] = WATCHED[member.watched_by] ?? ["–", ""];
    say(parts.watched, watched);
    name(parts.watched, "class", member.watched_by === "lease" ? "warn" : "");
    name(parts.watched, "title", why);
    say(parts.process, member.pid ? `pid ${member.pid} on ${member.node ? member.node.slice(0, 6) : "?"}` : "");
    name(parts.process, "title", `node ${member.node ?? "not known"}, pid ${member.pid ?? "not known"}, session ${member.session}`);
    say(parts.age, seconds(member.age));
  }
}
