// How numbers and times are written, and the mark of each kind of event.
import { svg } from "./dom.js";

export const percent = (part) => `${(100 * part).toFixed(part < 0.0995 ? 2 : 1)} %`;
export const times = (ratio) => (ratio === null || ratio === undefined ? "–" : `${ratio.toFixed(2)}×`);
export const number = (value) => (value ?? 0).toLocaleString("en-GB");

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.0005) return "0 s";
  if (value < 0.9995) return `${Math.round(1000 * value)} ms`;
  if (value < 99.5) return `${value.toFixed(1).replace(".0", "")} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  if (value < 172800) return `${Math.round(value / 3600)} h`;
  return `${Math.round(value / 86400)} days`;
}

/** An age in whole seconds, which does not flicker. */
export const ago = (value) => `${seconds(Math.floor(value))} ago`;

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
export const time = (unix) => {
  if (unix === null || unix === undefined) return "";
  const when = new Date(1000 * unix);
  const today = when.toDateString() === new Date().toDateString();
  return today ? clock.format(when) : `${day.format(when)} ${clock.format(when)}`;
};
export const shortTime = (unix, withSeconds) => clock.format(new Date(1000 * unix)).slice(0, withSeconds ? 8 : 5);
export const moment = (unix) => new Date(1000 * unix).toISOString();

export const epoch = (value) => (value ? `${value[1]}` : "");
export const wholeEpoch = (value) => (value ? `incarnation ${value[0]}, counter ${value[1]}` : "");

export const load = (member) => (member.fair_share ? member.share / member.fair_share : 0);

const WORDS = {
  handed_over: "handed over",
  lock_granted: "lock granted",
  lock_lost: "lock lost",
  lock_broken: "lock broken",
  slot_lost: "slot lost",
  missing: "not known",
};
export const word = (what) => WORDS[what] ?? what;

export const MARKED = ["joined", "left", "died", "expired", "drained", "forgotten", "superseded", "ending", "rejoined", "fenced"];
/** The kinds after which the session is no longer in; it may still die or expire. */
export const OUT = new Set(["left", "died", "expired", "drained", "forgotten", "superseded", "ending"]);
export const IN = new Set(["joined", "rejoined"]);

// Told apart by shape, so that colour is only a help.
const SHAPES = {
  joined: "M-4-5L5 0L-4 5Z",
  rejoined: "M-4-5L5 0L-4 5Z",
  left: "M4-5L-5 0L4 5Z",
  ending: "M4-5L-5 0L4 5Z",
  died: "M-4.5-4.5L4.5 4.5M4.5-4.5L-4.5 4.5",
  expired: "M-4.5-4.5L4.5 4.5M4.5-4.5L-4.5 4.5M0-6V6",
  drained: "M0-6L6 0L0 6L-6 0Z",
  forgotten: "M-4.5-4.5H4.5V4.5H-4.5Z",
  superseded: "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0",
  fenced: "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0",
};

export function mark(what) {
  return svg("path", { d: SHAPES[what] ?? SHAPES.left, class: `mark ${what}` });
}

/** The mark as a picture of its own, for text; nothing for kinds that have none. */
export function sign(what) {
  if (!SHAPES[what]) return null;
  return svg("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, mark(what));
}
