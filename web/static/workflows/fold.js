// A long chain of steps, folded into columns that are read one after the other, top to bottom.

/** What is lower than this is shown in one piece. */
const TALL = 1400;
/** How many times as high as wide a drawing is that is folded. */
const SLIM = 3;
const GAP = 56;
const LEAD = 16;

/** Fold a drawing of dagre's, in place, when it is much higher than wide. */
export function fold(graph) {
  const { width, height } = graph.graph();
  if (height < TALL || height < width * SLIM) return;
  const columns = Math.max(2, Math.round(Math.sqrt(height / (width + GAP))));
  const bands = cut(graph, columns);
  const bandOf = new Map(bands.flatMap((band, index) => band.nodes.map((id) => [id, index])));
  for (const band of bands) for (const id of band.nodes) shift(graph.node(id), band);
  for (const key of graph.edges()) {
    const edge = graph.edge(key);
    const [from, to] = [bandOf.get(key.v), bandOf.get(key.w)];
    if (from === to) edge.points.forEach((point) => shift(point, bands[from]));
    else edge.points = lead(graph.node(key.v), graph.node(key.w), bands[from], to > from);
  }
}

function shift(point, band) {
  point.x += band.dx;
  point.y += band.dy;
}

/** Whole ranks into columns of about the same height: what is in each, and how far it moves. */
function cut(graph, columns) {
  const nodes = graph.nodes().map((id) => ({ id, ...graph.node(id) }));
  const tops = Math.min(...nodes.map((node) => node.y));
  const each = (Math.max(...nodes.map((node) => node.y)) - tops + 1) / columns;
  const bands = Array.from({ length: columns }, () => []);
  for (const node of nodes) bands[Math.floor((node.y - tops) / each)].push(node);
  let x = Math.min(...nodes.map((node) => node.x - node.width / 2));
  const y = Math.min(...nodes.map((node) => node.y - node.height / 2));
  return bands.filter((band) => band.length).map((band) => {
    const left = Math.min(...band.map((node) => node.x - node.width / 2));
    const right = Math.max(...band.map((node) => node.x + node.width / 2));
    const top = Math.min(...band.map((node) => node.y - node.height / 2));
    const found = { nodes: band.map((node) => node.id), dx: x - left, dy: y - top, end: x + right - left };
    x = found.end + GAP;
    return found;
  });
}

/** The line from a column to another: out below its node, up between the columns, in from above. */
function lead(from, to, band, isForward) {
  const start = { x: from.x, y: from.y + from.height / 2 };
  const end = { x: to.x, y: to.y - to.height / 2 - 3 };
  const gutter = band.end + GAP / 2;
  if (!isForward) return [start, { x: from.x, y: start.y + LEAD }, { x: to.x, y: end.y - LEAD }, end];
  return [start, { x: from.x, y: start.y + LEAD }, { x: gutter, y: start.y + LEAD }, { x: gutter, y: end.y - LEAD }, { x: to.x, y: end.y - LEAD }, end];
}
