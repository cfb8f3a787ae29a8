// The event log of a run: what came, when, and its content on demand.

import { h, icon, json, replace, seconds } from "./dom.js";

const SHOWN = 400;

/** A short text of what an event carries. */
function summary(event) {
  const value = event.value ?? {};
  if (event.type === "StepStateChanged") return `${value.name} ${value.step_state?.replace("_", " ")}`;
  if (event.type === "WorkflowFailedEvent") {
    const { exception_type: kind = "", exception_message: message = "" } = value.exception ?? {};
    return cut(`${value.step_name}: ${kind.split(".").pop()}: ${message}`);
  }
  const parts = Object.entries({ ...value._data, ...value, _data: undefined })
    .filter(([, content]) => content !== undefined)
    .map(([key, content]) => `${key}: ${typeof content === "string" ? content : JSON.stringify(content)}`);
  return cut(parts.join(", "));
}

function cut(text) {
  return text.length > 140 ? `${text.slice(0, 139)}…` : text;
}

/** How an event is coloured. */
function tone(event, isA) {
  if (event.internal) return "internal";
  if (/^Workflow(Failed|TimedOut)Event$/.test(event.type)) return "failed";
  if (isA(event, "StopEvent")) return "stop";
  if (isA(event, "InputRequiredEvent")) return "question";
  return "public";
}

export class EventLog {
  constructor(isA) {
    this.isA = isA;
    this.internal = false;
    this.filter = "";
    this.open = new Set();
    this.limit = SHOWN;
    this.rendered = 0;
    this.run = null;
    this.list = h("ol", { class: "log", "aria-label": "events", tabindex: "-1" });
    this.more = h("button", { type: "button", class: "quiet small", hidden: true, onclick: () => this.showMore() }, "Show earlier events");
    this.empty = h("p", { class: "empty" });
    this.search = h("input", { type: "search", class: "search", id: "event-filter", placeholder: "Filter events", "aria-label": "filter events", oninput: () => this.setFilter(this.search.value) });
    const internal = h("input", { type: "checkbox", id: "show-internal", onchange: () => this.setInternal(internal.checked) });
    this.tools = h("div", { class: "log-tools" }, this.search, h("label", { class: "toggle", for: "show-internal" }, internal, "internal"));
    this.element = h("div", { class: "log-box" }, this.tools, this.more, this.empty, this.list);
  }

  setFilter(text) {
    this.filter = text.toLowerCase();
    this.redraw();
  }

  setInternal(wanted) {
    this.internal = wanted;
    this.redraw();
  }

  showMore() {
    this.limit *= 4;
    this.redraw();
  }

  /** Show a run's events; cheap when only some were added. */
  show(run) {
    if (run !== this.run || run?.events.length < this.rendered) {
      this.run = run;
      this.limit = SHOWN;
      this.open.clear();
      this.redraw();
      return;
    }
    if (run.events.length === this.rendered) {
      this.say();
      return;
    }
    const atEnd = this.isAtEnd();
    for (const event of run.events.slice(this.rendered)) if (this.wants(event)) this.list.append(this.row(event));
    this.rendered = run.events.length;
    while (this.list.children.length > this.limit) {
      this.list.firstElementChild.remove();
      this.more.hidden = false;
    }
    this.say();
    if (atEnd) this.scrollToEnd();
  }

  redraw() {
    const wanted = this.run ? this.run.events.filter((event) => this.wants(event)) : [];
    replace(this.list, wanted.slice(-this.limit).map((event) => this.row(event)));
    this.more.hidden = wanted.length <= this.limit;
    this.rendered = this.run?.events.length ?? 0;
    this.say();
    this.scrollToEnd();
  }

  say() {
    const nothing = this.list.children.length === 0;
    this.empty.hidden = !nothing;
    const filtered = this.filter || (this.run?.events.length ?? 0) > 0;
    this.empty.textContent = filtered ? "No event matches." : "No events yet: they appear here as the run sends them.";
    if (nothing && this.run?.events.length && !this.internal && !this.filter) this.empty.textContent = "Only internal events so far; tick “internal” to see them.";
  }

  wants(event) {
    if (event.internal && !this.internal) return false;
    return !this.filter || `${event.type} ${JSON.stringify(event.value)}`.toLowerCase().includes(this.filter);
  }

  row(event) {
    const content = h("div", { class: "log-content", hidden: true });
    const toggle = () => {
      const open = content.hidden;
      if (open && !content.childElementCount) replace(content, json(event.value), event.qualified_name ? h("p", { class: "hint" }, event.qualified_name) : null);
      content.hidden = !open;
      button.setAttribute("aria-expanded", String(open));
      if (open) this.open.add(event.sequence);
      else this.open.delete(event.sequence);
    };
    const button = h(
      "button",
      { type: "button", class: "log-line", "aria-expanded": "false", onclick: toggle },
      h("span", { class: "log-sequence" }, `#${event.sequence}`),
      h("span", { class: "log-type" }, event.type),
      h("span", { class: "log-time", title: new Date(event.at).toLocaleString() }, `+${seconds(event.offset)}`),
      h("span", { class: "log-summary" }, summary(event)),
    );
    const row = h("li", { class: `log-item ${tone(event, this.isA)}`, "data-type": event.type }, button, content);
    if (this.open.has(event.sequence)) toggle();
    return row;
  }

  isAtEnd() {
    return this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 40;
  }

  scrollToEnd() {
    this.list.scrollTop = this.list.scrollHeight;
  }
}

/** What a run came to. */
export function showResult(run) {
  const handler = run.handler;
  if (run.error) return h("p", { class: "empty" }, run.error.message);
  if (!handler || !run.isOver) return h("p", { class: "empty" }, "The result appears here when the run ends.");
  const facts = [
    ["handler", handler.handler_id],
    ["run", handler.run_id],
    ["started", handler.started_at ? new Date(handler.started_at).toLocaleString() : "–"],
    ["took", seconds(run.elapsed)],
  ];
  return h(
    "div",
    { class: "result" },
    handler.error ? h("div", { class: "failure" }, icon("alert"), h("p", {}, handler.error)) : null,
    handler.result ? [h("h3", {}, handler.result.type), json(handler.result.value)] : null,
    h("dl", {}, facts.map(([name, text]) => [h("dt", {}, name), h("dd", {}, text ?? "–")])),
  );
}
