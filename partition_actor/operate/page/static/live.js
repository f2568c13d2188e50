// The stream of states, and what the page says of it.
import { $, el, name, say, show } from "./dom.js";
import { number, seconds, time } from "./format.js";

const SILENT_AFTER = 12000; // ms; a state comes each second, or when the partition actor does not answer, within 9 s
const AGAIN_AFTER = 3000;
const BACK_FOR = 60; // seconds for which the page says that the partition actor was replaced

let reached = 0; // when the server last said something
let connection = null;
let opened = Date.now();

function draw(now) {
  const silent = Date.now() - Math.max(reached, opened) > SILENT_AFTER || (reached && failed);
  const pill = $("connection");
  const state = silent ? "lost" : connection?.state ?? "connecting";
  name(pill, "data-live", state);
  const lost = silent ? (Date.now() - (reached || opened)) / 1000 : connection ? now - connection.since : 0;
  const words = { live: "Live", connecting: "Connecting", lost: `Lost for ${seconds(Math.round(Math.max(0, lost)))}` };
  say(pill.lastElementChild, words[state]);
  document.body.classList.toggle("stale", state === "lost");
  const banner = $("banner");
  let text = "";
  let kind = "lost";
  if (silent) text = "The server of this page does not answer. It may have been stopped; the page goes on trying.";
  else if (state === "lost") {
    const old = connection.answered ? ` What you see is from ${time(connection.answered)}.` : "";
    text = `The partition actor is lost: ${connection.why}.${old}`;
  } else if (connection?.replaced && now - connection.replaced < BACK_FOR) {
    kind = "back";
    text = `The partition actor is back. It was restarted, as incarnation ${connection.incarnation}, and was found again at ${time(connection.replaced)}.`;
  }
  name(banner, "data-kind", kind);
  say(banner, text);
}

let failed = false;

/** Call `handlers[name](data)` for each message; closed while nobody sees the page, so that it then costs nothing. */
export function live(query, handlers) {
  let source = null;
  let clockSkew = 0;

  function open() {
    source?.close();
    opened = Date.now();
    source = new EventSource(`live?${new URLSearchParams(query())}`);
    source.addEventListener("open", () => { failed = false; });
    source.addEventListener("error", () => {
      failed = true;
      if (source.readyState === EventSource.CLOSED) setTimeout(() => !document.hidden && open(), AGAIN_AFTER);
      draw(Date.now() / 1000 + clockSkew);
    });
    for (const kind of ["state", "ring", "log", "events"]) {
      source.addEventListener(kind, (message) => {
        reached = Date.now();
        failed = false;
        const start = performance.now();
        const data = JSON.parse(message.data);
        if (kind === "state") {
          connection = data.connection;
          clockSkew = data.now - Date.now() / 1000;
          draw(data.now);
          if (data.actor) drawActor(data.actor);
        }
        handlers[kind]?.(data);
        performance.measure(`page:${kind}`, { start, end: performance.now() });
        performance.clearMeasures(`page:${kind}`);
      });
    }
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { source?.close(); source = null; } else if (!source) open();
  });
  setInterval(() => draw(Date.now() / 1000 + clockSkew), 1000);
  if (!document.hidden) open();
  return { reopen: () => source && open(), now: () => Date.now() / 1000 + clockSkew };
}

function drawActor(actor) {
  say($("where"), `${actor.namespace ? `${actor.namespace} / ` : ""}${actor.name} · version ${actor.version} · up ${seconds(actor.uptime)}`);
  name($("where"), "title", `node ${actor.node}, pid ${actor.pid}, incarnation ${actor.incarnation}`);
}

/** The tiles: [label, value, small text, kind]. */
export function tiles(items) {
  const list = $("tiles");
  while (list.children.length < items.length) list.append(el("div", {}, el("dt"), el("dd", {}, el("span"), el("small"))));
  while (list.children.length > items.length) list.lastChild.remove();
  items.forEach(([label, value, small, kind], at) => {
    const [term, details] = list.children[at].children;
    say(term, label);
    say(details.firstChild, value);
    say(details.lastChild, small ?? "");
    name(details, "title", [value, small].filter(Boolean).join(" · "));
    name(list.children[at], "class", kind ?? "");
  });
}

export async function session() {
  const found = await fetch("session").then((answer) => answer.json()).catch(() => ({ allow_changes: false, csrf: "" }));
  show($("mode"), !found.allow_changes);
  name($("mode"), "title", "Start it with --allow-changes to drain and forget members here.");
  return found;
}

export function handoff(value) {
  if (!value) return "none";
  const more = value.members - value.held_up_by.length;
  const who = value.held_up_by.length ? `: held up by ${value.held_up_by.join(", ")}` : "";
  return `${seconds(value.seconds)}${who}${more > 0 ? ` and ${number(more)} more` : ""}`;
}
