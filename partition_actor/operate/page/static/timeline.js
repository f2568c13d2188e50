// The group's size and who was in it, over time. What was before is worked out backwards from who is in now.
import { $, el, name, soon, svg } from "./dom.js";
import { IN, MARKED, OUT, epoch, mark, number, shortTime, sign, time, word } from "./format.js";
import { colourOf, isByLoad } from "./colours.js";

const LANES = 14;
const LANE = 22;
const SIZE = 46;
const MARKS = 400;
const EPOCHS = 120;
const STEPS = [1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 10800, 21600, 43200, 86400];

export class Timeline {
  constructor() {
    this.root = $("timeline");
    this.events = [];
    this.epochs = [];
    this.window = 300;
    this.group = null;
    this.redraw = soon(() => this.draw());
    $("window").addEventListener("change", (event) => { this.window = Number(event.target.value); this.redraw(); });
    new ResizeObserver(this.redraw).observe(this.root);
  }

  take(events, group) {
    this.redraw();
    this.events = events.filter((event) => event.group === group && event.time && event.member && MARKED.includes(event.what));
    this.epochs = events.filter((event) => event.group === group && event.time && event.epoch);
  }

  show(group, now) {
    this.group = group;
    this.now = Math.max(now, this.events.at(-1)?.time ?? 0); // their clock is that of the partition actor
    this.redraw();
  }

  /** For each member [from, to] spans, and the group's size after each moment, newest first. */
  past(from) {
    // A session that is in, by when it was no more.
    const present = new Map();
    for (const member of this.group.members) if (member.has_place) present.set(keyOf(member.id, member.session), this.now);
    const spans = new Map();
    const span = (member, start, end) => {
      if (!spans.has(member)) spans.set(member, []);
      spans.get(member).push([Math.max(start, from), end]);
    };
    const sizes = [[this.now, present.size]];
    for (let at = this.events.length - 1; at >= 0 && this.events[at].time >= from; at--) {
      const { what, member, session, time: when } = this.events[at];
      const key = keyOf(member, session);
      const until = present.get(key);
      if (IN.has(what) && until !== undefined) {
        span(member, when, until);
        present.delete(key);
      } else if (OUT.has(what) && until !== this.now) present.set(key, when);
      else continue;
      sizes.push([when, present.size]);
    }
    for (const [key, until] of present) span(JSON.parse(key)[0], from, until);
    return { spans, sizes };
  }

  /** Where the drawing begins: as far back as is wished, but not long before the group began. */
  from() {
    const first = this.epochs.reduce((least, event) => Math.min(least, event.time), this.now);
    const all = Math.min(first - 0.03 * (this.now - first), this.now - 20);
    const began = this.epochs.length > 0 && this.epochs[0].epoch[1] === 1;
    if (!this.window) return all;
    return began ? Math.max(all, this.now - this.window) : this.now - this.window;
  }

  draw() {
    const width = Math.floor(this.root.clientWidth);
    if (!width || !this.group) return;
    const from = this.from();
    const { spans, sizes } = this.past(from);
    const inside = this.events.filter((event) => event.time >= from);
    const lanes = this.lanes(spans, inside);
    const longest = Math.max(8, ...lanes.map((lane) => lane.length));
    const gutter = Math.max(88, Math.min(6.4 * longest + 16, Math.max(100, width * 0.2), 190));
    const rest = spans.size - lanes.filter((lane) => spans.has(lane)).length;
    const bottom = SIZE + 14 + lanes.length * LANE + (rest > 0 ? LANE : 0);
    const x = (when) => gutter + ((width - gutter - 8) * (when - from)) / (this.now - from);
    const members = new Map(this.group.members.map((member) => [member.id, member]));
    const drawing = svg("svg", { viewBox: `0 0 ${width} ${bottom + 24}`, height: bottom + 24, role: "img", "aria-label": this.told(inside, from) });
    this.axis(drawing, x, from, bottom, width - gutter);
    this.sizes(drawing, x, from, sizes, width);
    const epochs = this.epochs.filter((event) => event.time >= from).slice(-EPOCHS);
    for (const event of epochs) drawing.append(svg("line", { class: "epoch", x1: x(event.time), x2: x(event.time), y1: SIZE + 6, y2: bottom }));
    lanes.forEach((lane, at) => this.lane(drawing, lane, spans.get(lane) ?? [], SIZE + 14 + at * LANE, x, gutter, members.get(lane)));
    if (rest > 0) drawing.append(label(`and ${number(rest)} more without a change`, 0, bottom - 6));
    const row = new Map(lanes.map((lane, at) => [lane, SIZE + 14 + at * LANE + LANE / 2]));
    for (const event of inside.filter((one) => row.has(one.member)).slice(-MARKS)) {
      const drawn = mark(event.what);
      drawn.setAttribute("transform", `translate(${x(event.time)} ${row.get(event.member)})`);
      const at = event.epoch ? `, epoch ${epoch(event.epoch)}` : "";
      drawn.append(svg("title", {}, `${time(event.time)} ${event.member} ${word(event.what)}${at}${event.why ? `: ${event.why}` : ""}`));
      drawing.append(drawn);
    }
    this.root.replaceChildren(drawing);
    this.legend(new Set(inside.map((event) => event.what)));
  }

  /** The members to draw: those with the latest changes, then others, in the order of their ids. */
  lanes(spans, inside) {
    const chosen = new Set();
    for (let at = inside.length - 1; at >= 0 && chosen.size < LANES; at--) chosen.add(inside[at].member);
    for (const member of [...spans.keys()].sort()) {
      if (chosen.size >= LANES) break;
      chosen.add(member);
    }
    return [...chosen].sort();
  }

  lane(drawing, member, spans, top, x, gutter, present) {
    const text = label(member, 0, top + LANE / 2 + 4, "name");
    const room = Math.floor((gutter - 12) / 6.6);
    if (member.length > room) text.textContent = `${member.slice(0, room - 1)}…`;
    text.append(svg("title", {}, member));
    drawing.append(text);
    for (const [start, end] of spans) {
      const bar = svg("rect", { class: "in", x: x(start), y: top + 6, width: Math.max(1, x(end) - x(start)), height: LANE - 12, rx: 2 });
      if (present && !isByLoad()) bar.style.fill = colourOf(present);
      drawing.append(bar);
    }
  }

  axis(drawing, x, from, bottom, width) {
    const room = Math.max(2, Math.floor(width / 75));
    const step = STEPS.find((one) => (this.now - from) / one <= room) ?? 86400 * Math.ceil((this.now - from) / 86400 / room);
    const zone = new Date(1000 * this.now).getTimezoneOffset() * 60;
    for (let when = Math.ceil((from - zone) / step) * step + zone; when <= this.now; when += step) {
      drawing.append(svg("line", { class: "grid", x1: x(when), x2: x(when), y1: 0, y2: bottom }));
      if (x(when) < x(this.now) - (step < 60 ? 56 : 46)) drawing.append(label(shortTime(when, step < 60), x(when), bottom + 16, "", "middle"));
    }
    drawing.append(label("now", x(this.now), bottom + 16, "", "end"));
  }

  sizes(drawing, x, from, sizes, width) {
    const most = Math.max(1, ...sizes.map(([, size]) => size));
    const y = (size) => SIZE - ((SIZE - 12) * size) / most;
    let path = `M${x(this.now)} ${SIZE}V${y(sizes[0][1])}`;
    sizes.forEach(([when], at) => {
      const before = sizes[at + 1] ?? [from, sizes[at][1]];
      path += `V${y(sizes[at][1])}H${x(before[0])}`;
    });
    drawing.append(svg("path", { class: "size", d: `${path}V${SIZE}Z` }));
    drawing.append(label("members", 0, SIZE - 4), label(number(most), x(from) - 6, 16, "", "end"), label("0", x(from) - 6, SIZE, "", "end"));
  }

  legend(kinds) {
    const list = $("timeline-legend");
    const wanted = MARKED.filter((kind) => kinds.has(kind)).join();
    if (list.drawn === wanted) return;
    list.drawn = wanted;
    const items = MARKED.filter((kind) => kinds.has(kind)).map((kind) => el("li", {}, sign(kind), word(kind)));
    if (this.epochs.length) items.push(el("li", {}, "dotted line: a new epoch"));
    list.replaceChildren(...items);
  }

  told(inside, from) {
    const counts = MARKED.map((kind) => [inside.filter((event) => event.what === kind).length, word(kind)]).filter(([count]) => count);
    const what = counts.length ? counts.map(([count, kind]) => `${count} ${kind}`).join(", ") : "no change";
    return `Who was in since ${time(from)}: ${what}. The events below have each change.`;
  }
}

const keyOf = (member, session) => JSON.stringify([member, session]);

function label(text, x, y, kind = "", anchor = "start") {
  const node = svg("text", { x, y, "text-anchor": anchor }, text);
  if (kind) name(node, "class", kind);
  return node;
}
