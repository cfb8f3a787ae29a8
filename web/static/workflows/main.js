// The workflow debugger: puts the views together and listens to the keyboard.

import * as api from "./api.js";
import * as location from "./location.js";
import { App } from "./app.js";
import { bindLock, keyring } from "./key.js";
import { Panel } from "./panel.js";
import { Side } from "./side.js";
import { Stage } from "./stage.js";

const find = (id) => document.getElementById(id);
const app = new App();
const panel = new Panel(app, find("run"));
const side = new Side(app, find("side"));
const stage = new Stage(app, find("stage"), { onsend: (type) => panel.prepare(type) });

app.subscribe(() => {
  find("board").dataset.pane = app.pane;
  for (const button of find("panes").children) button.setAttribute("aria-pressed", String(button.dataset.pane === app.pane));
  side.show();
  stage.show();
  panel.show();
  document.title = [app.state.run, app.state.workflow, "ironflow workflows"].filter(Boolean).join(" · ");
});

// -- what the bar does ----------------------------------------------------------------------------

async function share() {
  try {
    await navigator.clipboard.writeText(window.location.href);
    app.toast("The link is copied: it shows what you see.");
  } catch {
    window.prompt("The link to what you see:", window.location.href);
  }
}

function toggleTheme() {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("ironflow.theme", root.dataset.theme);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
}

/** Milliseconds between two looks at a server that nothing else is asked of. */
const LOOK = { there: 10_000, away: 2000 };
let look = null;

function sayHealth(status) {
  const label = find("health");
  if (label.textContent === status) return;
  label.textContent = status;
  label.className = `health ${status === "healthy" ? "good" : "bad"}`;
}

async function showHealth() {
  clearTimeout(look);
  try {
    sayHealth((await api.health()).status);
  } catch (error) {
    sayHealth(error.status ? "unhealthy" : "no answer"); // 503 while it brings back what was unfinished
  }
  clearTimeout(look);
  look = setTimeout(() => document.visibilityState === "visible" && showHealth(), api.reach.isThere ? LOOK.there : LOOK.away);
}

// The first request or stream that is lost says so at once, and the first that is answered, too.
api.reach.listeners.add((isThere) => {
  if (!isThere) sayHealth("no answer");
  showHealth();
});

bindLock(find("lock"));
keyring.subscribe((_, isNew) => {
  if (isNew) app.retry();
  else app.tell();
});
find("share").addEventListener("click", share);
find("theme").addEventListener("click", toggleTheme);
find("help").addEventListener("click", () => find("shortcuts").showModal());
for (const button of find("panes").children) button.addEventListener("click", () => app.showPane(button.dataset.pane));

// -- the keyboard ---------------------------------------------------------------------------------

/** Now, for who types on at once; and again when what was hidden is shown. */
function soon(act) {
  act();
  requestAnimationFrame(act);
}

const KEYS = {
  n: () => {
    app.showPane("start");
    soon(() => side.focusForm());
  },
  g: () => app.show("graph"),
  c: () => app.show("compare"),
  e: () => app.showTab("events"),
  s: () => app.showTab("send"),
  r: () => app.showTab("result"),
  f: () => stage.view?.fit(),
  "+": () => stage.view?.zoom(1.25),
  "-": () => stage.view?.zoom(0.8),
  l: share,
  t: toggleTheme,
  k: () => keyring.ask(),
  "?": () => find("shortcuts").showModal(),
  "/": () => {
    app.showTab("events");
    soon(() => find("event-filter")?.focus());
  },
};

document.addEventListener("keydown", (event) => {
  const form = event.target.closest?.("form");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && form) {
    form.requestSubmit();
    event.preventDefault();
    return;
  }
  const typing = event.target.closest?.("input, textarea, select, dialog");
  if (event.key === "Escape" && typing) event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});

// -- life -----------------------------------------------------------------------------------------

window.addEventListener("popstate", () => app.goTo(location.read()));
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState !== "visible") return;
  showHealth();
  app.refresh();
});

// The clock of a run that goes on; hidden pages do not tick.
setInterval(() => {
  const live = [app.run, ...app.compared].some((run) => run && !run.isOver && !run.error);
  if (live && document.visibilityState === "visible") app.tell();
}, 500);

showHealth();
await app.boot();
