// Several runs side by side: what each did, how long it took, and where they part.

import { h, icon, json, moment, replace, seconds } from "./dom.js";
import { GraphView } from "./graph.js";

/** How many runs fit beside each other; each one that goes on holds a connection of the browser. */
export const MOST = 4;

export class Comparison {
  constructor({ onremove, onopen }) {
    this.onremove = onremove;
    this.onopen = onopen;
    this.columns = new Map();
    this.table = h("div", { class: "compare-table" });
    this.strip = h("div", { class: "compare-columns" });
    this.element = h("div", { class: "compare" }, this.strip, this.table);
  }

  /** Show these runs over one workflow's graph; the first is what the others are held against. */
  show(runs, model, workflow) {
    for (const [id, column] of this.columns) {
      if (!runs.some((run) => run.id === id) || column.model !== model) {
        column.view?.close();
        column.element.remove();
        this.columns.delete(id);
      }
    }
    if (!runs.length) {
      replace(this.strip, h("p", { class: "empty" }, "Nothing to compare yet. Mark runs in the list with ", icon("compare"), " to see them side by side."));
      this.fillTables([]);
      return;
    }
    this.strip.querySelector(".empty")?.remove();
    for (const run of runs) {
      if (!this.columns.has(run.id)) this.columns.set(run.id, this.makeColumn(run, model, workflow));
      const column = this.columns.get(run.id);
      if (column.element.parentNode !== this.strip) this.strip.append(column.element);
      this.fillColumn(column, run);
    }
    this.fillTables(runs.length > 1 ? [stepTable(runs), eventTable(runs), resultTable(runs)] : []);
  }

  /** What says the same as before stays, with what is selected in it. */
  fillTables(tables) {
    tables.forEach((made, index) => {
      const old = this.table.children[index];
      if (!old) this.table.append(made);
      else if (!old.isEqualNode(made)) old.replaceWith(made);
    });
    while (this.table.children.length > tables.length) this.table.lastElementChild.remove();
  }

  makeColumn(run, model, workflow) {
    const view = model ? new GraphView(model, workflow, { small: true }) : null;
    const state = h("span", {});
    const facts = h("span", { class: "muted" });
    const head = h(
      "header",
      { class: "column-head" },
      h("button", { type: "button", class: "link", title: "Open this run", onclick: () => this.onopen(run.id) }, run.id),
      state,
      facts,
      h("button", { type: "button", class: "quiet small", "aria-label": `remove ${run.id} from the comparison`, onclick: () => this.onremove(run.id) }, icon("close")),
    );
    const element = h("section", { class: "column", "data-run": run.id, "aria-label": `run ${run.id}` }, head, view?.element);
    return { view, state, facts, element, model };
  }

  fillColumn(column, run) {
    replace(column.state, pill(run.status));
    column.facts.textContent = `${seconds(run.elapsed)} · ${run.events.filter((event) => !event.internal).length} events`;
    column.view?.show(run);
  }
}

export function pill(status) {
  return h("span", { class: `pill ${status}` }, status);
}

function difference(value, base, format) {
  if (base === null || value === null || value === base) return null;
  const more = value > base;
  return h("span", { class: `difference ${more ? "more" : "less"}` }, `${more ? "+" : "−"}${format(Math.abs(value - base))}`);
}

function table(caption, runs, rows) {
  return h(
    "table",
    {},
    h("caption", {}, caption),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, ""), runs.map((run) => h("th", { scope: "col" }, run.id)))),
    h("tbody", {}, rows),
  );
}

/** Steps by how often they ran and how long. */
function stepTable(runs) {
  const names = [...new Set(runs.flatMap((run) => [...run.steps.keys()]))];
  const total = h(
    "tr",
    {},
    h("th", { scope: "row" }, "whole run"),
    runs.map((run) => h("td", {}, seconds(run.elapsed), " ", run.isOver && runs[0].isOver ? difference(run.elapsed, runs[0].elapsed, seconds) : null)),
  );
  const rows = names.map((name) => {
    const found = runs.map((run) => run.steps.get(name) ?? null);
    const isSame = found.every((step) => step?.finished === found[0]?.finished);
    return h(
      "tr",
      { class: isSame ? null : "differs" },
      h("th", { scope: "row" }, name),
      found.map((step, index) => h("td", {}, step ? `${step.finished}× · ${seconds(step.seconds)} ` : "–", step && found[0] && index ? difference(step.seconds, found[0].seconds, seconds) : null)),
    );
  });
  return table("Steps: how often, how long", runs, [total, ...rows]);
}

/** Public events by type. */
function eventTable(runs) {
  const types = [...new Set(runs.flatMap((run) => [...run.counts.keys()]))];
  const rows = types.map((type) => {
    const counts = runs.map((run) => run.counts.get(type) ?? 0);
    return h("tr", { class: counts.every((count) => count === counts[0]) ? null : "differs" }, h("th", { scope: "row" }, type), counts.map((count, index) => h("td", {}, String(count), " ", index ? difference(count, counts[0], String) : null)));
  });
  return table("Events", runs, rows);
}

function resultTable(runs) {
  const ended = runs.map((run) => (run.isOver && run.handler?.result ? run.handler.result.value : null));
  const texts = runs.map((run, index) => run.handler?.error ?? (ended[index] ? JSON.stringify(ended[index]) : ""));
  const isSame = texts.every((text) => text === texts[0]);
  const row = (name, cells, differs) => h("tr", { class: differs ? "differs" : null }, h("th", { scope: "row" }, name), cells.map((cell) => h("td", {}, cell)));
  return table("Outcome", runs, [
    row("status", runs.map((run) => pill(run.status)), runs.some((run) => run.status !== runs[0].status)),
    row("started", runs.map((run) => moment(run.handler?.started_at)), false),
    row("result", runs.map((run, index) => (run.handler?.error ? h("p", { class: "failure-text" }, run.handler.error) : ended[index] ? json(ended[index]) : "–")), !isSame),
  ]);
}
