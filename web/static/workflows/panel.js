// The right side: the selected run, what it asks of a human, its events, and sending it one.

import * as api from "./api.js";
import { h, icon, json, replace, seconds } from "./dom.js";
import { choicesOf, makeForm } from "./forms.js";
import { EventLog, showResult } from "./log.js";
import { pill } from "./compare.js";

const TABS = [
  ["events", "Events"],
  ["send", "Send"],
  ["result", "Result"],
];

function questions(run) {
  return run.prompts.length > 1 ? ` (${run.prompts.length} questions)` : "";
}

/** What a question carries, as pairs of names and values. */
function contentOf(prompt) {
  return Object.entries({ ...prompt.value?._data, ...prompt.value, _data: undefined }).filter(([, value]) => value !== undefined);
}

function textOf(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** The fields of an answer that its question has, too: who is asked, which item is meant. */
function shared(prompt, schema) {
  const fields = Object.keys(schema?.properties ?? {});
  return Object.fromEntries(contentOf(prompt).filter(([name, value]) => fields.includes(name) && value !== null && value !== ""));
}

export class Panel {
  constructor(app, element) {
    this.app = app;
    this.log = new EventLog(api.isA);
    this.head = h("header", { class: "run-head" });
    this.prompt = h("div", { class: "prompts", "aria-live": "polite" });
    this.prompted = null;
    /** The sequence of the question that is being answered. */
    this.chosen = null;
    this.sendKey = null;
    this.send = h("div", { class: "tab-body", role: "tabpanel", id: "pane-send", "aria-labelledby": "tab-send" });
    this.result = h("div", { class: "tab-body", role: "tabpanel", id: "pane-result", "aria-labelledby": "tab-result" });
    this.events = h("div", { class: "tab-body", role: "tabpanel", id: "pane-events", "aria-labelledby": "tab-events" }, this.log.element);
    this.tabs = TABS.map(([name, label]) =>
      h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `pane-${name}`, "data-tab": name, onclick: () => app.showTab(name), onkeydown: (event) => this.moveTab(event, name) }, label),
    );
    this.empty = h("div", { class: "nothing" }, h("h2", {}, "No run selected"), h("p", {}, "Start one, or pick one from the list. Its events, its result and what it asks of you appear here."));
    this.body = h("div", { class: "run-body" }, this.head, this.prompt, h("div", { class: "tabs", role: "tablist", "aria-label": "about the run" }, this.tabs), this.events, this.send, this.result);
    element.append(this.empty, this.body);
    this.confirming = null;
  }

  moveTab(event, name) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const index = (TABS.findIndex(([other]) => other === name) + step + TABS.length) % TABS.length;
    this.app.showTab(TABS[index][0]);
    this.tabs[index].focus();
  }

  show() {
    const { run, state } = this.app;
    this.empty.hidden = Boolean(run);
    this.body.hidden = !run;
    if (!run) return;
    this.showHead(run);
    this.showPrompt(run);
    for (const tab of this.tabs) {
      const chosen = tab.dataset.tab === state.tab;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    this.events.hidden = state.tab !== "events";
    this.send.hidden = state.tab !== "send";
    this.result.hidden = state.tab !== "result";
    this.log.show(run);
    if (state.tab === "send") this.showSend(run);
    const key = `${run.id} ${run.isOver} ${run.handler?.completed_at} ${run.error}`;
    if (state.tab === "result" && this.resultKey !== key) {
      this.resultKey = key;
      replace(this.result, showResult(run));
    }
  }

  showHead(run) {
    const { app } = this;
    const key = `${run.id} ${run.status} ${run.connection} ${this.confirming} ${app.state.compare.includes(run.id)}`;
    if (this.headKey === key) {
      this.elapsed.textContent = seconds(run.elapsed);
      return;
    }
    this.headKey = key;
    this.elapsed = h("span", { class: "muted", id: "elapsed" }, seconds(run.elapsed));
    const lost = run.connection === "lost" ? h("span", { class: "pill waiting" }, "reconnecting…") : null;
    const marked = app.state.compare.includes(run.id);
    const held = document.activeElement?.closest(".run-tools button")?.dataset.verb;
    replace(
      this.head,
      h("div", { class: "run-title" }, h("h2", { class: "run-name" }, run.id), pill(run.status), this.elapsed, lost),
      h(
        "div",
        { class: "run-tools" },
        run.error ? null : this.danger(run.isOver ? "delete" : "cancel", run),
        run.error ? null : h("button", { type: "button", class: "quiet small", "data-verb": "compare", "aria-pressed": String(marked), onclick: () => app.compare(run.id) }, icon("compare"), marked ? "Compared" : "Compare"),
      ),
      run.error ? h("p", { class: "failure" }, icon("alert"), run.error.message) : null,
    );
    // Who was about to confirm goes on, whatever has changed about the run meanwhile.
    if (held) this.head.querySelector(`[data-verb=${held}]`)?.focus();
  }

  /** Cancel and delete ask once more, in place. */
  danger(verb, run) {
    const act = () => {
      if (this.confirming !== verb) {
        this.confirming = verb;
        this.show();
        this.head.querySelector(".danger")?.focus();
        return;
      }
      this.confirming = null;
      if (verb === "cancel") this.app.cancel(run);
      else this.app.purge(run);
    };
    const name = verb === "cancel" ? "Cancel" : "Delete";
    const sure = this.confirming === verb;
    return h(
      "button",
      { type: "button", class: `small danger${sure ? " sure" : " quiet"}`, "data-verb": verb, onclick: act, onblur: () => setTimeout(() => this.calmDown(verb), 200) },
      icon(verb === "cancel" ? "stop" : "trash"),
      sure ? `${name} for good?` : name,
    );
  }

  calmDown(verb) {
    if (this.confirming === verb && !this.head.contains(document.activeElement)) {
      this.confirming = null;
      this.show();
    }
  }

  // -- what the run asks --------------------------------------------------------------------------

  showPrompt(run) {
    const prompts = run.isOver ? [] : run.prompts;
    const prompt = prompts.find((other) => other.sequence === this.chosen) ?? prompts[0] ?? null;
    this.chosen = prompt?.sequence ?? null;
    const key = prompt ? `${run.id} ${prompt.sequence} ${this.app.current !== null}` : null;
    if (key === this.prompted) {
      if (key) this.showQuestions(run); // an answer that is being typed stays
      return;
    }
    this.prompted = key;
    if (!prompt) {
      replace(this.prompt);
      return;
    }
    this.waiting = h("span", {});
    this.choice = h("div", { class: "question-choice", role: "group", "aria-label": "which question to answer" });
    this.choiceKey = null;
    const text = contentOf(prompt);
    replace(
      this.prompt,
      h(
        "section",
        { class: "prompt", "aria-label": "the run waits for you" },
        h("h3", {}, icon("human"), h("span", {}, "This run waits for you", this.waiting)),
        this.choice,
        text.length ? text.map(([name, value]) => h("p", { class: "question" }, text.length > 1 ? h("span", { class: "muted" }, `${name}: `) : null, textOf(value))) : h("p", { class: "question" }, prompt.type),
        this.answerForm(run, prompt),
      ),
    );
    this.showQuestions(run);
  }

  /** How many there are, and with several of them which one is being answered. */
  showQuestions(run) {
    this.waiting.textContent = questions(run);
    const { prompts } = run;
    const key = `${this.chosen} ${prompts.map((prompt) => prompt.sequence)}`;
    if (key === this.choiceKey) return;
    this.choiceKey = key;
    const held = this.choice.contains(document.activeElement);
    const choose = (prompt) => {
      this.chosen = prompt.sequence;
      this.showPrompt(run);
      this.choice.querySelector("[aria-pressed=true]")?.focus();
    };
    const button = (prompt) => {
      const text = contentOf(prompt).map(([, value]) => textOf(value)).join(" · ") || prompt.type;
      const current = prompt.sequence === this.chosen;
      return h("button", { type: "button", class: "question-tab", "data-sequence": String(prompt.sequence), "aria-pressed": String(current), title: text.slice(0, 400), onclick: () => choose(prompt) }, h("span", { class: "log-sequence" }, `#${prompt.sequence}`), h("span", { class: "question-text" }, text.slice(0, 120)));
    };
    replace(this.choice, prompts.length > 1 ? prompts.map(button) : []);
    if (held) this.choice.querySelector("[aria-pressed=true]")?.focus();
  }

  answerForm(run, prompt) {
    const answers = this.app.current?.answers ?? [];
    const types = answers.length ? answers : ["HumanResponseEvent"];
    const box = h("div", { class: "answer" });
    const show = (type) => replace(box, this.eventForm(run, type, { label: "Send answer", blank: "response", prompt }));
    show(types[0]);
    if (types.length === 1) return box;
    const select = h("select", { "aria-label": "kind of answer", onchange: () => show(select.value) }, types.map((type) => h("option", { value: type }, type)));
    return h("div", {}, select, box);
  }

  schemaOf(type) {
    return this.app.current?.events.find((event) => event.title === type) ?? null;
  }

  /** A form that sends one type of event to the run; buttons alone where a click says it all. */
  eventForm(run, type, { label, blank = "", step = null, prompt = null }) {
    const schema = this.schemaOf(type);
    const error = h("p", { class: "error", role: "alert", hidden: true });
    const attempt = async (value, button) => {
      if (button.disabled) return;
      error.hidden = true;
      button.disabled = true;
      try {
        await this.app.send(run, type, value, step?.value, prompt?.sequence);
      } catch (refusal) {
        error.textContent = refusal.message;
        error.hidden = false;
      } finally {
        button.disabled = false;
      }
    };
    const choices = choicesOf(schema);
    if (choices && !step) {
      const buttons = choices.map((choice) => h("button", { type: "button", class: "primary", onclick: (event) => attempt(choice.value, event.currentTarget) }, choice.label));
      return h("div", {}, h("div", { class: "choices" }, buttons), error);
    }
    const fields = makeForm(schema, blank);
    const known = prompt ? shared(prompt, schema) : {};
    if (Object.keys(known).length) fields.write(known);
    const button = h("button", { class: "primary", type: "submit" }, label);
    const submit = (event) => {
      event.preventDefault();
      try {
        attempt(fields.read(), button);
      } catch {
        // The form shows what is wrong with it.
      }
    };
    return h("form", { class: "event-form", "data-type": type, onsubmit: submit }, fields.element, error, h("div", { class: "form-end" }, button, fields.mode));
  }

  // -- sending any event --------------------------------------------------------------------------

  showSend(run) {
    const about = this.app.current;
    const key = `${run.id} ${run.isOver} ${about?.graph.name}`;
    if (this.sendKey === key) return;
    this.sendKey = key;
    if (run.isOver) {
      replace(this.send, h("p", { class: "empty" }, "This run has ended: it takes no more events."));
      return;
    }
    if (!about) {
      replace(this.send, h("p", { class: "empty" }, "Reading what the workflow takes …"));
      return;
    }
    const isStart = (title) => title === about.schema.start?.title || title === about.schema.stop?.title;
    const titles = about.events.map((event) => event.title).filter((title) => !isStart(title));
    if (!titles.length) {
      replace(this.send, h("p", { class: "empty" }, "This workflow declares no events that could be sent to it."));
      return;
    }
    const chosen = titles.includes(this.app.wanted) ? this.app.wanted : (titles.find((title) => about.answers.includes(title)) ?? titles[0]);
    const type = h("select", { id: "send-type", onchange: () => this.showSendForm(run, type.value) }, titles.map((title) => h("option", { value: title, selected: title === chosen }, title)));
    this.sendForm = h("div", {});
    replace(this.send, h("div", { class: "field" }, h("label", { for: "send-type" }, "Event"), type), this.sendForm);
    this.showSendForm(run, chosen);
  }

  showSendForm(run, type) {
    const about = this.app.current;
    const takers = [...new Set(about.graph.edges.filter((edge) => edge.source === type).map((edge) => edge.target))].filter((id) => id !== "external_step");
    const step = h("select", { id: "send-step" }, h("option", { value: "" }, "every step that takes it"), takers.map((id) => h("option", { value: id }, id)));
    const schema = this.schemaOf(type);
    replace(
      this.sendForm,
      takers.length > 1 ? h("div", { class: "field" }, h("label", { for: "send-step" }, "To"), step) : null,
      this.eventForm(run, type, { label: "Send", step }),
      h("details", {}, h("summary", {}, "Schema"), json(schema)),
    );
  }

  /** Open the form for this type of event. */
  prepare(type) {
    this.app.wanted = type;
    this.sendKey = null;
    this.app.showTab("send");
  }
}
