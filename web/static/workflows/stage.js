// The middle: the graph of the workflow with the selected run on it, or runs side by side.

import { h, icon, replace } from "./dom.js";
import { Comparison } from "./compare.js";
import { GraphView, describeNode, nameOf } from "./graph.js";

/** The scale at which names can still be read: a graph that is larger is shown from its top. */
const LEGIBLE = 0.5;

export class Stage {
  constructor(app, element, { onsend }) {
    this.app = app;
    this.onsend = onsend;
    this.view = null;
    this.model = null;
    this.comparison = new Comparison({ onremove: (id) => app.compare(id, false), onopen: (id) => app.select(id) });
    this.graphTab = h("button", { type: "button", role: "tab", id: "tab-graph", "aria-controls": "canvas", onclick: () => app.show("graph") }, "Graph");
    this.compareTab = h("button", { type: "button", role: "tab", id: "tab-compare", "aria-controls": "comparison", onclick: () => app.show("compare") });
    const tool = (name, label, act) => h("button", { type: "button", class: "quiet square small", "aria-label": label, title: label, onclick: act }, icon(name));
    this.tools = h(
      "div",
      { class: "graph-tools" },
      tool("minus", "zoom out", () => this.view?.zoom(0.8)),
      tool("plus", "zoom in", () => this.view?.zoom(1.25)),
      tool("fit", "fit the graph", () => this.view?.fit()),
      tool("tidy", "put the nodes back", () => this.view?.tidy()),
    );
    this.facts = h("div", { class: "node-card", hidden: true });
    this.canvas = h("div", { class: "canvas", id: "canvas", role: "tabpanel", "aria-labelledby": "tab-graph" });
    this.side = h("div", { class: "comparison", id: "comparison", role: "tabpanel", "aria-labelledby": "tab-compare" }, this.comparison.element);
    element.append(h("div", { class: "stage-head" }, h("div", { class: "tabs", role: "tablist", "aria-label": "middle" }, this.graphTab, this.compareTab), legend(), this.tools), this.canvas, this.side);
  }

  show() {
    const { app } = this;
    const model = app.current?.graph ?? null;
    const comparing = app.state.view === "compare";
    this.graphTab.setAttribute("aria-selected", String(!comparing));
    this.compareTab.setAttribute("aria-selected", String(comparing));
    this.compareTab.textContent = app.state.compare.length ? `Compare (${app.state.compare.length})` : "Compare";
    this.canvas.hidden = comparing;
    this.tools.hidden = comparing;
    this.side.hidden = !comparing;
    if (model !== this.model) this.draw(model);
    if (comparing) this.comparison.show(app.compared, model, app.state.workflow);
    else this.view?.show(app.run);
    if (this.selected && !this.facts.hidden) this.send.disabled = !this.canSend(this.selected);
  }

  draw(model) {
    this.view?.close();
    this.model = model;
    this.facts.hidden = true;
    if (!model) {
      this.view = null;
      replace(this.canvas, h("p", { class: "empty" }, this.app.failure ?? (this.app.state.workflow ? "" : "No workflow to draw.")));
      return;
    }
    this.view = new GraphView(model, this.app.state.workflow, { onselect: (item) => this.describe(item) });
    replace(this.canvas, this.view.element, this.facts);
    this.view.fit(LEGIBLE);
  }

  canSend(item) {
    const { run } = this.app;
    return Boolean(run && !run.isOver && item.node.node_type === "event" && item.kind !== "start" && item.kind !== "stop");
  }

  describe(item) {
    this.selected = item;
    this.facts.hidden = !item;
    if (!item) return;
    this.send = h("button", { type: "button", class: "small", onclick: () => this.onsend(nameOf(item.node)) }, "Send this event");
    this.send.disabled = !this.canSend(item);
    replace(
      this.facts,
      h("div", { class: "card-head" }, h("h3", {}, item.node.label), h("button", { type: "button", class: "quiet square small", "aria-label": "close", onclick: () => this.view.select(null) }, icon("close"))),
      describeNode(item, this.model),
      item.node.node_type === "event" ? this.send : null,
    );
  }
}

function legend() {
  const entries = [["running", "running"], ["done", "done"], ["waiting", "waits for a human"], ["failed", "failed"]];
  return h("ul", { class: "legend", "aria-label": "colours" }, entries.map(([tone, text]) => h("li", {}, h("span", { class: `dot ${tone}` }), text)));
}
