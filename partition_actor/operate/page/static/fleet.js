import { $, el, id, keep, name, say, show } from "./dom.js";
import { link } from "./events.js";
import { LATE_AFTER, badgeNodes, badges } from "./fleets.js";
import { ago, number, seconds, wholeEpoch } from "./format.js";
import { live, session, tiles } from "./live.js";

const fleetName = new URLSearchParams(location.search).get("name") ?? "";
say($("title"), fleetName);
name($("title"), "title", fleetName);
document.title = `${fleetName} · partition actor`;

let known = false;

live(() => ({ fleet: fleetName }), {
  state({ actor, connection, fleet }) {
    if (connection.state === "lost" && !fleet && known) return;
    known = fleet !== null;
    show($("there"), known);
    show($("absent"), !known && actor !== null);
    if (!known) {
      say($("absent"), "No fleet of this name has told of itself within 30 s. It comes back by itself here as soon as it does.");
      $("badges").replaceChildren();
      $("badges").told = "";
      return;
    }
    const told = JSON.stringify(badges(fleet));
    if ($("badges").told !== told) $("badges").replaceChildren(...badgeNodes(fleet));
    $("badges").told = told;
    if ($("of-group").textContent !== fleet.group) $("of-group").replaceChildren(link(fleet.group));
    say($("failed"), fleet.cannot_start || fleet.update_failed);
    drawTiles(fleet);
    drawWorkers(fleet);
    drawEvents(fleet.events);
  },
});

function drawTiles(fleet) {
  const loads = fleet.workers.map((worker) => worker.load).filter((load) => load !== null);
  const load = loads.length ? loads.reduce((sum, each) => sum + each, 0) / loads.length : null;
  tiles([
    ["Workers that serve", `${number(fleet.serving)} of ${number(fleet.size)}`, fleet.per_node ? `${number(fleet.per_node)} on each node` : fleet.stopping ? "it stops" : "", fleet.serving === fleet.size ? "" : "warn"],
    ["Version", `${fleet.version}`, fleet.updating ? "the update is under way" : fleet.update_failed ? "the last update failed" : ""],
    ["Restarts", number(fleet.restarts), "after a worker failed"],
    ["Load", load === null ? "–" : short(load), load === null ? "its workers tell none" : `the mean of ${number(loads.length)}${fleet.needed ? `, for ${number(fleet.needed)} workers` : ""}`],
    ["Told", ago(fleet.seconds_ago), "by its controller", fleet.seconds_ago > LATE_AFTER ? "bad" : ""],
  ]);
}

const short = (value) => value.toLocaleString("en-GB", { maximumSignificantDigits: 3 });

function drawWorkers({ workers, waiting, all_workers: all }) {
  const rows = [...workers, ...waiting.map((slot) => ({ ...slot, number: `waits ${slot.slot}`, phase: "waits" }))];
  rows.sort((a, b) => a.slot - b.slot);
  say($("workers-count"), all > workers.length ? `${number(workers.length)} of ${number(all)}` : number(workers.length));
  show($("workers-empty"), !rows.length);
  keep($("workers"), rows, (worker) => `${worker.slot} ${worker.number}`, makeRow, (row, worker) => {
    const [, , phase, since, process, version, load, restarts, reason] = row.children;
    const waits = worker.phase === "waits";
    say(phase.firstChild, waits ? `starts again in ${seconds(Math.ceil(worker.seconds))}` : worker.phase);
    name(phase.firstChild, "class", worker.phase === "serving" ? "badge good" : waits ? "badge bad" : "badge warn");
    name(phase.firstChild, "title", worker.epoch ? `holds epoch ${wholeEpoch(worker.epoch)}${worker.is_settled ? "" : ", and waits for a hand-off"}` : "holds no epoch");
    if (waits) { say(reason, worker.reason); return; }
    say(since, seconds(Math.floor(worker.seconds)));
    say(process, worker.pid ? `pid ${worker.pid}${worker.node ? ` on ${worker.node.slice(0, 6)}` : ""}` : "");
    name(process, "title", `node ${worker.node ?? "not known"}, pid ${worker.pid ?? "not known"}`);
    say(version, `${worker.version}`);
    say(load, worker.load === null ? "" : short(worker.load));
    say(restarts, number(worker.restarts));
    say(reason, worker.reason);
  });
}

function makeRow(worker) {
  return el("tr", {},
    el("td", { class: "number", "data-label": "Slot" }, `${worker.slot}`),
    el("td", { "data-label": "Member" }, worker.member_id ? id(worker.member_id) : ""),
    el("td", { "data-label": "Phase" }, el("span")),
    el("td", { class: "number", "data-label": "For" }),
    el("td", { class: "muted wide", "data-label": "Process" }),
    el("td", { class: "number", "data-label": "Version" }),
    el("td", { class: "number", "data-label": "Load" }),
    el("td", { class: "number", "data-label": "Restarts" }),
    el("td", { class: "why muted wide" }),
  );
}

function drawEvents(events) {
  show($("happened-empty"), !events.length);
  const rows = events.map((event, at) => ({ ...event, at })).reverse();
  keep($("happened"), rows, (event) => event.at, () => el("tr", {}, el("td", { class: "time wide" }), el("td", { class: "why wide" })), (row, event) => {
    say(row.firstChild, ago(event.seconds_ago));
    say(row.lastChild, event.what);
  });
}

session();
