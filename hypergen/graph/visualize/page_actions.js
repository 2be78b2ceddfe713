function reveal(node) {
  if (itemOf.has(node)) return;
  for (const [key, , r] of homes(node)) if (r) unfolded.add(key);
  layAll();
}

// Moving
const clampScale = (value) => Math.min(4, Math.max(0.01, value));
function zoom(factor, x = view.clientWidth / 2, y = view.clientHeight / 2) {
  const next = clampScale(scale * factor), ratio = next / scale;
  shiftX = x - (x - shiftX) * ratio;
  shiftY = y - (y - shiftY) * ratio;
  scale = next;
  show();
}
function toTop() {
  scale = clampScale(Math.min(1.3, view.clientWidth / (whole.width + 40)));
  if (scale < 0.5) scale = 0.5;
  const first = itemOf.get(0);
  shiftX = whole.width * scale < view.clientWidth ? (view.clientWidth - whole.width * scale) / 2 : view.clientWidth / 2 - ((first?.x ?? 0) + (first?.width ?? 0) / 2) * scale;
  shiftY = 16;
  show();
}
function fit() {
  // No smaller than that boxes can be told apart, even if the graph is too long for that.
  scale = Math.max(0.1, Math.min(1.3, view.clientWidth / (whole.width + 40), view.clientHeight / (whole.height + 40)));
  shiftX = (view.clientWidth - whole.width * scale) / 2;
  shiftY = Math.max(16, (view.clientHeight - whole.height * scale) / 2);
  show();
}
function centre(item) {
  if (scale < 0.6) scale = 1;
  shiftX = view.clientWidth / 2 - (item.x + item.width / 2) * scale;
  shiftY = view.clientHeight / 2 - (item.y + item.height / 2) * scale;
  show();
}
function reach(item) {
  const x = item.x * scale + shiftX, y = item.y * scale + shiftY;
  if (x < 0 || y < 0 || x + item.width * scale > view.clientWidth || y + item.height * scale > view.clientHeight) centre(item);
}

// Search
let hits = [], hitSet = new Set(), hit = -1;
function isHit(item) {
  if (!hits.length) return false;
  if (item.kind === "node") return hitSet.has(item.node);
  for (let n = item.key; n < item.key + item.box.length * item.box.count; n++) if (hitSet.has(n) && !itemOf.has(n)) return true;
  return false;
}
function search() {
  const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
  hits = [];
  if (words.length) nodes.forEach((node, i) => {
    const text = [node.op, node.module, ...node.parameters.map((p) => p[1]), ...node.shared.map((p) => p[1])].join("\n").toLowerCase();
    if (words.every((word) => text.includes(word))) hits.push(i);
  });
  hitSet = new Set(hits);
  hit = hits.length ? 0 : -1;
  count();
  if (hits.length) { const item = shownFor(hits[0]); if (item) centre(item); }
  show();
}
function count() {
  byId("count").textContent = query.value.trim() ? (hits.length ? `${hit + 1} of ${hits.length}` : "no match") : "";
}
let visited = false;
function step(by) {
  if (!hits.length) return;
  if (visited) hit = (hit + by + hits.length) % hits.length;
  visited = true;
  count();
  pick(hits[hit], true);
}

// Details
let picked = null, near = new Set();
function renewNear() {
  near = new Set(picked === null ? [] : [...inputs[picked], ...outputs[picked]].map(shownFor));
  show();
}
function pick(node, goThere = false) {
  picked = node;
  if (node !== null && goThere) reveal(node);
  describe();
  renewNear();
  if (node !== null && goThere) centre(shownFor(node));
}
function add(parent, name, text = null, className = "") {
  const element = document.createElement(name);
  if (text !== null) element.textContent = text;
  if (className) element.className = className;
  parent.append(element);
  return element;
}
const size = (shape) => shape.join("×") || "scalar";
const total = (shape) => shape.reduce((a, b) => a * b, 1).toLocaleString("en");
function describe() {
  panel.replaceChildren();
  panel.hidden = picked === null;
  if (picked === null) return;
  const node = nodes[picked];
  closer();
  add(panel, "h2", node.op);
  const facts = add(panel, "dl");
  const fact = (key, value) => { add(facts, "dt", key); add(facts, "dd", value); };
  fact("node", `${picked + 1} of ${nodes.length}`);
  if (node.module) fact("module", node.module);
  fact("output", size(node.shape) + (node.output ? ", returned by the network" : ""));
  for (const [, box, r] of homes(picked)) fact("repetition", `${r + 1} of ${box.count}${box.names[r] ? ` (${box.names[r]})` : ""}`);
  for (const [title, rows] of [["Parameters", node.parameters], ["Parameters of an earlier node", node.shared]]) {
    if (!rows.length) continue;
    add(panel, "h3", title);
    const list = add(panel, "dl");
    for (const [role, name, shape] of rows) { add(list, "dt", role); add(list, "dd", `${name}: ${size(shape)} (${total(shape)} values)`); }
  }
  const attributes = Object.entries(node.attributes);
  if (attributes.length) {
    add(panel, "h3", "Attributes");
    const list = add(panel, "dl");
    for (const [key, value] of attributes) { add(list, "dt", key); add(list, "dd", Array.isArray(value) ? value.join(", ") : String(value)); }
  }
  for (const [title, others] of [["Inputs", inputs[picked]], ["Outputs", outputs[picked]]]) {
    if (!others.length) continue;
    add(panel, "h3", title);
    const list = add(panel, "ul");
    for (const other of others) {
      const button = add(add(list, "li"), "button", `${nodes[other].op}  ${nodes[other].module}  ${size(nodes[other].shape)}`);
      button.addEventListener("click", () => { pick(other, true); panel.querySelector("button")?.focus(); });
    }
  }
}
function closer() {
  const button = add(panel, "button", "×", "close");
  button.setAttribute("aria-label", "Close");
  button.addEventListener("click", () => { pick(null); view.focus(); });
}
function help() {
  picked = null;
  panel.replaceChildren();
  panel.hidden = false;
  closer();
  add(panel, "h2", "Keys");
  const list = add(panel, "dl");
  for (const [key, what] of [["/", "search"], ["Enter", "next match; on a node: its details; on a block: unfold"], ["Shift Enter", "previous match"], ["Tab", "next node or block"], ["n, p", "next, previous node in the order of computation"], ["arrows", "move"], ["+, −, 0", "zoom in, out, fit"], ["Home", "top"], ["u, f", "unfold all, fold all"], ["Esc", "close"]]) {
    add(add(list, "dt"), "kbd", key);
    add(list, "dd", what);
  }
  add(panel, "p", "Wheel or drag to move; Ctrl and wheel, or pinch, to zoom.");
  for (const [title, names] of [["Read by no operation", graph.unused], ["Tied", Object.entries(graph.tied).map(([alias, name]) => `${alias} = ${name}`)]]) {
    if (!names.length) continue;
    add(panel, "h3", title);
    const rows = add(panel, "ul");
    for (const name of names) add(rows, "li", name);
  }
  renewNear();
}

// Hands
const pointers = new Map();
let dragged = false;
view.addEventListener("pointerdown", (event) => { pointers.set(event.pointerId, [event.clientX, event.clientY]); dragged = false; });
view.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const now = [event.clientX, event.clientY];
  if (pointers.size === 2) {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const apart = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]), corner = view.getBoundingClientRect();
    zoom(apart(now) / Math.max(apart(before), 1), (now[0] + other[0]) / 2 - corner.left, (now[1] + other[1]) / 2 - corner.top);
  } else {
    if (!dragged && Math.hypot(now[0] - before[0], now[1] - before[1]) < 3) return;
    if (!dragged) view.setPointerCapture(event.pointerId);
    dragged = true;
    shiftX += now[0] - before[0];
    shiftY += now[1] - before[1];
    show();
  }
  pointers.set(event.pointerId, now);
});
for (const name of ["pointerup", "pointercancel"]) view.addEventListener(name, (event) => pointers.delete(event.pointerId));
view.addEventListener("click", (event) => { if (dragged) event.stopPropagation(); dragged = false; }, true);
view.addEventListener("wheel", (event) => {
  event.preventDefault();
  const corner = view.getBoundingClientRect();
  if (event.ctrlKey || event.metaKey) zoom(Math.exp(-event.deltaY / 300), event.clientX - corner.left, event.clientY - corner.top);
  else { shiftX -= event.shiftKey ? event.deltaY : event.deltaX; shiftY -= event.shiftKey ? 0 : event.deltaY; show(); }
}, { passive: false });

const actions = {
  "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), "0": fit, Home: toTop,
  ArrowLeft: () => { shiftX += 80; show(); }, ArrowRight: () => { shiftX -= 80; show(); },
  ArrowUp: () => { shiftY += 80; show(); }, ArrowDown: () => { shiftY -= 80; show(); },
  "/": () => query.select(),
  n: () => pick(picked === null ? 0 : Math.min(picked + 1, nodes.length - 1), true),
  p: () => pick(picked === null ? 0 : Math.max(picked - 1, 0), true),
  u: () => unfoldAll(true), f: () => unfoldAll(false), "?": help,
};
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { pick(null); if (document.activeElement !== query) view.focus(); return; }
  if (event.target === query || event.ctrlKey || event.metaKey || event.altKey || !actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
});
query.addEventListener("input", () => { visited = false; search(); });
query.addEventListener("keydown", (event) => { if (event.key === "Enter") step(event.shiftKey ? -1 : 1); });
function unfoldAll(open) {
  unfolded.clear();
  if (open) everyBlock(graph.level, 0, (box, shift) => unfolded.add(box.node + shift));
  layAll();
  renewNear();
}
const buttons = {
  previous: () => step(-1), next: () => step(1), in: () => zoom(1.25), out: () => zoom(0.8), fit, top: toTop,
  all: () => unfoldAll(true), none: () => unfoldAll(false), help,
};
for (const [id, action] of Object.entries(buttons)) byId(id).addEventListener("click", action);
new ResizeObserver(show).observe(view);

function kindsShown(level) { return level.boxes.flatMap((box) => (box.level ? kindsShown(box.level) : [box.kind])); }
const kinds = new Set(kindsShown(graph.level));
for (const [kind, colour] of Object.entries(graph.kinds)) if (kinds.has(kind)) {
  const entry = add(byId("legend"), "span");
  add(entry, "i").style.background = `color-mix(in srgb, ${colour} var(--tint), var(--back))`;
  entry.append(kind);
}
layAll();
toTop();
