// The left side: which workflow, its start form, and its runs.

import { h, icon, moment, reconcile, replace, seconds } from "./dom.js";
import { pill } from "./compare.js";
import { makeForm } from "./forms.js";

/** What a chip asks for, by what stands on it. */
const CHIPS = { running: ["running", "queued", "paused"], waiting: ["waiting"], completed: ["completed"], failed: ["failed"], cancelled: ["cancelled"] };

export class Side {
  constructor(app, element) {
    this.app = app;
    this.shown = null;
    this.picker = h("select", { id: "workflow", "aria-label": "workflow", onchange: () => app.pick(this.picker.value) });
    this.about = h("p", { class: "hint about" });
    this.form = h("form", { class: "start", id: "start", novalidate: false, onsubmit: (event) => this.submit(event) });
    this.error = h("p", { class: "error", role: "alert", hidden: true });
    this.list = h("ul", { class: "runs", "aria-label": "runs" });
    this.more = h("button", { type: "button", class: "quiet small wide", hidden: true, onclick: () => app.loadMore() }, "Older runs");
    this.empty = h("p", { class: "empty" });
    this.filters = Object.keys(CHIPS).map((status) =>
      h("button", { type: "button", class: "chip", "data-status": status, "aria-pressed": "false", onclick: () => this.toggle(CHIPS[status]) }, status),
    );
    const refresh = h("button", { type: "button", class: "quiet square small", "aria-label": "look again", title: "Look again", onclick: () => app.refresh() }, icon("refresh"));
    element.append(
      h("section", { class: "card" }, h("label", { for: "workflow", class: "heading" }, "Workflow"), this.picker, this.about),
      h("section", { class: "card" }, this.form),
      h("section", { class: "card grow" }, h("div", { class: "card-head" }, h("h2", {}, "Runs"), refresh), h("div", { class: "chips", role: "group", "aria-label": "only runs that are" }, this.filters), this.empty, this.list, this.more),
    );
  }

  toggle(chosen) {
    const { statuses } = this.app.list;
    this.app.filter(statuses.includes(chosen[0]) ? statuses.filter((other) => !chosen.includes(other)) : [...statuses, ...chosen]);
  }

  async submit(event) {
    event.preventDefault();
    const { button, shown } = this;
    if (button.disabled) return; // the keyboard submits without asking the button
    let value;
    try {
      value = this.fields.read();
    } catch {
      return;
    }
    this.error.hidden = true;
    button.disabled = true;
    try {
      await this.app.start(value);
    } catch (error) {
      if (shown !== this.shown) {
        this.app.toast(error.message, "failed");
        return;
      }
      this.error.textContent = error.message;
      this.error.hidden = false;
    } finally {
      button.disabled = false;
    }
  }

  show() {
    const { app } = this;
    if (this.picker.options.length !== app.names.length) replace(this.picker, app.names.map((name) => h("option", { value: name }, name)));
    if (app.state.workflow) this.picker.value = app.state.workflow;
    if (!app.current) this.showNothing();
    else if (this.shown !== app.current) this.showWorkflow(app.current);
    if (!app.names.length) this.about.textContent = app.failure ?? (app.isKnown ? "This server serves no workflows yet: give it a module that defines some." : "Looking…");
    this.showRuns();
  }

  /** Not the form of the workflow before this one: what is typed into it would be for nobody. */
  showNothing() {
    const { state, unread } = this.app;
    const reason = unread.get(state.workflow);
    const shown = reason ?? "Looking…";
    if (!state.workflow || this.shown === shown) return;
    this.shown = shown;
    this.about.textContent = "";
    this.about.hidden = true;
    const again = h("button", { type: "button", class: "wide", onclick: () => this.app.enter() }, icon("refresh"), "Look again");
    replace(this.form, h("p", { class: reason ? "error" : "empty" }, shown), reason ? again : null);
  }

  showWorkflow(about) {
    this.shown = about;
    const { schema, graph } = about;
    this.about.textContent = graph.description?.split("\n\n")[0] ?? graph.name ?? "";
    this.about.hidden = !this.about.textContent;
    this.fields = makeForm(schema.start);
    this.button = h("button", { class: "primary wide", type: "submit" }, icon("play"), "Run");
    this.error.hidden = true;
    const title = schema.start?.title ?? "StartEvent";
    replace(this.form, h("div", { class: "card-head" }, h("h2", {}, "Start ", h("code", {}, title)), this.fields.mode), this.fields.element, this.error, this.button);
  }

  showRuns() {
    const { list, state } = this.app;
    this.filters.forEach((button) => button.setAttribute("aria-pressed", String(list.statuses.includes(button.dataset.status))));
    reconcile(this.list, list.handlers.map((handler) => this.row(handler, state)));
    this.more.hidden = !list.cursor;
    this.empty.hidden = list.handlers.length > 0;
    this.empty.textContent = list.error ?? (list.loading ? "Looking…" : list.statuses.length ? "No such runs." : this.app.names.length ? "No runs yet. Start one above." : "");
  }

  row(handler, state) {
    const { app } = this;
    const id = handler.handler_id;
    const run = app.runs.get(id);
    const status = run && run.status !== "opening" ? run.status : handler.run_status;
    const took = handler.completed_at ? seconds((new Date(handler.completed_at) - new Date(handler.started_at)) / 1000) : "";
    const marked = state.compare.includes(id);
    const current = state.run === id;
    const make = () => h(
      "li",
      { class: `run-row${current ? " current" : ""}`, "data-run": id },
      h("button", { type: "button", class: "run-open", "aria-current": current ? "true" : null, onclick: () => app.select(id) }, h("span", { class: "run-id" }, id), pill(status), h("span", { class: "muted run-when" }, moment(handler.started_at), took ? ` · ${took}` : "")),
      h("button", { type: "button", class: `quiet square small mark${marked ? " marked" : ""}`, "aria-pressed": String(marked), "aria-label": `compare ${id}`, title: "Side by side", onclick: () => app.compare(id) }, icon("compare")),
    );
    return { id, key: [handler.run_id, status, handler.started_at, took, marked, current].join(" "), make };
  }

  focusForm() {
    this.form.querySelector("input, select, textarea, button.primary")?.focus();
  }
}
