// Building elements: the page writes text, never HTML, so that no event can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners (`onclick`) and children (nodes, text, null). */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" && "value" in element) element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Put these children in place of what an element holds. */
export function replace(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
}

/**
 * Make the children of a list those of `entries` (`{id, key, make}`). A child whose key is the same
 * stays, with the focus and the click that is on it; the focus of one that is made anew goes along.
 */
export function reconcile(list, entries) {
  const known = new Map([...list.children].map((child) => [child.dataset.id, child]));
  const nodes = entries.map(({ id, key, make }) => {
    const old = known.get(id);
    if (old?.dataset.key === key) return old;
    const node = make();
    Object.assign(node.dataset, { id, key });
    if (!old) return node;
    const place = [...old.querySelectorAll("button")].indexOf(document.activeElement);
    old.replaceWith(node);
    if (place >= 0) node.querySelectorAll("button")[place]?.focus();
    return node;
  });
  const wanted = new Set(nodes);
  for (const child of [...list.children]) if (!wanted.has(child)) child.remove();
  nodes.forEach((node, index) => {
    if (list.children[index] !== node) list.insertBefore(node, list.children[index] ?? null);
  });
}

/** An icon of the sprite in index.html. */
export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `#icon-${name}` }));
}

/** JSON as highlighted text. */
export function json(value) {
  const text = JSON.stringify(value, null, 2) ?? "null";
  const tokens = /("(?:\\.|[^"\\])*")(\s*:)?|\b(true|false|null)\b|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)/g;
  const parts = [];
  let last = 0;
  for (const found of text.matchAll(tokens)) {
    parts.push(text.slice(last, found.index));
    const kind = found[2] ? "key" : found[1] ? "text" : found[3] ? "word" : "number";
    parts.push(h("span", { class: `json-${kind}` }, found[1] ?? found[0]), found[2] ?? "");
    last = found.index + found[0].length;
  }
  parts.push(text.slice(last));
  return h("pre", { class: "json", tabindex: "0" }, parts);
}

/** Seconds in a few characters. */
export function seconds(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value < 0.001) return "0 ms";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  const minutes = Math.floor(value / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(value % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A moment as people say it. */
export function moment(text) {
  if (!text) return "–";
  const at = new Date(text);
  const today = new Date().toDateString() === at.toDateString();
  return today ? at.toLocaleTimeString() : at.toLocaleString();
}
