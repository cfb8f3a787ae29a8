// One run as the page knows it: a fold over its events, and what the server says of its end.

import * as api from "./api.js";

/** The class names in some step changes come as Python prints classes. */
function bare(name) {
  return name?.startsWith("<class '") ? name.slice(8, -2).split(".").pop() : name;
}

/** Milliseconds after which a server that did not answer is asked again. */
export const AGAIN = 2000;

export const ENDED = new Set(["completed", "failed", "cancelled"]);

export class Run {
  constructor(id, responses = new Set()) {
    this.id = id;
    this.responses = responses;
    this.handler = null;
    this.error = null;
    this.connection = "opening";
    this.listeners = new Set();
    this.stop = null;
    this.isLeft = false;
    this.reset();
  }

  reset() {
    this.events = [];
    this.steps = new Map();
    this.counts = new Map();
    this.edges = new Set();
    this.prompts = [];
    this.terminal = null;
    this.began = null;
    this.last = null;
    /** The jobs of steps that have an answer whose question is known. */
    this.answering = new Set();
    this.isIdle = false;
  }

  get status() {
    if (this.error) return "unknown";
    if (this.handler && ENDED.has(this.handler.status)) return this.handler.status;
    if (this.terminal) {
      const ends = { WorkflowFailedEvent: "failed", WorkflowTimedOutEvent: "failed", WorkflowCancelledEvent: "cancelled" };
      return ends[this.terminal.type] ?? "completed";
    }
    if (this.prompts.length || this.isIdle) return "waiting";
    return this.handler?.status ?? "opening";
  }

  get isOver() {
    return this.terminal !== null || ENDED.has(this.handler?.status);
  }

  /** Seconds from its start to its end, or to now. */
  get elapsed() {
    if (!this.handler?.started_at) return null;
    const end = this.handler.completed_at ? new Date(this.handler.completed_at) : new Date();
    return Math.max(0, (end - new Date(this.handler.started_at)) / 1000);
  }

  /** Look at the run and follow it to its end. */
  async open() {
    try {
      this.handler = await api.handler(this.id);
      this.error = null;
    } catch (error) {
      if (this.isLeft) return;
      this.error = error;
      this.connection = "closed";
      if (error.status === 0 || error.status >= 500) this.later = setTimeout(() => this.open(), AGAIN);
      this.tell();
      return;
    }
    if (this.isLeft) return; // another run was chosen before the answer came: nobody would stop the stream
    this.connection = "opening";
    this.stop?.();
    this.reset();
    this.stop = api.follow(
      this.id,
      (envelope, sequence) => this.take(envelope, sequence),
      (state) => this.noteConnection(state),
    );
    this.tell();
  }

  close() {
    this.isLeft = true;
    clearTimeout(this.later);
    this.stop?.();
    this.stop = null;
    this.listeners.clear();
  }

  noteConnection(state) {
    this.connection = state;
    if (state === "closed") this.settle();
    this.tell();
  }

  async settle() {
    try {
      this.handler = await api.handler(this.id);
    } catch (error) {
      if (error.status === 404) this.error = error;
    }
    this.tell();
  }

  take(envelope, sequence) {
    if (sequence !== null && this.last !== null && sequence <= this.last) return;
    this.last = sequence ?? (this.last ?? -1) + 1;
    const at = envelope.at ? new Date(envelope.at).getTime() : Date.now();
    this.began ??= this.handler?.started_at ? new Date(this.handler.started_at).getTime() : at;
    const event = { ...envelope, sequence: this.last, at, offset: Math.max(0, (at - this.began) / 1000) };
    event.internal = api.isA(envelope, "InternalDispatchEvent");
    this.events.push(event);
    this.isIdle = envelope.type === "WorkflowIdleEvent";
    if (envelope.type === "StepStateChanged") this.noteStep(envelope.value, at, envelope.job ?? null);
    else if (envelope.type === "QuestionAnswered") this.noteAnswered(envelope.value);
    else if (!event.internal) this.noteEvent(event);
    this.tell();
  }

  noteEvent(event) {
    this.counts.set(event.type, (this.counts.get(event.type) ?? 0) + 1);
    if (api.isA(event, "InputRequiredEvent")) {
      this.prompts.push(event);
      this.edges.add(`${event.type}→external_step`);
    }
    if (api.isStop(event)) {
      this.terminal = event;
      this.prompts = [];
      for (const step of this.steps.values()) {
        step.workers.clear();
        step.queued.clear();
      }
    }
  }

  noteStep(change, at, job) {
    const step = this.step(change.name);
    const input = bare(change.input_event_name);
    const output = bare(change.output_event_name);
    if (change.step_state === "preparing") {
      step.queued.add(job);
      return;
    }
    if (change.step_state === "running") {
      step.queued.delete(job);
      if (step.asking.delete(job)) {
        step.started -= 1; // it is the same job that goes on
        step.finished -= 1;
      }
      step.started += 1;
      step.workers.set(change.worker_id, { at, input });
      this.edges.add(`${input}→${change.name}`);
      this.noteAnswer(input, job);
      return;
    }
    const worker = step.workers.get(change.worker_id);
    step.workers.delete(change.worker_id);
    step.finished += 1;
    if (job !== null && this.prompts.some((prompt) => prompt.job === job)) step.asking.add(job);
    if (worker) step.seconds += Math.max(0, (at - worker.at) / 1000);
    if (output && output !== "NoneType") this.edges.add(`${change.name}→${output}`);
  }

  step(name) {
    if (!this.steps.has(name)) {
      this.steps.set(name, { name, started: 0, finished: 0, queued: new Set(), seconds: 0, workers: new Map(), asking: new Set() });
    }
    return this.steps.get(name);
  }

  /**
   * A step took something up: perhaps what a human has answered. A job that asked and begins again
   * has its answer; what was asked by returning it is answered when a step takes an answer: the
   * oldest question, of an answer whose sender did not say which one.
   */
  noteAnswer(input, job) {
    const left = this.prompts.filter((prompt) => prompt.job === undefined || prompt.job !== job);
    const isAnswer = this.responses.has(input);
    if (isAnswer && !this.answering.has(job) && left.length === this.prompts.length) {
      left.splice(Math.max(left.findIndex((prompt) => prompt.job === undefined), 0), 1);
    }
    this.prompts = left;
    if (isAnswer) this.edges.add(`external_step→${input}`);
  }

  /** An answer has come, from whoever looks at this run, that says which question it is for. */
  noteAnswered({ question, event_type: type, jobs }) {
    this.prompts = this.prompts.filter((prompt) => prompt.sequence !== question);
    for (const job of jobs) this.answering.add(job);
    this.edges.add(`external_step→${type}`);
  }

  tell() {
    for (const listener of this.listeners) listener(this);
  }
}
