// The graph of a workflow: laid out by dagre, drawn as SVG, alive while a run goes on.

import { Graph, layout } from "./vendor/dagre.js";
import { h, replace, svg } from "./dom.js";
import { fold } from "./fold.js";

/** Room for a name beside the ends of its node; a longer one is cut. */
const ROOM = 44;
const NARROWEST = 76;
/** A step has room for what it does, too. */
const NARROWEST_STEP = 116;
const WIDEST = 260;
const MARGIN = 24;
const STEP = 14;
const STORE = "ironflow.workflows.places";

/** Places that nodes were moved to, by workflow; kept in this browser. */
function placesOf(workflow) {
  try {
    return JSON.parse(localStorage.getItem(STORE) ?? "{}")[workflow] ?? {};
  } catch {
    return {};
  }
}

function keepPlaces(workflow, places) {
  try {
    const all = JSON.parse(localStorage.getItem(STORE) ?? "{}");
    all[workflow] = places;
    localStorage.setItem(STORE, JSON.stringify(all));
  } catch {
    // Without storage the places last as long as the page.
  }
}

/** What a node is, beyond its type: where a run begins, ends, or asks a human. */
export function kindOf(node) {
  if (node.node_type !== "event") return node.node_type;
  const types = node.event_types ?? [node.event_type ?? node.id];
  if (types.includes("StartEvent")) return "start";
  if (types.includes("StopEvent")) return "stop";
  if (types.includes("InputRequiredEvent")) return "question";
  if (types.includes("HumanResponseEvent")) return "answer";
  return "event";
}

/** What a run calls a node: its step, or the class of its event. A step and an event may have one name. */
export function nameOf(node) {
  return node.node_type === "event" ? (node.event_type ?? node.id) : node.id;
}

export class GraphView {
  /** `small`: a picture beside others, that cannot be moved. */
  constructor(model, workflow, { small = false, onselect = () => {} } = {}) {
    this.model = model;
    this.workflow = workflow;
    this.small = small;
    this.onselect = onselect;
    this.places = small ? {} : placesOf(workflow);
    this.nodes = new Map();
    this.edges = [];
    this.selected = null;
    this.view = { x: 0, y: 0, scale: 1 };
    this.isFitted = true;
    this.scene = svg("g", { class: "scene" });
    this.element = svg("svg", { class: `graph${small ? " small" : ""}`, role: "group", "aria-label": `graph of ${workflow}` }, arrows(), this.scene);
    this.layOut();
    this.draw();
    if (!small) this.listen();
    this.observer = new ResizeObserver(() => this.isFitted && this.fit(this.least));
    this.observer.observe(this.element);
  }

  close() {
    this.observer.disconnect();
  }

  layOut() {
    const graph = new Graph({ multigraph: true });
    graph.setGraph({ rankdir: "TB", nodesep: 34, ranksep: 38, marginx: MARGIN, marginy: MARGIN });
    graph.setDefaultEdgeLabel(() => ({}));
    for (const node of this.model.nodes) {
      const isStep = node.node_type === "step";
      const width = Math.max(isStep ? NARROWEST_STEP : NARROWEST, Math.min(WIDEST, widthOf(labelOf(node)) + ROOM));
      graph.setNode(node.id, { width, height: isStep ? 46 : 34 });
    }
    const known = new Set(this.model.nodes.map((node) => node.id));
    this.model.edges.forEach((edge, index) => {
      if (known.has(edge.source) && known.has(edge.target)) graph.setEdge(edge.source, edge.target, {}, `e${index}`);
    });
    layout(graph);
    fold(graph);
    for (const node of this.model.nodes) {
      const found = graph.node(node.id);
      const place = this.places[node.id];
      this.nodes.set(node.id, { node, kind: kindOf(node), width: found.width, height: found.height, x: place?.x ?? found.x, y: place?.y ?? found.y, moved: Boolean(place) });
    }
    this.edges = graph.edges().map((key) => ({ source: key.v, target: key.w, points: graph.edge(key).points, label: this.model.edges[Number(key.name.slice(1))].label }));
  }

  draw() {
    const edges = svg("g", { class: "edges" });
    const nodes = svg("g", { class: "nodes" });
    for (const edge of this.edges) {
      edge.path = svg("path", { class: "edge", "marker-end": "url(#arrow)" });
      edge.text = edge.label ? svg("text", { class: "edge-label", "text-anchor": "middle" }, edge.label) : null;
      edges.append(edge.path);
      if (edge.text) edges.append(edge.text);
      this.place(edge);
    }
    for (const item of this.nodes.values()) {
      this.drawNode(item);
      nodes.append(item.element);
    }
    this.scene.replaceChildren(edges, nodes);
  }

  drawNode(item) {
    const { node, kind, width, height } = item;
    const round = node.node_type === "event" ? height / 2 : 8;
    item.badge = svg("text", { class: "badge", x: width / 2 - 10, y: -height / 2 - 5, "text-anchor": "end" });
    item.note = svg("text", { class: "note", y: height / 2 - 6, "text-anchor": "middle" });
    item.label = svg("text", { class: "label", y: node.node_type === "step" ? 0 : 4, "text-anchor": "middle" }, shorten(labelOf(node), width));
    item.element = svg(
      "g",
      { class: `node ${node.node_type} ${kind}`, "data-id": node.id, tabindex: this.small ? null : "0", role: this.small ? null : "button", "aria-label": `${kind} ${node.label}` },
      svg("title", {}, node.label),
      svg("rect", { class: "halo", x: -width / 2 - 5, y: -height / 2 - 5, width: width + 10, height: height + 10, rx: round + 5 }),
      svg("rect", { class: "body", x: -width / 2, y: -height / 2, width, height, rx: round }),
      kind === "stop" ? svg("rect", { class: "inner", x: -width / 2 + 3, y: -height / 2 + 3, width: width - 6, height: height - 6, rx: round - 3 }) : null,
      node.node_type === "step" ? svg("rect", { class: "mark", x: -width / 2, y: -height / 2 + 8, width: 4, height: height - 16, rx: 2 }) : null,
      item.label,
      item.note,
      item.badge,
    );
    item.element.setAttribute("transform", `translate(${item.x} ${item.y})`);
  }

  /** The line of an edge: as dagre bent it, or straight to where its ends were moved. */
  place(edge) {
    const from = this.nodes.get(edge.source);
    const to = this.nodes.get(edge.target);
    const points = from.moved || to.moved ? straight(from, to) : edge.points;
    edge.path.setAttribute("d", smooth(points));
    const middle = points[Math.floor(points.length / 2)];
    edge.text?.setAttribute("transform", `translate(${middle.x} ${middle.y - 4})`);
  }

  move(id, x, y) {
    const item = this.nodes.get(id);
    Object.assign(item, { x, y, moved: true });
    item.element.setAttribute("transform", `translate(${x} ${y})`);
    for (const edge of this.edges) if (edge.source === id || edge.target === id) this.place(edge);
    this.places[id] = { x: Math.round(x), y: Math.round(y) };
    keepPlaces(this.workflow, this.places);
  }

  /** Everything back to where the layout put it. */
  tidy() {
    this.places = {};
    keepPlaces(this.workflow, {});
    this.nodes.clear();
    this.layOut();
    this.draw();
    this.fit();
    if (this.run) this.show(this.run);
  }

  // -- the view -----------------------------------------------------------------------------------

  /** See the whole graph; with `least`, no smaller than that: then its top. */
  fit(least = 0) {
    this.least = least;
    const { width, height } = this.element.getBoundingClientRect();
    if (!width || !height) return;
    const items = [...this.nodes.values()];
    const left = Math.min(...items.map((i) => i.x - i.width / 2)) - MARGIN;
    const right = Math.max(...items.map((i) => i.x + i.width / 2)) + MARGIN;
    const top = Math.min(...items.map((i) => i.y - i.height / 2)) - MARGIN;
    const bottom = Math.max(...items.map((i) => i.y + i.height / 2)) + MARGIN;
    const scale = Math.max(least, Math.min(this.small ? 1 : 1.25, width / (right - left), height / (bottom - top)));
    const y = (bottom - top) * scale > height + 1 ? -top * scale : (height - (top + bottom) * scale) / 2;
    this.view = { scale, x: (width - (left + right) * scale) / 2, y };
    this.isFitted = true;
    this.apply();
  }

  zoom(factor, x, y) {
    const box = this.element.getBoundingClientRect();
    const at = { x: (x ?? box.left + box.width / 2) - box.left, y: (y ?? box.top + box.height / 2) - box.top };
    const scale = Math.min(3, Math.max(0.15, this.view.scale * factor));
    const ratio = scale / this.view.scale;
    this.view = { scale, x: at.x - (at.x - this.view.x) * ratio, y: at.y - (at.y - this.view.y) * ratio };
    this.isFitted = false;
    this.apply();
  }

  apply() {
    const { x, y, scale } = this.view;
    this.scene.setAttribute("transform", `translate(${x} ${y}) scale(${scale})`);
  }

  listen() {
    let drag = null;
    this.element.addEventListener("pointerdown", (event) => {
      const id = event.target.closest(".node")?.dataset.id ?? null;
      const item = id && this.nodes.get(id);
      drag = { id, x: event.clientX, y: event.clientY, from: item ? { x: item.x, y: item.y } : { ...this.view }, far: false };
      this.element.setPointerCapture(event.pointerId);
    });
    this.element.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const dx = event.clientX - drag.x;
      const dy = event.clientY - drag.y;
      drag.far ||= Math.hypot(dx, dy) > 3;
      if (!drag.far) return;
      if (drag.id) this.move(drag.id, drag.from.x + dx / this.view.scale, drag.from.y + dy / this.view.scale);
      else {
        this.view = { ...this.view, x: drag.from.x + dx, y: drag.from.y + dy };
        this.isFitted = false;
        this.apply();
      }
    });
    this.element.addEventListener("pointerup", () => {
      if (drag && !drag.far) this.select(drag.id);
      drag = null;
    });
    this.element.addEventListener("pointercancel", () => (drag = null));
    this.element.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * 0.0015), event.clientX, event.clientY);
    }, { passive: false });
    this.element.addEventListener("keydown", (event) => this.onkey(event));
  }

  onkey(event) {
    const id = event.target.closest(".node")?.dataset.id;
    if (!id) return;
    const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    if (event.key in moves) {
      const item = this.nodes.get(id);
      this.move(id, item.x + moves[event.key][0], item.y + moves[event.key][1]);
      event.preventDefault();
    } else if (event.key === "Enter" || event.key === " ") {
      this.select(id);
      event.preventDefault();
    }
  }

  select(id) {
    this.selected = id;
    for (const item of this.nodes.values()) item.element.classList.toggle("selected", item.node.id === id);
    this.onselect(id ? this.nodes.get(id) : null);
  }

  // -- a run --------------------------------------------------------------------------------------

  /** Show how far a run is; null: the workflow alone. */
  show(run) {
    this.run = run;
    const failed = run?.terminal?.value?.step_name;
    for (const [id, item] of this.nodes) {
      const isEvent = item.node.node_type === "event";
      const name = nameOf(item.node);
      const step = isEvent ? undefined : run?.steps.get(name);
      const count = isEvent ? run?.counts.get(name) : null;
      const running = step ? step.workers.size : 0;
      const classes = item.element.classList;
      classes.toggle("running", running > 0);
      const asking = step ? step.asking.size : 0;
      const hasAnswered = id === "external_step" && run && !run.prompts.length && [...run.edges].some((edge) => edge.startsWith(`${id}→`));
      classes.toggle("done", Boolean((step?.finished > asking && !running) || hasAnswered || (isEvent && this.wasSeen(run, name, count))));
      classes.toggle("failed", failed !== undefined && !isEvent && failed === name);
      classes.toggle("waiting", Boolean(run && !run.isOver && run.prompts.length && ((asking && !running) || id === "external_step" || (isEvent && run.prompts.some((prompt) => prompt.type === name)))));
      item.badge.textContent = step?.started > 1 ? `×${step.started}` : count > 1 ? `×${count}` : "";
      item.label.setAttribute("y", item.node.node_type === "step" ? (step ? -3 : 4) : 4);
      write(item.note, step ? noteOf(step, running, failed === name) : "", item.width - 14);
    }
    for (const edge of this.edges) {
      edge.path.classList.toggle("taken", this.wasTaken(run, edge));
    }
  }

  /** Whether a run went along an edge. What a step sends by hand shows only where it arrives. */
  wasTaken(run, edge) {
    if (!run) return false;
    const [source, target] = [edge.source, edge.target].map((id) => nameOf(this.nodes.get(id).node));
    if (run.edges.has(`${source}→${target}`)) return true;
    const only = this.edges.filter((other) => other.target === edge.target).length === 1;
    return only && run.steps.has(source) && this.wasSeen(run, target, run.counts.get(target));
  }

  wasSeen(run, name, count) {
    if (!run) return false;
    if (count) return true;
    for (const edge of run.edges) if (edge.startsWith(`${name}→`) || edge.endsWith(`→${name}`)) return true;
    return false;
  }
}

function noteOf(step, running, isFailed) {
  const queued = step.queued.size ? `, ${step.queued.size} queued` : "";
  const asking = step.asking.size;
  if (running) return `${running} running${asking ? `, ${asking} waiting` : ""}${queued}`;
  if (isFailed) return step.finished > 1 ? `${step.finished - 1} done, 1 failed` : "failed";
  const done = step.finished - asking;
  return [done || !asking ? `${done} done` : null, asking ? `${asking} waiting` : null].filter(Boolean).join(", ") + queued;
}

/** Put text where there is so much room: what is longer is set closer. */
function write(element, text, room) {
  if (element.textContent === text) return;
  element.textContent = text;
  element.removeAttribute("textLength");
  if (!text || element.getComputedTextLength() <= room) return;
  element.setAttribute("textLength", room);
  element.setAttribute("lengthAdjust", "spacingAndGlyphs");
}

/** What stands on a node; the world outside is, as far as a workflow knows, a human. */
function labelOf(node) {
  return node.node_type === "external" ? "human" : node.label;
}

let pen = null;

/** How wide a name is on a node, in pixels. */
function widthOf(text) {
  if (!pen) {
    pen = document.createElement("canvas").getContext("2d");
    pen.font = `650 13px ${getComputedStyle(document.body).fontFamily}`;
  }
  return pen.measureText(text).width;
}

function shorten(text, width) {
  const most = width - 28;
  if (widthOf(text) <= most) return text;
  let [low, high] = [1, text.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (widthOf(`${text.slice(0, middle)}…`) <= most) low = middle;
    else high = middle - 1;
  }
  return `${text.slice(0, low)}…`;
}

function straight(from, to) {
  const below = to.y >= from.y;
  const start = { x: from.x, y: from.y + (below ? from.height / 2 : -from.height / 2) };
  const end = { x: to.x, y: to.y + (below ? -to.height / 2 - 3 : to.height / 2 + 3) };
  const bend = Math.max(16, Math.abs(end.y - start.y) / 3) * (below ? 1 : -1);
  return [start, { x: start.x, y: start.y + bend }, { x: end.x, y: end.y - bend }, end];
}

/** A curve through the middles of a line's legs. */
function smooth(points) {
  if (points.length < 3) return `M${points.map((p) => `${p.x} ${p.y}`).join("L")}`;
  let path = `M${points[0].x} ${points[0].y}`;
  for (let index = 1; index < points.length - 2; index += 1) {
    const [here, next] = [points[index], points[index + 1]];
    path += `Q${here.x} ${here.y} ${(here.x + next.x) / 2} ${(here.y + next.y) / 2}`;
  }
  const [bend, end] = points.slice(-2);
  return `${path}Q${bend.x} ${bend.y} ${end.x} ${end.y}`;
}

function arrows() {
  return svg("defs", {}, svg("marker", { id: "arrow", viewBox: "0 0 8 8", refX: "7", refY: "4", markerUnits: "userSpaceOnUse", markerWidth: "10", markerHeight: "10", orient: "auto-start-reverse" }, svg("path", { d: "M0 0.8L7.5 4L0 7.2z", fill: "context-stroke" })));
}

/** What the card below the graph says of a node. */
export function describeNode(item, model) {
  const { node, kind } = item;
  const labels = new Map(model.nodes.map((other) => [other.id, other.label]));
  const into = model.edges.filter((edge) => edge.target === node.id).map((edge) => labels.get(edge.source));
  const out = model.edges.filter((edge) => edge.source === node.id).map((edge) => labels.get(edge.target));
  const fields = Object.entries(node.event_schema?.properties ?? {});
  const card = h("div", { class: "node-facts" });
  replace(
    card,
    node.description || node.event_schema?.description ? h("p", { class: "hint" }, (node.description ?? node.event_schema.description).split("\n\n")[0]) : null,
    h("dl", {}, h("dt", {}, "kind"), h("dd", {}, kind), into.length ? [h("dt", {}, "from"), h("dd", {}, [...new Set(into)].join(", "))] : null, out.length ? [h("dt", {}, "to"), h("dd", {}, [...new Set(out)].join(", "))] : null, fields.length ? [h("dt", {}, "fields"), h("dd", {}, fields.map(([name, field]) => `${name}: ${field.type ?? field.$ref?.split("/").pop() ?? "any"}`).join(", "))] : null, node.type_name ? [h("dt", {}, "type"), h("dd", {}, node.type_name)] : null),
  );
  return card;
}
