/* The page's part of Portrait Layout: two boxes to drag and resize over a canvas of the picture's shape.

The node's inputs are the only state: a gesture writes `boxes` and `preset`, and what is drawn is read from them. So saving, undo,
copy and paste and the API form need nothing of their own. Presets, colours and dashes come with the node's definition. */

import { app } from "../../scripts/app.js";

const NODE = "DHDPortraitLayout";
const HEIGHT = 320; // px, the least of the canvas
const WIDTH = 340; // px, the node's when it is new
const STEP = 0.01; // share of the picture that an arrow key moves
const EDGES = ["left", "top", "right", "bottom"];
const HELP = "Drag a box, or its corners. Keys: arrows move, Shift and arrows resize.";

app.registerExtension({
  name: "DHumanDiff.PortraitLayout",
  nodeCreated(node) {
    if (node.comfyClass === NODE) new LayoutCanvas(node);
  },
});

/** Call `after` with the arguments of `owner[name]` whenever that has been called. */
function chain(owner, name, after) {
  const before = owner[name];
  owner[name] = function (...all) {
    const result = before?.apply(this, all);
    after(...all);
    return result;
  };
}

function svg(name, attributes = {}, parent = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  set(element, attributes);
  parent?.append(element);
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const round = (value) => Math.round(value * 1000) / 1000;
const written = (boxes) => boxes.map((box) => box.map(round).join(" ")).join("; ");

/** Two boxes [left, top, right, bottom] in shares, or null where the text does not say so. */
function read(text) {
  const rows = String(text).split(/[;\n]/).filter((row) => row.trim());
  const boxes = rows.map((row) => row.trim().split(/[\s,]+/).map(Number));
  const good = ([left, top, right, bottom, ...more]) =>
    !more.length && left >= 0 && top >= 0 && right <= 1 && bottom <= 1 && left < right && top < bottom;
  return boxes.length === 2 && boxes.every(good) ? boxes : null;
}

class LayoutCanvas {
  constructor(node) {
    this.node = node;
    this.facts = node.constructor.nodeData.input.required.preset[1].layout;
    this.writing = false; // while this class itself sets inputs
    this.build();
    const widget = node.addDOMWidget("layout", "dhd_layout", this.element, {
      serialize: false, // not in the API form
      hideOnZoom: false,
      getMinHeight: () => HEIGHT,
    });
    widget.serialize = false; // nor in the workflow: `boxes` holds it all
    for (const name of ["preset", "in_front", "width", "height", "boxes"]) {
      const input = this.widget(name);
      if (input) chain(input, "callback", () => this.changed(name));
    }
    chain(node, "onConfigure", () => this.configured());
    chain(node, "onConnectionsChange", () => queueMicrotask(() => this.refresh()));
    chain(node, "onExecuted", (told) => this.executed(told));
    node.setSize([Math.max(node.size[0], WIDTH), node.computeSize()[1]]);
    this.draw();
  }

  /** After undo Nodes 2.0 still shows the canvas of the node that this one, of the same number, stands in for. */
  configured() {
    this.draw();
    requestAnimationFrame(() => {
      const shown = [...document.querySelectorAll(`.dhd-layout[data-node="${this.node.id}"]`)];
      if (!shown.includes(this.element)) shown[0]?.replaceWith(this.element);
    });
  }

  // --- the node's inputs -------------------------------------------------------------------------------------------

  widget(name) {
    return this.node.widgets?.find((one) => one.name === name);
  }

  value(name) {
    return this.widget(name)?.value;
  }

  write(name, value) {
    const widget = this.widget(name);
    if (!widget || widget.value === value) return;
    this.writing = true;
    widget.value = value;
    widget.callback?.(value, app.canvas, this.node);
    this.writing = false;
  }

  /** The picture's size, px: that of a connected latent where it can be known, else the two inputs. */
  size() {
    const slot = this.node.inputs?.findIndex((one) => one.name === "latent") ?? -1;
    if (slot >= 0 && this.node.inputs[slot].link != null) {
      const source = this.node.getInputNode?.(slot);
      const [width, height] = ["width", "height"].map((name) => source?.widgets?.find((one) => one.name === name)?.value);
      if (width > 0 && height > 0) return [width, height];
      if (this.ran) return [this.ran.width, this.ran.height];
    }
    return [Number(this.value("width")) || 1024, Number(this.value("height")) || 1024];
  }

  preset() {
    return this.facts.presets[this.value("preset")]; // undefined: custom
  }

  boxes() {
    const preset = this.preset();
    return preset ? preset[this.shape()] : read(this.value("boxes"));
  }

  shape() {
    const [width, height] = this.size();
    if (Math.max(width, height) <= this.facts.square * Math.min(width, height)) return "square";
    return height > width ? "portrait" : "landscape";
  }

  front() {
    const said = { "person 1": 1, "person 2": 2, neither: null }[this.value("in_front")];
    return said === undefined ? this.preset()?.front ?? null : said;
  }

  /** Somebody changed an input by hand. */
  changed(name) {
    if (this.writing) return;
    const preset = this.preset();
    if (name === "boxes" && preset && this.value("boxes") !== written(preset[this.shape()])) this.customise();
    this.refresh();
  }

  /** Boxes that are no preset's any more; who is in front stays. */
  customise() {
    const preset = this.preset();
    if (!preset) return;
    if (preset.front && this.value("in_front") === "as preset") this.write("in_front", `person ${preset.front}`);
    this.write("preset", this.facts.custom);
  }

  /** Write a preset's boxes down, so that the text always says what holds; then draw. */
  refresh() {
    if (this.preset()) this.write("boxes", written(this.boxes()));
    this.draw();
  }

  executed(told) {
    this.ran = told?.layout?.[0] ?? this.ran;
    this.refresh();
  }

  // --- gestures ----------------------------------------------------------------------------------------------------

  /** Where a pointer is, in shares of the picture. */
  share(event) {
    const area = this.paper.getBoundingClientRect();
    return [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
  }

  grab(event) {
    const group = event.target.closest("[data-person]");
    if (event.button !== 0 || !group || !this.boxes()) return;
    event.stopPropagation();
    const person = Number(group.dataset.person);
    const edges = event.target.dataset.edges?.split(" ") ?? [];
    this.held = { person, edges, from: this.share(event), boxes: this.boxes().map((box) => [...box]) };
    this.canvas.setPointerCapture(event.pointerId);
    this.people[person].group.focus({ preventScroll: true });
  }

  drag(event) {
    if (!this.held) return;
    event.stopPropagation();
    const { person, edges, from, boxes } = this.held;
    const to = this.share(event);
    this.place(boxes, person, edges, [to[0] - from[0], to[1] - from[1]]);
  }

  release(event) {
    if (!this.held) return;
    this.held = null;
    event.stopPropagation();
    this.remember();
  }

  key(event, person) {
    const by = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey || !this.boxes()) return;
    event.preventDefault();
    event.stopPropagation();
    this.place(this.boxes(), person, event.shiftKey ? ["right", "bottom"] : [], by);
    this.remember();
  }

  /** Move a box, or the edges named, by shares of the picture; it stays inside and keeps its least size. */
  place(boxes, person, edges, by) {
    if (!by[0] && !by[1]) return;
    const moved = [...boxes[person]];
    for (const axis of [0, 1]) {
      const [low, high] = [moved[axis], moved[axis + 2]];
      if (!edges.length) {
        const shift = clamp(by[axis], -low, 1 - high);
        moved[axis] = low + shift;
        moved[axis + 2] = high + shift;
      }
      if (edges.includes(EDGES[axis])) moved[axis] = clamp(low + by[axis], 0, high - this.facts.least);
      if (edges.includes(EDGES[axis + 2])) moved[axis + 2] = clamp(high + by[axis], low + this.facts.least, 1);
    }
    this.customise();
    this.write("boxes", written(boxes.map((box, k) => (k === person ? moved : box))));
    this.draw();
    this.node.setDirtyCanvas?.(true, true);
  }

  /** One step for undo. The page looks for changes by itself only after some of its own events. */
  remember() {
    const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
    (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
  }

  // --- drawing -----------------------------------------------------------------------------------------------------

  build() {
    this.element = document.createElement("div");
    this.element.className = "dhd-layout";
    this.element.style.cssText = `width: 100%; height: 100%; min-height: ${HEIGHT}px; box-sizing: border-box; user-select: none`;
    this.canvas = svg("svg", { role: "group", "aria-label": "Where person 1 and person 2 are" });
    this.canvas.style.cssText = "display: block; width: 100%; height: 100%; touch-action: none; overflow: visible";
    this.element.append(this.canvas);
    svg("title", {}, this.canvas).textContent = HELP;
    this.paper = svg("rect", { fill: "#808080" }, this.canvas);
    this.picture = svg("image", { preserveAspectRatio: "xMidYMid slice" }, this.canvas);
    this.people = [0, 1].map((person) => this.buildPerson(person));
    this.trouble = svg("text", { "text-anchor": "middle", fill: "white", "pointer-events": "none" }, this.canvas);
    this.trouble.textContent = "boxes: four shares a person, see the tooltip";
    this.canvas.addEventListener("pointerdown", (event) => this.grab(event));
    this.canvas.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, (event) => this.release(event));
    // A latent's source may have changed its size meanwhile, of which this node hears nothing.
    this.canvas.addEventListener("pointerenter", () => !this.held && this.draw());
    this.canvas.addEventListener("wheel", (event) => {
      if (window.LiteGraph?.vueNodesMode) return; // there the page zooms by itself
      event.preventDefault();
      app.canvas.processMouseWheel?.(event);
    });
  }

  buildPerson(person) {
    const colour = this.facts.colours[person];
    const group = svg("g", { "data-person": person, tabindex: 0, role: "application" }, this.canvas);
    group.style.outline = "none";
    const halo = svg("rect", { fill: "none", stroke: "white", "stroke-opacity": 0.75 }, group); // to be seen on any background
    const area = svg("rect", { fill: colour, "fill-opacity": 0.22, stroke: colour, cursor: "move" }, group);
    const grips = svg("g", { "data-person": person }, this.canvas);
    const chip = svg("rect", { fill: colour, cursor: "move" }, grips);
    const label = svg("text", { fill: "white", "font-weight": 700, "text-anchor": "middle", "pointer-events": "none" }, grips);
    label.setAttribute("dominant-baseline", "central");
    label.textContent = person + 1;
    const corners = ["left top", "right top", "left bottom", "right bottom"].map((edges) => {
      const cursor = edges === "left top" || edges === "right bottom" ? "nwse-resize" : "nesw-resize";
      return svg("circle", { "data-edges": edges, fill: "white", stroke: colour, cursor }, grips);
    });
    group.addEventListener("keydown", (event) => this.key(event, person));
    group.addEventListener("focus", () => this.choose(person));
    group.addEventListener("blur", () => this.draw());
    return { group, grips, halo, area, chip, label, corners };
  }

  /** Labels and corners lie over both boxes; where they meet, those of the box last touched are on top. */
  choose(person) {
    this.trouble.before(this.people[person].grips);
    this.draw();
  }

  draw() {
    this.element.dataset.node = this.node.id; // a new node learns its number late
    const [width, height] = this.size();
    const unit = Math.max(width, height) / 100;
    set(this.canvas, { viewBox: `${-2 * unit} ${-2 * unit} ${width + 4 * unit} ${height + 4 * unit}` });
    set(this.paper, { width, height });
    set(this.picture, { width, height });
    this.drawBackground();
    const boxes = this.boxes();
    this.trouble.style.display = boxes ? "none" : "";
    set(this.trouble, { x: width / 2, y: height / 2, "font-size": 4 * unit });
    for (const [person, parts] of this.people.entries()) {
      for (const part of [parts.group, parts.grips]) part.style.display = boxes ? "" : "none";
      if (boxes) this.drawPerson(person, parts, boxes[person], [width, height], unit);
    }
    this.stack();
  }

  /** Whoever is in front is drawn last. Moving the element that has the focus would take the focus away, so the other one moves. */
  stack() {
    const front = (this.front() ?? 2) - 1;
    const [above, below] = [this.people[front].group, this.people[1 - front].group];
    if (above.compareDocumentPosition(below) & Node.DOCUMENT_POSITION_PRECEDING) return;
    if (below === document.activeElement) below.after(above);
    else above.before(below);
  }

  drawPerson(person, { group, halo, area, chip, label, corners }, box, [width, height], unit) {
    const [left, top, right, bottom] = [box[0] * width, box[1] * height, box[2] * width, box[3] * height];
    const dash = this.facts.dashes[person];
    const line = (document.activeElement === group ? 1.3 : 0.8) * unit;
    const outline = { x: left, y: top, width: right - left, height: bottom - top };
    set(halo, { ...outline, "stroke-width": line + 0.5 * unit });
    set(area, { ...outline, "stroke-width": line });
    area.setAttribute("stroke-dasharray", dash ? dash.map((part) => part * 0.8 * unit).join(" ") : "none");
    const side = 8 * unit;
    const x = person ? right - side : left; // on the outer side each, so that the labels seldom meet
    set(chip, { x, y: top, width: side, height: side });
    set(label, { x: x + side / 2, y: top + side / 2, "font-size": 6.5 * unit });
    for (const corner of corners) {
      const edges = corner.dataset.edges;
      const place = { cx: edges.includes("left") ? left : right, cy: edges.includes("top") ? top : bottom };
      set(corner, { ...place, r: 1.6 * unit, "stroke-width": 0.6 * unit });
    }
    const percent = box.map((edge, k) => `${EDGES[k]} ${Math.round(100 * edge)} %`).join(", ");
    group.setAttribute("aria-label", `Person ${person + 1}: ${percent}`);
  }

  drawBackground() {
    const file = this.ran?.background;
    const source = file ? app.api.apiURL(`/view?${new URLSearchParams(file)}`) : "";
    if (source === (this.source ?? "")) return;
    this.source = source;
    if (source) this.picture.setAttribute("href", source);
    else this.picture.removeAttribute("href");
  }
}
