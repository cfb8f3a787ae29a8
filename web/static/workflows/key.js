// The API key, for servers that ask for one: where it is kept, and the dialog that asks for it.
//
// It is kept for this tab (sessionStorage), or on this device when that is asked for (localStorage);
// it goes out in the Authorization header and nowhere else, least of all into the address.

const NAME = "ironflow.key";
const find = (id) => document.getElementById(id);

function open(kind) {
  try {
    return window[kind];
  } catch {
    return null; // a browser that is told to keep nothing
  }
}

const tab = open("sessionStorage");
const device = open("localStorage");

function read(storage) {
  try {
    return storage?.getItem(NAME) || null;
  } catch {
    return null;
  }
}

function write(storage, value) {
  try {
    if (value === null) storage?.removeItem(NAME);
    else storage?.setItem(NAME, value);
  } catch {
    // Full, or forbidden: the key lasts as long as the page.
  }
}

/** The key in use, and what asks for it. There is one: `keyring`. */
class Keyring {
  constructor() {
    this.value = read(tab) ?? read(device);
    this.remembered = read(tab) === null && read(device) !== null;
    this.needed = false; // the server has refused a request for want of a good key
    this.declined = false; // the dialog was closed without one: only what the user does asks again
    this.asking = null;
    this.listeners = new Set();
    /** Tries a key: resolves when the server takes it, rejects with why not. */
    this.probe = async () => {};
  }

  /** What goes with each request. */
  get headers() {
    return this.value ? { Authorization: `Bearer ${this.value}` } : {};
  }

  /** `none`: nobody asks for one; `held`: one is in use; `wanted`: the server asks for one. */
  get state() {
    if (this.needed && (!this.value || this.refused === this.value)) return "wanted";
    return this.value ? "held" : "none";
  }

  /** Call back when the state changes; `isNew`: there is another key than before. */
  subscribe(listener) {
    this.listeners.add(listener);
  }

  tell(isNew = false) {
    for (const listener of this.listeners) listener(this, isNew);
  }

  keep(value, remember) {
    this.value = value;
    this.refused = null;
    this.declined = false;
    this.remembered = remember;
    write(tab, remember ? null : value);
    write(device, remember ? value : null);
    this.tell(true);
  }

  forget() {
    this.keep(null, false);
  }

  /**
   * The server refused `used` (null: no key was sent), for `reason`. Whether there is another key to
   * try now; `isAct`: the user has just asked for something, so that a dialog is no surprise.
   */
  async renew(used, reason, isAct) {
    if (this.value && this.value !== used) return true; // another request was answered meanwhile
    this.needed = true;
    if (used) this.refused = used;
    this.tell();
    if (this.declined && !isAct) return false;
    return this.ask(used ? `The key in use is refused: ${reason}` : "");
  }

  /** Ask for a key; whether one was given. */
  ask(reason = "") {
    this.asking ??= this.dialog(reason).finally(() => {
      this.asking = null;
    });
    return this.asking;
  }

  dialog(reason) {
    const dialog = find("key-dialog");
    const field = find("key-field");
    this.draw(dialog);
    this.blame(reason);
    field.value = "";
    find("key-remember").checked = this.remembered;
    find("key-show").setAttribute("aria-pressed", "false");
    field.type = "password";
    return new Promise((resolve) => {
      const done = new AbortController();
      const end = (given) => {
        done.abort();
        if (!given) {
          this.declined = true;
          this.tell();
        }
        if (dialog.open) dialog.close();
        resolve(given);
      };
      const listen = (id, type, act) => find(id).addEventListener(type, act, { signal: done.signal });
      listen("key-form", "submit", async (event) => {
        event.preventDefault();
        if (await this.submit(field.value.trim(), find("key-remember").checked)) end(true);
      });
      listen("key-forget", "click", () => {
        this.forget();
        end(true); // what is shown is asked for again, now without one
      });
      listen("key-cancel", "click", () => end(false));
      dialog.addEventListener("close", () => end(false), { signal: done.signal }); // Escape
      if (!dialog.open) dialog.showModal();
      field.focus();
    });
  }

  /** Try what was typed, and keep it when the server takes it. */
  async submit(value, remember) {
    if (!value) return this.blame("Type or paste a key: it begins with ifkey_.");
    if (!/^[\x21-\x7e]+$/.test(value)) return this.blame("This is no key: keys have no spaces and no letters beyond ASCII.");
    const button = find("key-use");
    button.disabled = true;
    try {
      await this.probe(value);
    } catch (error) {
      return this.blame(error.message);
    } finally {
      button.disabled = false;
    }
    this.keep(value, remember);
    return true;
  }

  /** Say what is wrong with the key. */
  blame(reason) {
    const label = find("key-error");
    const field = find("key-field");
    label.textContent = reason;
    label.hidden = !reason;
    field.setAttribute("aria-invalid", String(Boolean(reason)));
    if (reason && find("key-dialog").open) {
      field.focus();
      field.select();
    }
    return false;
  }

  draw() {
    const held = this.state === "held";
    const where = this.remembered ? "kept on this device" : "kept until this tab is closed";
    find("key-title").textContent = held ? "Another API key" : "An API key is needed";
    find("key-about").textContent = held
      ? `A key is in use (…${this.value.slice(-4)}), ${where}.`
      : "This server answers only to those who have a key. An administrator makes one with “ironflow keys create”.";
    if (this.state === "none") {
      find("key-title").textContent = "API key";
      find("key-about").textContent = "This server has answered without a key. One that is given here goes with every request.";
    }
    find("key-forget").hidden = !this.value;
  }
}

export const keyring = new Keyring();

/** The lock in the bar: shows whether a key is in use, and opens the dialog. */
export function bindLock(button) {
  const show = () => {
    const { state } = keyring;
    button.hidden = state === "none";
    button.dataset.state = state;
    const text = state === "held" ? "API key in use: change or forget it" : "An API key is needed: give one";
    button.setAttribute("aria-label", text);
    button.title = `${text} (K)`;
    button.querySelector("use").setAttribute("href", state === "held" ? "#icon-lock" : "#icon-unlock");
  };
  button.addEventListener("click", () => keyring.ask());
  find("key-show").addEventListener("click", () => {
    const field = find("key-field");
    const isShown = field.type === "text";
    field.type = isShown ? "password" : "text";
    find("key-show").setAttribute("aria-pressed", String(!isShown));
    field.focus();
  });
  keyring.subscribe(show);
  show();
}
