"use strict";
(() => {
  const root = document.documentElement;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // The graph: what a module imports and what imports it.
  const scene = document.getElementById("scene");
  const about = document.getElementById("about");
  const nodes = [...scene.querySelectorAll(".node")];
  const byNumber = new Map(nodes.map((node) => [node.dataset.n, node]));
  const wires = [...scene.querySelectorAll("path")];
  let kept = null;

  function show(node) {
    scene.classList.toggle("chosen", node !== null);
    for (const each of [...nodes, ...wires]) each.classList.remove("self", "out", "in");
    about.textContent = node === null ? about.dataset.hint : node.getAttribute("aria-label");
    if (node === null) return;
    node.classList.add("self");
    for (const wire of wires) {
      if (wire.dataset.a === node.dataset.n) mark(wire, byNumber.get(wire.dataset.b), "out");
      else if (wire.dataset.b === node.dataset.n) mark(wire, byNumber.get(wire.dataset.a), "in");
    }
  }
  function mark(wire, other, kind) {
    wire.classList.add(kind);
    other.classList.add(kind);
  }
  function keep(node) {
    kept = node;
    show(node);
    if (node === null) return;
    for (const each of nodes) each.setAttribute("tabindex", each === node ? "0" : "-1");
  }
  function nearest(from, key) {
    const box = from.getBoundingClientRect();
    const vertical = key === "ArrowUp" || key === "ArrowDown";
    const sign = key === "ArrowUp" || key === "ArrowLeft" ? -1 : 1;
    let best = null;
    let least = Infinity;
    for (const node of nodes) {
      const other = node.getBoundingClientRect();
      const dx = other.x + other.width / 2 - box.x - box.width / 2;
      const dy = other.y - box.y;
      const along = sign * (vertical ? dy : dx);
      const across = Math.abs(vertical ? dx : dy);
      if (node === from || along < 2 || (!vertical && across > 2)) continue;
      const distance = along * (vertical ? 4 : 1) + across;
      if (distance < least) [best, least] = [node, distance];
    }
    return best;
  }
  for (const node of nodes) {
    node.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && show(node));
    node.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && show(kept));
    node.addEventListener("click", (event) => {
      event.stopPropagation();
      keep(kept === node ? null : node);
    });
    node.addEventListener("focus", () => node.matches(":focus-visible") && keep(node));
    node.addEventListener("keydown", (event) => {
      if (event.key === "Escape") keep(null);
      if (event.key === "Enter" || event.key === " ") keep(kept === node ? null : node);
      const next = event.key.startsWith("Arrow") ? nearest(node, event.key) : null;
      if (next !== null) next.focus();
      if (next !== null || event.key === " ") event.preventDefault();
    });
  }
  scene.addEventListener("click", () => keep(null));
  const implied = document.getElementById("implied");
  const follow = () => scene.classList.toggle("implied-too", implied.checked);
  implied.addEventListener("change", follow);
  show(null);
  follow(); // a reload keeps the box checked
  scene.scrollLeft = (scene.scrollWidth - scene.clientWidth) / 2;

  // Tables: a click on a heading sorts, numbers from large to small first.
  const value = (row, column, numeric) => {
    const text = row.cells[column].textContent;
    return numeric ? Number(text.replaceAll(",", "")) : text.toLowerCase();
  };
  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
      const numeric = head.classList.contains("num");
      const last = head.getAttribute("aria-sort");
      const down = last ? last === "ascending" : numeric;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [value(row, column, numeric), row]);
      rows.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1));
      body.append(...rows.map(([, row]) => row));
    }));
  }

  // All modules: the filter.
  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const rows = [...document.querySelectorAll("#all tbody tr")];
  const names = new Map(rows.map((row) => [row, row.cells[0].textContent.toLowerCase()]));
  function narrow() {
    const wanted = filter.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      row.hidden = !names.get(row).includes(wanted);
      count += !row.hidden;
    }
    shown.textContent = wanted ? `${count} of ${rows.length}` : "";
  }
  filter.addEventListener("input", narrow);
  narrow(); // a reload keeps the text
})();
