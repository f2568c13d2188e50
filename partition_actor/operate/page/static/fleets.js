// The list of fleets.
import { $, el, keep, say, show } from "./dom.js";
import { link } from "./events.js";
import { ago, number } from "./format.js";

export const LATE_AFTER = 6; // seconds; a fleet's controller tells of it every 2 s

/** What is to be said of a fleet: pairs of a kind and words. */
export function badges(fleet) {
  const found = [];
  if (fleet.stopping) found.push(["warn", "stopping"]);
  else if (fleet.cannot_start) found.push(["bad", "cannot start"]);
  else found.push(fleet.ready ? ["good", "ready"] : ["warn", "not ready"]);
  if (fleet.updating) found.push(["warn", "updating"]);
  if (fleet.update_failed) found.push(["bad", "update failed"]);
  if (fleet.seconds_ago > LATE_AFTER) found.push(["bad", `not heard of for ${ago(fleet.seconds_ago).replace(" ago", "")}`]);
  return found;
}

export const badgeNodes = (fleet) => badges(fleet).map(([kind, words]) => el("span", { class: `badge ${kind}` }, words));

export function drawFleets({ fleets, fleets_found: found }, withGroup) {
  show($("fleets-card"), fleets.length > 0);
  say($("fleets-count"), fleets.length < found ? `first ${number(fleets.length)} of ${number(found)}` : number(found));
  keep($("fleets"), fleets, (fleet) => fleet.name, (fleet) => makeRow(fleet, withGroup), (row, fleet) => {
    const { badge, group, serving, version, restarts, last } = row.parts;
    const told = JSON.stringify(badges(fleet));
    if (badge.told !== told) badge.replaceChildren(...badgeNodes(fleet));
    badge.told = told;
    if (withGroup && row.group !== fleet.group) group.replaceChildren(link(fleet.group));
    row.group = fleet.group;
    say(serving, `${number(fleet.serving)} of ${number(fleet.size)}`);
    serving.classList.toggle("warn", fleet.serving !== fleet.size);
    say(version, `${fleet.version}`);
    say(restarts, number(fleet.restarts));
    const event = fleet.last_event;
    say(last, event ? `${ago(event.seconds_ago)}: ${event.what}` : "");
  });
}

function makeRow(fleet, withGroup) {
  const parts = {
    badge: el("span", { class: "badges" }),
    group: el("td", { "data-label": "Group" }),
    serving: el("td", { class: "number", "data-label": "Serving" }),
    version: el("td", { class: "number", "data-label": "Version" }),
    restarts: el("td", { class: "number", "data-label": "Restarts" }),
    last: el("td", { class: "why muted wide" }),
  };
  const name = el("a", { href: `fleet?${new URLSearchParams({ name: fleet.name })}`, class: "id", title: fleet.name }, fleet.name);
  const row = el("tr", {}, el("td", { class: "lead wide" }, el("span", { class: "who" }, name, parts.badge)),
    withGroup ? parts.group : null, parts.serving, parts.version, parts.restarts, parts.last);
  return Object.assign(row, { parts });
}
