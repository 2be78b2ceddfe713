"use strict";
const graph = JSON.parse(document.getElementById("graph").textContent);
const { nodes, sizes } = graph;
const byId = (id) => document.getElementById(id);
const view = byId("view"), scene = byId("scene"), panel = byId("panel"), query = byId("query");

const inputs = nodes.map(() => []), outputs = nodes.map(() => []);
for (const [source, target] of graph.edges) { inputs[target].push(source); outputs[source].push(target); }

// Where things are. A block's first node, counted in the repetitions that it lies in, is its key.
const unfolded = new Set();
const COPY_GAP = 16;
let items = [], itemOf = new Map(), whole = { width: 0, height: 0 };

function blocksOf(level, shift) {
  return level.boxes.filter((box) => box.level).map((box) => {
    const key = box.node + shift, open = unfolded.has(key);
    const copies = Array.from({ length: open ? box.count : 1 }, (_, r) => shift + r * box.length);
    const heights = copies.map((at) => measure(box.level, at).height);
    const height = sizes.header + 2 * sizes.padding + heights.reduce((a, b) => a + b, 0) + COPY_GAP * (copies.length - 1);
    return { box, key, open, copies, heights, height };
  });
}

// Height of a level, and how far its parts move down because blocks above them are unfolded.
function measure(level, shift) {
  const blocks = blocksOf(level, shift), moves = [];
  for (const { box, height } of [...blocks].sort((a, b) => a.box.y - b.box.y)) {
    const last = moves.at(-1), bottom = box.y + box.height, more = height - box.height;
    if (last && box.y < last.bottom) {  // side by side
      last.bottom = Math.max(last.bottom, bottom);
      last.more = Math.max(last.more, more);
    } else moves.push({ bottom, more });
  }
  const down = (y) => moves.reduce((sum, move) => sum + (y > move.bottom - 0.05 ? move.more : 0), y);
  return { blocks: new Map(blocks.map((block) => [block.box, block])), down, height: down(level.height) };
}

function lay(level, shift, left, top, home) {
  const { blocks, down, height } = measure(level, shift);
  for (const [arrow, ...values] of level.wires) {
    const corners = [];
    for (let i = 0; i < values.length; i += 2) corners.push([left + values[i], top + down(values[i + 1])]);
    wire(corners, arrow);
  }
  for (const box of level.boxes) {
    const x = left + box.x, y = top + down(box.y);
    if (!box.level) {
      const node = box.node + shift, item = { kind: "node", node, box, home, x, y, width: box.width, height: box.height };
      items.push(item);
      itemOf.set(node, item);
      continue;
    }
    const block = blocks.get(box), { copies, heights, key, open } = block;
    const item = { kind: "frame", key, box, open, home, shift, x, y, width: box.width, height: block.height };
    items.push(item);
    const inside = x + 2 * sizes.padding, begin = y + sizes.header + sizes.padding;
    for (const entry of box.entries) wire([[inside + entry, y], [inside + entry, begin]], 0);
    let at = begin;
    copies.forEach((copy, r) => {
      if (open) {
        const around = { x: x + 4, width: box.width - 8, y: at - 6, height: heights[r] + 10 };
        items.push({ kind: "copy", name: box.names[r], ...around });
      }
      lay(box.level, copy, inside, at, [...home, item]);
      const bottom = at + heights[r];
      if (r + 1 < copies.length) {
        const middle = bottom + COPY_GAP / 2;
        for (const [from, to] of box.passed)
          wire([[inside + from, bottom], [inside + from, middle], [inside + to, middle], [inside + to, bottom + COPY_GAP]], 0);
        box.common.forEach((to, i) => {  // from above the block, down its left side
          const bus = x + 2 + 2 * i, turn = bottom + COPY_GAP - 3;
          wire([[inside + to, begin - 3], [bus, begin - 3], [bus, turn], [inside + to, turn], [inside + to, bottom + COPY_GAP]], 0);
        });
      } else for (const leaving of box.exits) wire([[inside + leaving, bottom], [inside + leaving, y + block.height]], 0);
      at = bottom + COPY_GAP;
    });
  }
  return height;
}

function wire(corners, arrow) {
  const xs = corners.map((corner) => corner[0]), ys = corners.map((corner) => corner[1]);
  const x = Math.min(...xs), y = Math.min(...ys);
  items.push({ kind: "wire", corners, arrow, x, y, width: Math.max(...xs) - x, height: Math.max(...ys) - y });
}

function layAll() {
  for (const item of items) item.element?.remove();
  items = [];
  itemOf = new Map();
  whole = { width: graph.level.width, height: lay(graph.level, 0, 0, 0, []) };
  const order = { frame: 0, copy: 0, wire: 1, node: 2 };
  items = items.map((item, i) => [item, i]).sort((a, b) => depth(a[0]) - depth(b[0]) || order[a[0].kind] - order[b[0].kind] || a[1] - b[1])
    .map(([item]) => item);
  show();
}
function depth(item) { return item.kind === "frame" ? item.home.length : Infinity; }

// What is seen
let scale = 1, shiftX = 0, shiftY = 0, waiting = false, plain = false;

function show() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; render(); });
}

function render() {
  scene.setAttribute("transform", `translate(${shiftX} ${shiftY}) scale(${scale})`);
  const far = scale < 0.22;  // texts could not be read
  if (far !== plain) {
    plain = far;
    for (const item of items) { item.element?.remove(); item.element = null; }
  }
  const margin = 200, left = (-shiftX - margin) / scale, top = (-shiftY - margin) / scale;
  const right = (view.clientWidth - shiftX + margin) / scale, bottom = (view.clientHeight - shiftY + margin) / scale;
  let at = scene.firstChild;
  for (const item of items) {
    const seen = item.x < right && item.x + item.width > left && item.y < bottom && item.y + item.height > top;
    if (!seen && item.element !== document.activeElement) {
      if (item.element) { if (at === item.element) at = at.nextSibling; item.element.remove(); item.element = null; }
      continue;
    }
    item.element ??= build(item);
    mark(item);
    if (at === item.element) at = at.nextSibling;
    else scene.insertBefore(item.element, at);
  }
}

function make(name, attributes = {}, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
}

function build(item) {
  const { box, x, y, width, height } = item;
  if (item.kind === "wire") return make("path", { class: "wire", d: outline(item.corners), ...(item.arrow && !plain ? { "marker-end": "url(#arrow)" } : {}) });
  if (item.kind === "copy") {
    const group = make("g");
    group.append(make("rect", { class: "copy", x, y, width, height, rx: 6 }));
    if (!plain) group.append(make("text", { class: "quiet", x: x + width - 5, y: y + 9, "font-size": sizes.detail, "text-anchor": "end" }, item.name));
    return group;
  }
  const group = make("g", { class: item.kind, transform: `translate(${x} ${y})` });
  if (item.kind === "frame") {
    if (!item.open) for (const away of [6, 3]) group.append(make("rect", { class: "pile", x: away, y: away, width, height, rx: 6 }));
    group.append(make("rect", { width, height, rx: 6 }));
    if (plain) return group;
    const from = 2 * sizes.padding + Math.max(0, ...box.entries) + 5;
    const toggle = make("g", { class: "toggle", tabindex: 0, role: "button", "aria-expanded": item.open, "aria-label": `${item.open ? "Fold" : "Unfold"} ${box.count} repetitions ${box.shape}` });
    toggle.append(make("rect", { x: from, y: 3, width: 13, height: 13, rx: 3 }));
    toggle.append(make("text", { x: from + 6.5, y: 13, "font-size": 11, "text-anchor": "middle" }, item.open ? "−" : "+"));
    toggle.append(make("text", { class: "strong", x: from + 18, y: 14, "font-size": 11 }, box.title));
    toggle.addEventListener("click", (event) => { event.stopPropagation(); fold(item, !item.open); });
    toggle.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.stopPropagation(); fold(item, !item.open, true); }
    });
    group.append(toggle, make("text", { class: "quiet", x: from + 52, y: 14, "font-size": sizes.detail }, box.shape));
    return group;
  }
  const colour = `color-mix(in srgb, ${graph.kinds[box.kind]} var(--tint), var(--back))`;
  group.append(make("rect", { width, height, rx: 4, style: `fill: ${colour}` }));
  if (plain) { group.addEventListener("click", () => pick(item.node)); return group; }
  const node = nodes[item.node];
  group.setAttribute("tabindex", 0);
  group.setAttribute("role", "button");
  group.setAttribute("aria-label", `${node.op} ${node.module}, node ${item.node}`);
  let line = sizes.padding + 0.8 * sizes.title;
  group.append(make("text", { class: "strong", x: sizes.padding, y: line, "font-size": sizes.title }, box.title));
  group.append(make("text", { class: "quiet", x: width - sizes.padding, y: line, "font-size": sizes.detail, "text-anchor": "end" }, box.shape));
  box.details.forEach((text, i) => {
    line += sizes.detail + sizes.line;
    group.append(make("text", { class: box.named && i === 0 ? "quiet" : "", x: sizes.padding, y: line, "font-size": sizes.detail }, text));
  });
  group.addEventListener("click", () => pick(item.node));
  group.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick(item.node); }
  });
  group.addEventListener("focus", () => { if (group.matches(":focus-visible")) reach(item); });
  return group;
}

function mark(item) {
  if (item.kind === "node") {
    item.element.classList.toggle("hit", isHit(item));
    item.element.classList.toggle("pick", shownFor(picked) === item);
    item.element.classList.toggle("near", near.has(item));
  } else if (item.kind === "frame") item.element.classList.toggle("hit", !item.open && isHit(item));
}

function outline(corners) {
  const points = corners.filter((p, i) => !i || Math.hypot(p[0] - corners[i - 1][0], p[1] - corners[i - 1][1]) > 0.1);
  let path = `M${points[0]}`;
  for (let i = 1; i < points.length - 1; i++) {
    const toward = (other) => {
      const dx = other[0] - points[i][0], dy = other[1] - points[i][1], share = Math.min(6 / Math.hypot(dx, dy), 0.5);
      return [points[i][0] + dx * share, points[i][1] + dy * share];
    };
    path += `L${toward(points[i - 1])}Q${points[i]} ${toward(points[i + 1])}`;
  }
  return `${path}L${points.at(-1)}`;
}

// Blocks
function fold(item, open, focus = false) {
  const before = item.y;
  open ? unfolded.add(item.key) : unfolded.delete(item.key);
  layAll();
  const after = items.find((other) => other.kind === "frame" && other.key === item.key);
  if (after) shiftY += (before - after.y) * scale;  // stays where it is on the screen
  renewNear();
  if (focus) { render(); after?.element?.querySelector(".toggle")?.focus(); }
}

function everyBlock(level, shift, visit) {
  for (const box of level.boxes) if (box.level) {
    visit(box, shift);
    for (let r = 0; r < box.count; r++) everyBlock(box.level, shift + r * box.length, visit);
  }
}

// The blocks around a node, from outside in: [key, box, whether the node lies in a later repetition].
function homes(node) {
  const found = [];
  let level = graph.level, shift = 0;
  for (;;) {
    const box = level.boxes.find((b) => b.level && b.node + shift <= node && node < b.node + shift + b.length * b.count);
    if (!box) return found;
    const r = Math.floor((node - shift - box.node) / box.length);
    found.push([box.node + shift, box, r]);
    shift += r * box.length;
    level = box.level;
  }
}

// The item that stands for a node: its own, or that of the same node in a repetition that is shown.
function shownFor(node) {
  if (node === null) return null;
  while (!itemOf.has(node)) {
    const hidden = homes(node).find(([key, , r]) => r && !unfolded.has(key));
    if (!hidden) return null;
    node -= hidden[2] * hidden[1].length;
  }
  return itemOf.get(node);
}
