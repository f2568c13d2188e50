import { $, el, id, keep, show, say } from "./dom.js";
import { number } from "./format.js";

/** The lock's own name, and what it is for: the one whose holder leads a group, or one that users named. */
function named(lock) {
  if (lock.startsWith("leader:")) return [lock.slice(7), "leader of"];
  return [lock.startsWith("lock:") ? lock.slice(5) : lock, ""];
}

function some(ids) {
  const nodes = ids.slice(0, 5).flatMap((one, at) => [at ? ", " : "", id(one)]);
  if (ids.length > 5) nodes.push(` and ${number(ids.length - 5)} more`);
  return nodes;
}

export function drawLocks(state) {
  const { locks, locks_found: found } = state;
  show($("locks-table"), locks.length > 0);
  show($("locks-empty"), locks.length === 0);
  say($("locks-count"), found > locks.length ? `first ${number(locks.length)} of ${number(found)}` : found ? number(found) : "");
  keep($("locks"), locks, (lock) => lock.name, () => el("tr"), (row, lock) => {
    const told = JSON.stringify(lock);
    if (row.told === told) return;
    row.told = told;
    const [name, kind] = named(lock.name);
    const holders = lock.holders.map((holder) => holder.id);
    const notes = [];
    if (lock.holders.some((holder) => holder.shared)) notes.push(el("span", { class: "badge" }, "shared"));
    if (lock.holders.some((holder) => holder.broken)) notes.push(el("span", { class: "badge bad" }, "broken"));
    row.replaceChildren(
      el("td", { class: "lead wide" }, el("span", { class: "who" }, kind ? el("span", { class: "badge" }, kind) : null, id(name))),
      el("td", { "data-label": "Held by", class: "wide" }, el("span", {}, ...(holders.length ? some(holders) : ["nobody"]), " ", ...notes)),
      el("td", { "data-label": "Waiting", class: "wide" }, el("span", {}, ...(lock.waiting.length ? some(lock.waiting) : ["nobody"]))),
    );
  });
}
