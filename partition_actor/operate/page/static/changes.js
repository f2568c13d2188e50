// Drain and Forget: what follows is said first.
import { $, el, id, say } from "./dom.js";
import { percent, seconds } from "./format.js";
import { session } from "./live.js";

function consequences(what, member, group, settings) {
  const share = member ? `${percent(member.share)} of the keys` : "Its keys";
  const others = group.members.filter((one) => one.has_place && one.id !== member?.id).length;
  const to = others ? `go to the other ${others === 1 ? "member" : `${others} members`}` : "have no owner until another member joins: it is the only one";
  if (what === "Drain") {
    return [
      "It hands its keys over and leaves the group. Its process goes on running.",
      `${share} ${to}.`,
      group.exclusive ? `Each key waits until it has let go of it: its callbacks are run first. If that takes longer than ${seconds(settings.handoff_timeout)}, its lease is not renewed.` : null,
      "It stays out until its program joins the group again.",
    ];
  }
  return [
    "It is taken off the ring now, whatever its lease. This is for a member that is gone for good.",
    `${share} ${to}.`,
    group.exclusive ? `They wait until its lease has ended, at most ${seconds(member?.lease ?? settings.ttl)}, because it may still be working on them.` : "If it is alive, it may for a moment work on keys that others have got.",
    "If it is alive, it joins again with its next heartbeat.",
  ];
}

/** Ask in a dialog of its own; whether the answer was yes. The focus then goes back to where it was. */
async function confirmed(what, memberId, short, points) {
  const cancel = el("button", { type: "submit", value: "" }, "Cancel");
  const dialog = el("dialog", { "aria-labelledby": "confirm-title", "aria-describedby": "confirm-text" },
    el("form", { method: "dialog" },
      el("h2", { id: "confirm-title" }, `${what} `, id(memberId), "?"),
      el("ul", { id: "confirm-text" }, ...points.map((point) => el("li", {}, point))),
      el("div", { class: "buttons" }, cancel, el("button", { type: "submit", value: "yes", class: "danger" }, `${what} ${short}`)),
    ));
  document.body.append(dialog);
  const closed = new Promise((close) => dialog.addEventListener("close", close, { once: true }));
  dialog.showModal();
  cancel.focus();
  await closed;
  dialog.remove();
  return dialog.returnValue === "yes";
}

/** Ask, and then do it; says how it went. */
export async function change(what, memberId, group, settings) {
  const member = group.members.find((one) => one.id === memberId);
  const short = memberId.length > 24 ? `${memberId.slice(0, 23)}…` : memberId;
  if (!await confirmed(what, memberId, short, consequences(what, member, group, settings).filter(Boolean))) return;
  tell(`${what === "Drain" ? "Draining" : "Forgetting"} ${short}…`);
  try {
    const { csrf } = await session(); // anew, as the server may have been restarted
    const answer = await fetch(what.toLowerCase(), {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
      body: JSON.stringify({ group: group.name, member: memberId }),
    });
    const said = await answer.json();
    if (answer.ok) tell(what === "Drain" ? `${short} was drained.` : `${short} was forgotten.`);
    else tell(`${short} is as it was: ${said.error}`, true);
  } catch {
    tell("The server of this page did not answer. Look whether it has happened before you try again.", true);
  }
}

let clearing = 0;

function tell(text, bad = false) {
  $("said").dataset.kind = bad ? "bad" : "";
  say($("said"), text);
  clearTimeout(clearing);
  clearing = setTimeout(() => say($("said"), ""), bad ? 12000 : 6000);
}
