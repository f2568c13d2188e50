// The ring as a circle. The server has looked up who owns each of some thousand places of it, so that drawing it costs
// the same however many virtual nodes there are.
import { $, name, say } from "./dom.js";
import { colourOf, isByLoad, onChange, theme } from "./colours.js";
import { number, percent, times, load } from "./format.js";

export class RingView {
  /** `members`: by id; `chosen`: the ids to stand out, or none; `pointed(id or null)`: the pointer is on its arc. */
  constructor(pointed) {
    this.canvas = $("ring");
    this.ring = null;
    this.members = new Map();
    this.chosen = [];
    this.place = null;
    this.pointed = pointed;
    this.canvas.addEventListener("pointermove", (event) => pointed(this.at(event)));
    this.canvas.addEventListener("pointerleave", () => pointed(null));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    onChange(() => this.draw());
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left - box.width / 2;
    const y = event.clientY - box.top - box.height / 2;
    const from = Math.hypot(x, y) / (box.width / 2);
    if (!this.ring?.places.length || from < 0.6 || from > 1) return null;
    const turn = (Math.atan2(x, -y) / (2 * Math.PI) + 1) % 1;
    return this.ring.members[this.ring.places[Math.floor(turn * this.ring.places.length)]];
  }

  draw() {
    const { canvas, ring } = this;
    const size = Math.round(canvas.clientWidth * devicePixelRatio);
    if (!size) return;
    if (canvas.width !== size) canvas.width = canvas.height = size;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, size, size);
    const places = ring?.places ?? [];
    const width = 0.115 * size;
    const radius = size / 2 - width / 2 - 0.045 * size;
    context.lineWidth = width;
    if (!places.length) {
      context.strokeStyle = theme().soft;
      context.beginPath();
      context.arc(size / 2, size / 2, radius, 0, 2 * Math.PI);
      context.stroke();
      return;
    }
    for (const [key, arcs] of this.byColour()) {
      const [alpha, colour] = key.split(" ");
      context.strokeStyle = colour;
      context.globalAlpha = Number(alpha);
      context.beginPath();
      for (const [from, to] of arcs) {
        const start = angle(from / places.length);
        context.moveTo(size / 2 + radius * Math.cos(start), size / 2 + radius * Math.sin(start));
        context.arc(size / 2, size / 2, radius, start, angle(to / places.length));
      }
      context.stroke();
    }
    context.globalAlpha = 1;
    if (this.place !== null) this.drawKey(context, size, radius, width);
  }

  /** Runs of places by "alpha colour": the first chosen member stands out, the others less, and the rest is pale. */
  byColour() {
    const { places, members } = this.ring;
    const colours = members.map((id) => {
      const at = this.chosen.indexOf(id);
      const alpha = !this.chosen.length || at === 0 ? 1 : at > 0 ? 0.5 : 0.15;
      return `${alpha} ${colourOf(this.members.get(id))}`;
    });
    const found = new Map();
    for (let from = 0; from < places.length; ) {
      const colour = colours[places[from]];
      let to = from + 1;
      while (to < places.length && colours[places[to]] === colour) to++;
      if (!found.has(colour)) found.set(colour, []);
      found.get(colour).push([from, to]);
      from = to;
    }
    return found;
  }

  drawKey(context, size, radius, width) {
    const at = angle(this.place);
    const point = (far, turn = 0) => [size / 2 + far * Math.cos(at + turn), size / 2 + far * Math.sin(at + turn)];
    const outside = radius + width / 2;
    context.strokeStyle = theme().text;
    context.fillStyle = theme().text;
    context.lineWidth = Math.max(1.5, size / 220);
    context.beginPath();
    context.moveTo(...point(radius - width / 2 - 0.015 * size));
    context.lineTo(...point(outside));
    context.stroke();
    context.beginPath();
    context.moveTo(...point(outside + 0.002 * size));
    context.lineTo(...point(outside + 0.042 * size, 0.045));
    context.lineTo(...point(outside + 0.042 * size, -0.045));
    context.fill();
  }

  /** What stands in the middle, and what a screen reader says. */
  describe(group, chosen) {
    const [big, small] = $("centre").children;
    const members = [...this.members.values()].filter((member) => member.has_place);
    const member = chosen && this.members.get(chosen);
    $("centre").classList.toggle("named", Boolean(member));
    if (member) {
      say(big, member.id);
      say(small, `${percent(member.share)} · ${times(load(member))} its weight's`);
    } else {
      say(big, number(members.length));
      say(small, members.length === 1 ? "member" : "members");
    }
    const nodes = this.ring ? this.ring.virtual_nodes : 0;
    say($("ring-note"), !nodes ? "" : `${number(nodes)} virtual nodes, ${isByLoad() ? "coloured by load: blue below, orange above the weight's share" : "each arc in its member's colour"}`);
    const spread = members.map(load);
    const range = members.length ? ` They have from ${times(Math.min(...spread))} to ${times(Math.max(...spread))} of their weights' shares.` : "";
    name(this.canvas, "aria-label", `Hash ring of ${members.length} members.${range} The list of shares has each member.`);
  }
}

const angle = (turn) => 2 * Math.PI * turn - Math.PI / 2;
