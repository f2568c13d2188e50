// The colour of a member: its own while there are few, and that of its load when there are many.
import { load } from "./format.js";

const OWN = 8;
const dark = matchMedia("(prefers-color-scheme: dark)");

let values = read();
const listeners = [];
dark.addEventListener("change", () => { values = read(); listeners.forEach((listener) => listener()); });

function read() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  return {
    own: [...Array(OWN).keys()].map((at) => of(`--c${at}`)),
    load: [...Array(7).keys()].map((at) => of(`--l${at}`)),
    ...Object.fromEntries(["line", "card", "text", "muted", "soft"].map((name) => [name, of(`--${name}`)])),
  };
}

export const onChange = (listener) => listeners.push(listener);
export const theme = () => values;

// A member keeps its colour while others come and go.
const given = new Map();
let many = false;

/** Give colours to these members, which are all that have a place. */
export function assign(members) {
  many = members.length > OWN;
  const ids = new Set(members.map((member) => member.id));
  for (const id of given.keys()) if (!ids.has(id)) given.delete(id);
  if (many) return;
  const taken = new Set(given.values());
  for (const id of ids) {
    if (given.has(id)) continue;
    const free = [...Array(OWN).keys()].find((at) => !taken.has(at)) ?? 0;
    given.set(id, free);
    taken.add(free);
  }
}

export const isByLoad = () => many;

/** From far below its weight's share to far above it. */
const STEPS = [0.7, 0.85, 0.95, 1.05, 1.15, 1.3];

export function colourOf(member) {
  if (!member?.has_place) return values.line;
  if (!many) return values.own[given.get(member.id) ?? 0];
  const ratio = load(member);
  return values.load[STEPS.filter((step) => ratio > step).length];
}
