// Bars of each member's share, with a tick where its weight alone would put it.
import { $, el, id, keep, name, say, show } from "./dom.js";
import { colourOf } from "./colours.js";
import { load, number, percent, times } from "./format.js";

const ALL_UP_TO = 16;
const MOST = 10;
const LEAST = 5;

function chosenFew(members) {
  if (members.length <= ALL_UP_TO) return members;
  const sorted = [...members].sort((a, b) => load(b) - load(a));
  const hidden = members.length - MOST - LEAST;
  return [...sorted.slice(0, MOST), { gap: `${number(hidden)} members between these` }, ...sorted.slice(-LEAST)];
}

/** `press(id)` when a bar is pressed, `pointed(id or null)` when it is looked at. */
export function drawShares(members, pressed, press, pointed) {
  const placed = members.filter((member) => member.has_place);
  show($("shares-empty"), !placed.length);
  show($("shares-legend"), placed.length > 0);
  const widest = Math.max(...placed.map((member) => Math.max(member.share, member.fair_share)), 1e-9) * 1.02;
  keep($("shares"), chosenFew(placed), (member) => member.id ?? "", (member) => make(member, press, pointed), (item, member) => {
    if (member.gap) { say(item, member.gap); return; }
    const { bar, tick, value, chip, button } = item.parts;
    const colour = colourOf(member);
    chip.style.background = bar.style.background = colour;
    bar.style.width = `${(100 * member.share) / widest}%`;
    tick.style.left = `${(100 * member.fair_share) / widest}%`;
    say(value, `${percent(member.share)} · ${times(load(member))}`);
    name(value, "title", `Its share is ${percent(member.share)}, its weight ${member.weight} makes ${percent(member.fair_share)}`);
    name(button, "aria-pressed", String(pressed === member.id));
  });
}

function make(member, press, pointed) {
  if (member.gap) return el("li", { class: "gap" });
  const bar = el("i");
  const tick = el("b");
  const chip = el("span", { class: "chip", "aria-hidden": "true" });
  const value = el("span", { class: "value" });
  const button = el("button", {
    type: "button",
    onclick: () => press(member.id),
    onpointerenter: () => pointed(member.id),
    onpointerleave: () => pointed(null),
    onfocus: () => pointed(member.id),
    onblur: () => pointed(null),
  }, chip, id(member.id), el("span", { class: "bar", "aria-hidden": "true" }, bar, tick), value);
  return Object.assign(el("li", {}, button), { parts: { bar, tick, value, chip, button } });
}
