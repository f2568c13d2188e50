// Small helpers. Text of members comes in only as text nodes, attributes and values, never as markup.

export const $ = (id) => document.getElementById(id);

export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Set the text of a node that has nothing else; a text that stays costs no layout. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

export function name(node, attribute, value) {
  if (node.getAttribute(attribute) !== value) node.setAttribute(attribute, value);
}

/** A function that has `draw` called before the next frame, once however often it is called itself. */
export function soon(draw) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; draw(); });
  };
}

/** An id, cut off where there is no room, with the whole of it as a title. */
export function id(text) {
  return el("span", { class: "id", title: text }, text);
}

/**
 * Make the children of `parent` those for `items`: kept by key, updated, and moved only if their order changes. While
 * the focus is inside, nothing is moved, because moving a focused control takes the focus from it.
 */
export function keep(parent, items, key, make, update) {
  const before = parent.kept ?? new Map();
  const after = new Map();
  for (const item of items) {
    const which = key(item);
    const node = before.get(which) ?? make(item);
    update?.(node, item);
    after.set(which, node);
  }
  for (const [which, node] of before) if (!after.has(which)) node.remove();
  parent.kept = after;
  const still = parent.contains(document.activeElement);
  let at = parent.firstChild;
  for (const node of after.values()) {
    if (node === at) at = at.nextSibling;
    else if (!still || !node.parentNode) parent.insertBefore(node, at);
  }
}
