// What the page shows and knows; the views draw it and call its verbs.

import * as api from "./api.js";
import * as location from "./location.js";
import { MOST } from "./compare.js";
import { AGAIN, Run } from "./run.js";
import { kindOf } from "./graph.js";
import { h, icon } from "./dom.js";

const PAGE = 30;
/** The most that the server answers at once. */
const LONGEST_PAGE = 1000;
const NO_RUNS = { handlers: [], cursor: null, wanted: PAGE, error: null };

function paneOf(state) {
  return state.view === "compare" ? "graph" : state.run ? "run" : "start";
}

export class App {
  constructor() {
    this.state = location.read();
    this.names = [];
    this.isKnown = false;
    this.about = new Map();
    /** Why nothing is known of a workflow. */
    this.unread = new Map();
    this.runs = new Map();
    this.list = { ...NO_RUNS, statuses: [], loading: false };
    /** Which answer for the list is waited for. */
    this.asked = 0;
    this.listeners = new Set();
    this.pane = paneOf(this.state);
    this.frame = null;
  }

  /** Call back after anything has changed, once a frame at most. */
  subscribe(listener) {
    this.listeners.add(listener);
  }

  tell() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      for (const listener of this.listeners) listener(this);
    });
  }

  get current() {
    return this.about.get(this.state.workflow) ?? null;
  }

  get run() {
    return this.state.run ? (this.runs.get(this.state.run) ?? null) : null;
  }

  get compared() {
    return this.state.compare.map((id) => this.runs.get(id)).filter(Boolean);
  }

  /** Learn what there is and enter; once at a time, though a new key may ask for it, too. */
  boot() {
    this.booting ??= this.begin().finally(() => {
      this.booting = null;
    });
    return this.booting;
  }

  async begin() {
    try {
      this.names = await api.workflows();
      this.failure = null;
      this.isKnown = true;
    } catch (error) {
      this.failure = error.status === 401 ? "This server asks for an API key: give one by the lock above (K)." : error.message;
      if (error.status !== 401) setTimeout(() => this.boot(), AGAIN);
      this.tell();
      return;
    }
    if (!this.state.workflow && this.state.run) await this.findWorkflow(this.state.run);
    if (!this.names.includes(this.state.workflow)) {
      if (this.state.workflow) this.toast(`There is no workflow “${this.state.workflow}” here.`, "failed");
      this.state.workflow = this.names[0] ?? null;
    }
    await this.enter();
  }

  /** Look at everything again, with another key than before. */
  async retry() {
    for (const run of this.runs.values()) if (!run.isOver && run.connection === "closed") run.open();
    await this.boot();
  }

  async findWorkflow(id) {
    try {
      this.state.workflow = (await api.handler(id)).workflow_name;
    } catch {
      // The run's own panel says what is wrong with it.
    }
  }

  /** To where the address leads now: the back button. */
  async goTo(state) {
    if (state.workflow !== this.state.workflow) this.emptyList();
    this.state = state;
    this.state.workflow ??= this.names[0] ?? null;
    this.pane = paneOf(state);
    await this.enter();
  }

  /** Nothing is known of the runs until the server has said. */
  emptyList() {
    Object.assign(this.list, NO_RUNS, { loading: true });
    this.asked += 1;
  }

  /** After a change of the address. */
  async enter() {
    location.write(this.state);
    await this.learn(this.state.workflow);
    for (const id of this.state.compare) this.open(id);
    if (this.state.run) this.open(this.state.run);
    this.tidyRuns();
    this.tell();
    await this.refresh();
  }

  /** Everything about a workflow that forms and graph need. */
  async learn(workflow) {
    if (!workflow || this.about.has(workflow)) return;
    this.unread.delete(workflow);
    this.tell();
    try {
      const [schema, graph, events] = await Promise.all([api.schema(workflow), api.graph(workflow), api.eventSchemas(workflow)]);
      const typesOf = new Map(graph.nodes.filter((node) => node.node_type === "event").map((node) => [node.id, node.event_types ?? [node.id]]));
      const answers = graph.nodes.filter((node) => kindOf(node) === "answer").map((node) => node.id);
      // What a step waits for in its middle need not be declared: the graph knows it, too.
      const titles = new Set(events.map((event) => event.title));
      const waited = graph.nodes.filter((node) => kindOf(node) === "answer" && node.event_schema && !titles.has(node.event_schema.title));
      events.push(...waited.map((node) => node.event_schema));
      const declared = events.map((event) => event.title).filter((title) => /Response/.test(title) && !answers.includes(title));
      this.about.set(workflow, { schema, graph, events, typesOf, answers: [...answers, ...declared] });
    } catch (error) {
      this.unread.set(workflow, error.message);
      this.toast(error.message, "failed");
    }
  }

  // -- verbs --------------------------------------------------------------------------------------

  async pick(workflow) {
    if (workflow === this.state.workflow) return;
    Object.assign(this.state, { workflow, run: null, compare: [], view: "graph" });
    this.emptyList();
    location.write(this.state, true);
    await this.enter();
  }

  select(id) {
    this.state.run = id;
    if (this.state.view === "compare" && !this.state.compare.includes(id)) this.state.view = "graph";
    location.write(this.state, true);
    this.open(id);
    this.tidyRuns();
    this.pane = "run";
    this.tell();
  }

  show(view) {
    this.state.view = view;
    this.pane = "graph";
    location.write(this.state, true);
    this.tell();
  }

  showTab(tab) {
    this.state.tab = tab;
    this.pane = "run";
    location.write(this.state);
    this.tell();
  }

  showPane(pane) {
    this.pane = pane;
    this.tell();
  }

  compare(id, wanted = !this.state.compare.includes(id)) {
    const rest = this.state.compare.filter((other) => other !== id);
    if (wanted && rest.length >= MOST) {
      this.toast(`At most ${MOST} runs fit side by side.`, "failed");
      return;
    }
    this.state.compare = wanted ? [...rest, id] : rest;
    if (wanted) this.open(id);
    if (!this.state.compare.length && this.state.view === "compare") this.state.view = "graph";
    location.write(this.state);
    this.tidyRuns();
    this.tell();
  }

  async start(event) {
    const { workflow } = this.state;
    const handler = await api.start(workflow, event);
    // Who has gone on to another workflow meanwhile stays there.
    if (workflow === this.state.workflow) this.select(handler.handler_id);
    this.toast(`Run ${handler.handler_id} of ${workflow} started.`);
    await this.refresh();
  }

  async send(run, type, value, step, answers) {
    await api.send(run.id, { type, value }, step || undefined, answers);
    this.toast(`${type} was sent and is stored.`);
    this.tell();
  }

  async cancel(run) {
    try {
      await api.cancel(run.id);
      this.toast(`Run ${run.id} is cancelled.`);
    } catch (error) {
      this.toast(error.message, "failed");
    }
    await run.settle();
    await this.refresh();
  }

  async purge(run) {
    try {
      await api.purge(run.id);
    } catch (error) {
      this.toast(error.message, "failed");
      return;
    }
    this.toast(`Run ${run.id} and everything about it is deleted.`);
    this.compare(run.id, false);
    run.close();
    this.runs.delete(run.id);
    if (this.state.run === run.id) this.state.run = null;
    location.write(this.state, true);
    this.tell();
    await this.refresh();
  }

  /** Look at the runs again, as many as are shown. */
  async refresh() {
    await this.load(null);
  }

  async loadMore() {
    this.list.wanted = Math.min(this.list.handlers.length + PAGE, LONGEST_PAGE);
    await this.load(this.list.cursor);
  }

  async filter(statuses) {
    Object.assign(this.list, { statuses, wanted: PAGE });
    await this.refresh();
  }

  async load(cursor) {
    const { workflow } = this.state;
    if (!workflow) return;
    const asked = (this.asked += 1);
    this.list.loading = true;
    this.tell();
    try {
      const page = await api.handlers(workflow, this.list.statuses, cursor, cursor ? PAGE : this.list.wanted);
      if (asked !== this.asked) return; // something else has been asked for since
      const found = page.handlers;
      this.list.handlers = cursor ? [...this.list.handlers, ...found] : found;
      this.list.cursor = page.next_cursor ?? null;
      this.list.error = null;
    } catch (error) {
      if (asked === this.asked) this.list.error = error.message;
    } finally {
      if (asked === this.asked) this.list.loading = false;
      this.tell();
    }
  }

  // -- runs that are open -------------------------------------------------------------------------

  open(id) {
    if (this.runs.has(id)) return;
    const run = new Run(id, new Set([...(this.current?.answers ?? []), "HumanResponseEvent"]));
    this.runs.set(id, run);
    let was = false;
    run.listeners.add(() => {
      if (id === this.state.run) this.follow(run);
      if (run.isOver && !was) {
        was = true;
        this.noteEnd(run);
      } else if (!run.isOver && run.handler) this.noteStatus(run);
      this.tell();
    });
    run.open();
  }

  /** A link may name a run and another workflow: the run counts. */
  follow(run) {
    const workflow = run.handler?.workflow_name;
    if (!workflow || workflow === this.state.workflow || !this.names.includes(workflow)) return;
    this.emptyList();
    this.state.workflow = workflow;
    this.enter();
  }

  /** The list goes on saying it when another run is looked at. */
  noteStatus(run) {
    const known = this.list.handlers.find((handler) => handler.handler_id === run.id);
    if (known && known.run_id === run.handler.run_id) known.run_status = run.status;
  }

  noteEnd(run) {
    const known = this.list.handlers.find((handler) => handler.handler_id === run.id);
    if (known && run.handler) Object.assign(known, run.handler);
    if (!known || known.status === "running") this.refresh();
  }

  /** A browser has six connections for a server: only what is shown is followed. */
  tidyRuns() {
    const wanted = new Set([this.state.run, ...this.state.compare]);
    for (const [id, run] of this.runs) {
      if (!wanted.has(id)) {
        run.close();
        this.runs.delete(id);
      }
    }
  }

  toast(text, tone = "") {
    const box = h("div", { class: `toast ${tone}` }, tone === "failed" ? icon("alert") : null, text);
    const toasts = document.getElementById("toasts");
    if (tone !== "failed") toasts.querySelectorAll(".toast:not(.failed)").forEach((old) => old.remove());
    toasts.append(box);
    setTimeout(() => box.remove(), tone === "failed" ? 8000 : 3000);
  }
}
