// Forms from JSON schemas, as pydantic writes them, and back to values.

import { h, icon, replace } from "./dom.js";

/** The schema that a schema stands for: references resolved, `X | None` taken apart. */
function settle(schema, root) {
  let found = schema ?? {};
  for (let depth = 0; found.$ref && depth < 8; depth += 1) {
    const target = found.$ref.split("/").slice(1).reduce((node, key) => node?.[key], root) ?? {};
    found = { ...target, ...found, $ref: target.$ref };
  }
  if (found.allOf?.length === 1) found = { ...settle(found.allOf[0], root), ...found, allOf: undefined };
  const choices = found.anyOf ?? found.oneOf;
  if (choices) {
    const real = choices.filter((choice) => choice.type !== "null");
    const nullable = real.length < choices.length;
    if (real.length === 1) return { ...settle(real[0], root), ...found, anyOf: undefined, oneOf: undefined, nullable };
    return { ...found, nullable };
  }
  return found;
}

/** What an answer that takes one click may be: the values of the only field, if they are few. */
export function choicesOf(schema) {
  const fields = Object.entries(schema?.properties ?? {});
  if (fields.length !== 1) return null;
  const [name, raw] = fields[0];
  const field = settle(raw, schema);
  if (field.type === "boolean") {
    return [{ label: `${title(name, field)}: yes`, value: { [name]: true } }, { label: `${title(name, field)}: no`, value: { [name]: false } }];
  }
  if (field.enum && field.enum.length <= 5) {
    return field.enum.map((value) => ({ label: String(value), value: { [name]: value } }));
  }
  return null;
}

function title(name, field) {
  return field.title ?? name.replaceAll("_", " ");
}

let count = 0;

/**
 * One field: its element, `read()`, which answers `undefined` for what was left empty, and
 * `write(value)`, which takes that, too.
 */
function makeField(name, raw, root, required) {
  const field = settle(raw, root);
  const id = `field-${(count += 1)}`;
  const hint = field.description ? h("p", { class: "hint", id: `${id}-hint` }, field.description) : null;
  const common = { id, name, "aria-describedby": hint ? `${id}-hint` : null, required: required && field.type !== "boolean" };
  // A class has a title of its own; the field's is what was asked for.
  const label = h("label", { for: id }, title(name, raw), required ? h("span", { class: "required", title: "required" }, " *") : null, h("code", {}, name));
  const { control, read, write } = makeControl(field, common, required, root);
  if (field.type === "boolean" && !field.nullable) {
    return { element: h("div", { class: "field check" }, control, label, hint), read, write, name };
  }
  return { element: h("div", { class: "field" }, label, control, hint), read, write, name };
}

function makeControl(field, common, required, root) {
  const preset = field.default;
  if (field.const !== undefined) {
    return { control: h("input", { ...common, value: String(field.const), readonly: true }), read: () => field.const, write: () => {} };
  }
  if (field.enum || (field.type === "boolean" && field.nullable)) {
    const values = field.enum ?? [true, false];
    const control = h(
      "select",
      common,
      required && preset === undefined ? null : h("option", { value: "" }, preset === undefined ? "–" : `default (${preset})`),
      values.map((value, index) => h("option", { value: String(index) }, String(value))),
    );
    const write = (value) => {
      const index = values.indexOf(value);
      control.value = index < 0 ? "" : String(index);
    };
    return { control, read: () => (control.value === "" ? undefined : values[Number(control.value)]), write };
  }
  if (field.type === "boolean") {
    const control = h("input", { ...common, type: "checkbox", checked: preset === true });
    const write = (value) => {
      control.checked = (value ?? preset) === true;
    };
    return { control, read: () => (control.checked === (preset ?? null) ? undefined : control.checked), write };
  }
  if (field.type === "integer" || field.type === "number") {
    const control = h("input", {
      ...common,
      type: "number",
      inputmode: field.type === "integer" ? "numeric" : "decimal",
      step: field.type === "integer" ? "1" : "any",
      min: field.minimum ?? null,
      max: field.maximum ?? null,
      placeholder: preset === undefined || preset === null ? "" : String(preset),
    });
    return { control, read: () => (control.value === "" ? undefined : Number(control.value)), write: (value) => fill(control, value) };
  }
  if (field.type === "string") return makeText(field, common, preset);
  return makeJson(field, common, preset, root);
}

function fill(control, value) {
  control.value = value === undefined || value === null ? "" : typeof value === "string" || typeof value === "number" ? String(value) : JSON.stringify(value);
}

function makeText(field, common, preset) {
  const types = { date: "date", email: "email", uri: "url", password: "password" };
  const isLong = (field.maxLength ?? 0) > 200 || /text|prompt|body|message|query/i.test(common.name);
  const control = isLong
    ? h("textarea", { ...common, rows: "3", placeholder: preset ?? "" })
    : h("input", { ...common, type: types[field.format] ?? "text", minlength: field.minLength ?? null, maxlength: field.maxLength ?? null, placeholder: preset ?? SAMPLES[field.format] ?? "", autocomplete: "off" });
  return { control, read: () => (control.value === "" ? undefined : control.value), write: (value) => fill(control, value) };
}

/** What a value of a schema looks like, for who has to type one. */
function sampleOf(raw, root, depth = 0) {
  const field = settle(raw, root);
  if (field.default !== undefined && field.default !== null) return field.default;
  if (field.const !== undefined) return field.const;
  if (field.enum) return field.enum[0];
  if (field.type === "array") return depth < 3 && field.items?.$ref ? [sampleOf(field.items, root, depth + 1)] : [];
  if (field.type === "object") {
    const fields = depth < 3 ? Object.entries(field.properties ?? {}) : [];
    return Object.fromEntries(fields.map(([name, each]) => [name, sampleOf(each, root, depth + 1)]));
  }
  return { integer: 0, number: 0, boolean: false, string: SAMPLES[field.format] ?? "" }[field.type] ?? null;
}

const SAMPLES = { date: "2026-01-31", "date-time": "2026-01-31T12:00:00Z", time: "12:00:00", duration: "PT30S" };

function makeJson(field, common, preset, root) {
  const sample = field.type === "array" || field.type === "object" ? JSON.stringify(sampleOf(field, root)) : "JSON";
  const shown = preset === undefined || preset === null ? sample : JSON.stringify(preset);
  const control = h("textarea", { ...common, rows: "3", class: "code", spellcheck: "false", placeholder: shown });
  const isFree = !field.type;
  control.addEventListener("input", () => control.setCustomValidity(""));
  return {
    control,
    write: (value) => {
      control.setCustomValidity("");
      control.value = value === undefined ? "" : JSON.stringify(value);
    },
    read: () => {
      if (control.value.trim() === "") return undefined;
      try {
        control.setCustomValidity("");
        return JSON.parse(control.value);
      } catch (error) {
        if (isFree) return control.value;
        control.setCustomValidity(`not JSON: ${error.message}`);
        control.reportValidity();
        throw error;
      }
    },
  };
}

/** Rows of name and value, for events that declare no fields and take any. */
function makeRows(preset) {
  const list = h("div", { class: "rows" });
  const add = (name = "", focus = false, text = "") => {
    const key = h("input", { class: "key", "aria-label": "field name", placeholder: "field", value: name, autocomplete: "off" });
    const value = h("input", { class: "value", "aria-label": "field value", placeholder: "text or JSON", value: text, autocomplete: "off" });
    const row = h("div", { class: "row" }, key, value, h("button", { type: "button", class: "quiet small", "aria-label": "remove field", onclick: () => row.remove() }, icon("close")));
    list.append(row);
    if (focus) key.focus();
  };
  add(preset);
  const element = h("div", { class: "field" }, list, h("button", { type: "button", class: "quiet small", onclick: () => add("", true) }, icon("plus"), "Add a field"));
  const read = () => {
    const found = {};
    for (const row of list.children) {
      const key = row.querySelector(".key").value.trim();
      const text = row.querySelector(".value").value;
      if (key && text !== "") found[key] = parseLoosely(text);
    }
    return found;
  };
  const write = (value) => {
    replace(list);
    const entries = Object.entries(value);
    for (const [name, each] of entries) add(name, false, typeof each === "string" && parseLoosely(each) === each ? each : JSON.stringify(each));
    if (!entries.length) add(preset);
  };
  return { element, read, write };
}

function parseLoosely(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * A form for a schema. `element` goes into a <form>; `read()` answers the value or throws after it
 * has shown what is wrong; `blank` is the name of the first free field.
 */
export function makeForm(schema, blank = "") {
  const root = schema ?? {};
  const required = new Set(root.required ?? []);
  const fields = Object.entries(root.properties ?? {}).map(([name, field]) => makeField(name, field, root, required.has(name)));
  const rows = fields.length ? null : makeRows(blank);
  const code = h("textarea", { class: "code", rows: "6", spellcheck: "false", "aria-label": "the event as JSON" });
  const body = h("div", { class: "fields" });
  let asJson = false;
  let further = {};
  const readFields = () => {
    if (rows) return rows.read();
    const found = { ...further };
    for (const field of fields) {
      const value = field.read();
      if (value !== undefined) found[field.name] = value;
    }
    return found;
  };
  const writeFields = (value) => {
    if (rows) {
      rows.write(value);
      return;
    }
    further = { ...value };
    for (const field of fields) {
      field.write(value[field.name]);
      delete further[field.name];
    }
  };
  const readCode = () => {
    try {
      code.setCustomValidity("");
      const value = JSON.parse(code.value || "{}");
      if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error("an event is an object");
      return value;
    } catch (error) {
      code.setCustomValidity(`not JSON: ${error.message}`);
      code.reportValidity();
      throw error;
    }
  };
  code.addEventListener("input", () => code.setCustomValidity(""));
  const show = () => replace(body, asJson ? h("div", { class: "field" }, code) : rows ? rows.element : fields.map((field) => field.element));
  const mode = h(
    "button",
    {
      type: "button",
      class: "quiet small mode",
      "aria-pressed": "false",
      onclick: () => {
        try {
          if (asJson) writeFields(readCode());
          else code.value = JSON.stringify(readFields(), null, 2);
        } catch {
          return; // the form shows what is wrong with it
        }
        asJson = !asJson;
        mode.setAttribute("aria-pressed", String(asJson));
        mode.textContent = asJson ? "Fields" : "JSON";
        show();
      },
    },
    "JSON",
  );
  show();
  return {
    element: h("div", { class: "schema-form" }, body),
    mode,
    read: () => (asJson ? readCode() : readFields()),
    /** Fill in what is known already. */
    write: writeFields,
  };
}
