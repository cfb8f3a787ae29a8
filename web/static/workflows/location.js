// What is shown stands in the address, so that a link shows the same to a colleague.

import { MOST } from "./compare.js";

const KEYS = ["workflow", "run", "compare", "view", "tab"];
const TABS = ["events", "send", "result"];

/** What the address asks for. */
export function read() {
  const query = new URLSearchParams(window.location.search);
  const tab = query.get("tab");
  return {
    workflow: query.get("workflow"),
    run: query.get("run"),
    compare: [...new Set((query.get("compare") ?? "").split(",").filter(Boolean))].slice(0, MOST),
    view: query.get("view") === "compare" ? "compare" : "graph",
    tab: TABS.includes(tab) ? tab : "events",
  };
}

/** Put it into the address; `push` makes a step that the back button undoes. */
export function write(state, push = false) {
  const query = new URLSearchParams(window.location.search);
  for (const key of KEYS) query.delete(key);
  if (state.workflow) query.set("workflow", state.workflow);
  if (state.run) query.set("run", state.run);
  if (state.compare.length) query.set("compare", state.compare.join(","));
  if (state.view !== "graph") query.set("view", state.view);
  if (state.tab !== "events") query.set("tab", state.tab);
  const text = query.toString().replaceAll("%2C", ",");
  const target = window.location.pathname + (text ? `?${text}` : "");
  if (target === window.location.pathname + window.location.search) return;
  if (push) history.pushState(null, "", target);
  else history.replaceState(null, "", target);
}
