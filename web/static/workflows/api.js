// The server's HTTP API, as documented: this page uses nothing that another client could not.

import { keyring } from "./key.js";
import { listen } from "./stream.js";

const base = window.location.origin;

/** Whether the server answers: told at each request, and by what loses a stream. */
export const reach = {
  isThere: null,
  listeners: new Set(),
  note(isThere) {
    if (this.isThere === isThere) return;
    this.isThere = isThere;
    for (const listener of this.listeners) listener(isThere);
  },
};

/** A refusal of the server, with the reason it gave. */
export class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

async function request(method, path, body, headers) {
  let response;
  try {
    response = await fetch(base + path, {
      method,
      headers: body === undefined ? headers : { ...headers, "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    reach.note(false);
    throw new Refused(0, "the server does not answer");
  }
  reach.note(true);
  const text = await response.text();
  let answer = null;
  try {
    answer = text ? JSON.parse(text) : null;
  } catch {
    // Not JSON: the text itself is the reason.
  }
  // A failed run answers 500 with its handler: that is no refusal.
  if (response.ok || answer?.handler_id) return answer;
  throw new Refused(response.status, answer?.detail ?? (text || `${response.status} ${response.statusText}`));
}

/** Ask with the key in use; when the server wants another one, ask again once the user gave one. */
async function ask(method, path, body) {
  const used = keyring.value;
  try {
    return await request(method, path, body, keyring.headers);
  } catch (error) {
    // What changes something was asked for by the user just now.
    if (error.status !== 401 || !(await keyring.renew(used, error.message, method === "POST"))) throw error;
    return ask(method, path, body);
  }
}

keyring.probe = async (key) => {
  try {
    await request("GET", "/workflows", undefined, { Authorization: `Bearer ${key}` });
  } catch (error) {
    if (error.status !== 401) throw error;
    throw new Refused(401, `The server does not take this key: ${error.message}.`);
  }
};

const name = encodeURIComponent;

export const health = () => ask("GET", "/health");
export const workflows = async () => (await ask("GET", "/workflows")).workflows;
export const schema = (workflow) => ask("GET", `/workflows/${name(workflow)}/schema`);
export const graph = async (workflow) => (await ask("GET", `/workflows/${name(workflow)}/representation`)).graph;
export const eventSchemas = async (workflow) => (await ask("GET", `/workflows/${name(workflow)}/events`)).events;
export const start = (workflow, event) => ask("POST", `/workflows/${name(workflow)}/run-nowait`, { start_event: event });

/** A run; by the list, since `/handlers/{id}` answers 500 for one that failed, which browsers call an error. */
export async function handler(id) {
  const [found] = (await ask("GET", `/handlers?handler_id=${name(id)}`)).handlers;
  if (!found) throw new Refused(404, "Handler not found");
  return found;
}

/** `answers`: the sequence of the question that the event answers, so that all who look at the run know. */
export const send = (id, event, step, answers) => ask("POST", `/events/${name(id)}`, { event, step, answers });
export const cancel = (id) => ask("POST", `/handlers/${name(id)}/cancel`);
export const purge = (id) => ask("POST", `/handlers/${name(id)}/cancel?purge=true`);

/** A page of runs, newest first: `{handlers, next_cursor}`. */
export function handlers(workflow, statuses, cursor, limit) {
  const query = new URLSearchParams({ workflow_name: workflow, limit: String(limit) });
  for (const status of statuses) query.append("run_status", status);
  if (cursor) query.set("cursor", cursor);
  return ask("GET", `/handlers?${query}`);
}

/**
 * Follow a run's events from the beginning, through losses of the connection, to its end.
 * `onevent(envelope, sequence)`; `onstate("open" | "lost" | "closed")`. Returns what stops it.
 */
export function follow(id, onevent, onstate) {
  const path = `/events/${name(id)}?sse=true&include_internal=true&include_time=true&after_sequence=-1`;
  return listen(
    base + path,
    ({ id, data }) => {
      const envelope = JSON.parse(data);
      onevent(envelope, id === null ? null : Number(id));
      return isStop(envelope);
    },
    (state) => {
      if (state !== "closed") reach.note(state === "open");
      onstate(state);
    },
  );
}

/** Whether an event is, or descends from, a type. */
export function isA(envelope, type) {
  return envelope.type === type || (envelope.types ?? []).includes(type);
}

export const isStop = (envelope) => isA(envelope, "StopEvent");
