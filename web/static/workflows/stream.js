// Server-sent events by `fetch`: EventSource can send no key.

import { keyring } from "./key.js";

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 5000;
/** Milliseconds; the server says something every 25 s at least. */
const SILENCE = 70_000;

const sleep = (pause, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, pause);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });

/** Takes text in pieces, and gives each event as `{id, data}` once its last line is there. */
export class Parser {
  constructor(onevent) {
    this.onevent = onevent;
    this.rest = "";
    this.id = null;
    this.data = [];
  }

  take(text) {
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop();
    for (const line of lines) this.line(line.endsWith("\r") ? line.slice(0, -1) : line);
  }

  line(line) {
    if (line === "") {
      if (this.data.length) this.onevent({ id: this.id, data: this.data.join("\n") });
      this.data = [];
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment: the server is there
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.data.push(value);
    else if (field === "id") this.id = value;
  }
}

/**
 * Read a stream to its end, through losses of the connection, from behind the last event that came.
 * `onevent({id, data})` answers whether that was the last one; `onstate("open" | "lost" | "closed")`.
 * Returns what stops it.
 */
export function listen(url, onevent, onstate) {
  const stopped = new AbortController();
  read(url, onevent, onstate, stopped.signal).catch((error) => {
    if (!stopped.signal.aborted) {
      onstate("closed");
      throw error;
    }
  });
  return () => stopped.abort();
}

async function read(url, onevent, onstate, stopped) {
  let last = null;
  let pause = FIRST_PAUSE;
  while (!stopped.aborted) {
    const used = keyring.value;
    const silent = new AbortController();
    let timer = setTimeout(() => silent.abort(), SILENCE);
    const stop = () => silent.abort();
    stopped.addEventListener("abort", stop);
    try {
      const headers = { Accept: "text/event-stream", ...keyring.headers };
      if (last !== null) headers["Last-Event-ID"] = last;
      const response = await fetch(url, { headers, cache: "no-store", signal: silent.signal });
      if (response.status === 401) {
        const reason = (await response.json().catch(() => null))?.detail ?? "unknown";
        if (await keyring.renew(used, reason, false)) continue;
        if (!stopped.aborted) onstate("closed");
        return;
      }
      if (response.status === 204 || (response.status >= 400 && response.status < 500 && response.status !== 429)) {
        onstate("closed");
        return;
      }
      if (response.ok) {
        onstate("open");
        let isOver = false;
        const parser = new Parser((event) => {
          last = event.id ?? last;
          pause = FIRST_PAUSE;
          isOver = !stopped.aborted && onevent(event) === true;
        });
        const pieces = response.body.pipeThrough(new TextDecoderStream()).getReader();
        while (!isOver) {
          const { done, value } = await pieces.read();
          clearTimeout(timer);
          if (done) break;
          timer = setTimeout(() => silent.abort(), SILENCE);
          parser.take(value);
        }
        if (isOver) {
          silent.abort();
          onstate("closed");
          return;
        }
      }
    } catch {
      // The connection was lost, or was silent for too long.
    } finally {
      clearTimeout(timer);
      stopped.removeEventListener("abort", stop);
    }
    if (stopped.aborted) return;
    onstate("lost");
    await sleep(pause, stopped);
    pause = Math.min(pause * 2, LONGEST_PAUSE);
  }
}
