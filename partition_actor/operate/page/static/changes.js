// Drain and Forget: what follows is said first.
import { $, el, id, say } from "./dom.js";
import { percent, seconds } from "./format.js";

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

/** Ask, and then do it; says how it went. `focus` gets the focus afterwards. */
export async function change(what, memberId, group, settings, csrf) {
  const member = group.members.find((one) => one.id === memberId);
  const dialog = $("confirm");
  $("confirm-title").replaceChildren(`${what} `, id(memberId), "?");
  const points = consequences(what, member, group, settings).filter(Boolean);
  $("confirm-text").replaceChildren(el("ul", {}, ...points.map((point) => el("li", {}, point))));
  const short = memberId.length > 24 ? `${memberId.slice(0, 23)}…` : memberId;
  say($("confirm-yes"), `${what} ${short}`);
  dialog.returnValue = "";
  dialog.showModal();
  $("confirm-cancel").focus();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  if (dialog.returnValue !== "yes") return;
  tell(`${what === "Drain" ? "Draining" : "Forgetting"} ${short}…`);
  try {
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
