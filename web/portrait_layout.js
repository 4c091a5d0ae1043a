/* The page's part of Portrait Layout: a box a person to drag and resize over a canvas of the picture's shape.

The node's inputs are the only state: a gesture writes `boxes` and `preset`, and what is drawn is read from them. So saving, undo,
copy and paste and the API form need nothing of their own. Presets, colors and dashes come with the node's definition. */

import { app } from "../../scripts/app.js";
import { EDGES, HEIGHT, LayoutView } from "./layout_view.js";
import { chain, own, takeOver } from "./node_panel.js";

const NODE = "DHDPortraitLayout";
const WIDTH = 340; // px, the node's when it is new
const MAX_SIDE = 131072; // px, the most that is drawn: far more than any picture has
const AS_PRESET = "as preset"; // of in_front
const STEP = 0.01; // share of the picture that an arrow key moves

app.registerExtension({
  name: "DHumanDiff.PortraitLayout",
  nodeCreated(node) {
    if (node.comfyClass === NODE) new LayoutCanvas(node);
  },
});

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const round = (value) => Math.round(value * 1000) / 1000;
/** A side of a picture, px, or 0 where a workflow's file says something else. */
const side = (value) => (typeof value !== "object" && value >= 1 && value <= MAX_SIDE ? Number(value) : 0);
const formatBoxes = (boxes) => boxes.map((box) => box.map(round).join(" ")).join("; ");

/** Full-width digits and signs, which Chinese, Japanese and Korean keyboards write, as plain ones. */
const fold = (text) =>
  text
    .replace(/[\uff01-\uff5e]/g, (sign) => String.fromCharCode(sign.charCodeAt(0) - 0xfee0))
    .replace(/[\u3001\uff64]/g, ",")
    .replace(/[\u3002\uff61]/g, ".");

/** Boxes [left, top, right, bottom] in shares, or null where the text does not say so. */
function parseBoxes(text) {
  if (typeof text !== "string") return null;
  const rows = fold(text).split(/[;\r\n]/).filter((row) => row.trim());
  const boxes = rows.map((row) => row.trim().split(/[\s,]+/).map(Number));
  const good = ([left, top, right, bottom, ...more]) =>
    !more.length && left >= 0 && top >= 0 && right <= 1 && bottom <= 1 && left < right && top < bottom;
  return boxes.length && boxes.every(good) ? boxes : null;
}

class LayoutCanvas {
  constructor(node) {
    this.node = node;
    this.facts = node.constructor.nodeData.input.required.preset[1].layout;
    this.writing = false; // while this class itself sets inputs
    this.view = new LayoutView(this.facts);
    this.listen();
    const widget = node.addDOMWidget("layout", "dhd_layout", this.view.element, {
      serialize: false, // not in the API form
      hideOnZoom: false,
      getMinHeight: () => HEIGHT,
    });
    widget.serialize = false; // nor in the workflow: `boxes` holds it all
    for (const name of ["preset", "in_front", "width", "height", "boxes", "people"]) {
      const input = this.widget(name);
      if (input) chain(input, "callback", () => this.changed(name));
    }
    chain(node, "onConfigure", () => this.configured());
    chain(node, "onConnectionsChange", () => queueMicrotask(() => this.refresh()));
    chain(node, "onExecuted", (output) => this.executed(output));
    node.setSize([Math.max(node.size[0], WIDTH), node.computeSize()[1]]);
    this.draw();
  }

  configured() {
    this.draw();
    takeOver(this.view.element, "dhd-layout", this.node.id);
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
    this.node.setDirtyCanvas?.(true, true);
  }

  /** The picture's size, px: that of a connected latent where it can be known, else the two inputs. */
  size() {
    const slot = this.node.inputs?.findIndex((one) => one.name === "latent") ?? -1;
    if (slot >= 0 && this.node.inputs[slot].link != null) {
      const source = this.node.getInputNode?.(slot);
      const [width, height] = ["width", "height"].map((name) => side(source?.widgets?.find((one) => one.name === name)?.value));
      if (width && height) return [width, height];
      if (this.lastRun) return [this.lastRun.width, this.lastRun.height];
    }
    return [side(this.value("width")) || 1024, side(this.value("height")) || 1024];
  }

  /** How many people there are: where that is linked, what the other node has, or else what the last run had. */
  people() {
    const slot = this.node.inputs?.findIndex((one) => one.name === "people") ?? -1;
    let people = this.value("people");
    if (slot >= 0 && this.node.inputs[slot].link != null) {
      const source = this.node.getInputNode?.(slot)?.widgets?.find((one) => one.name === "value")?.value;
      people = Number.isInteger(source) ? source : this.lastRun?.people ?? people;
    }
    return Number.isInteger(people) && people >= 1 && people <= this.facts.colors.length ? people : 2;
  }

  /** A preset for so many people; undefined: custom, and what is none. */
  preset(name = this.value("preset")) {
    return own(own(this.facts.presets, name), this.people());
  }

  boxes() {
    if (this.held?.moved) return this.held.moved; // not written down before the gesture ends
    const preset = this.preset();
    if (preset) return preset[this.shape()];
    const boxes = own(this.facts.presets, this.value("preset")) ? null : parseBoxes(this.value("boxes"));
    return boxes?.length === this.people() ? boxes : null;
  }

  shape() {
    const [width, height] = this.size();
    if (Math.max(width, height) <= this.facts.max_square_ratio * Math.min(width, height)) return "square";
    return height > width ? "portrait" : "landscape";
  }

  front() {
    const chosen = this.value("in_front");
    const front = chosen === AS_PRESET ? this.preset()?.front : own(this.facts.front, chosen);
    return front <= this.people() ? front : null;
  }

  /** Somebody changed an input by hand. */
  changed(name) {
    if (this.writing) return;
    const preset = this.preset();
    if (name === "people") this.recount();
    if (name === "boxes" && preset && this.value("boxes") !== formatBoxes(preset[this.shape()])) this.customize();
    this.refresh();
  }

  /** Other people: a preset that has no boxes for them gives way to the first that has; boxes of one's own stay, and whoever
   * comes gets the box of that preset. */
  recount() {
    const people = this.people();
    const first = Object.keys(this.facts.presets).find((name) => this.preset(name));
    if (own(this.facts.front, this.value("in_front")) > people) this.write("in_front", AS_PRESET);
    if (this.preset()) return;
    if (this.value("preset") !== this.facts.custom) return this.write("preset", first);
    const boxes = parseBoxes(this.value("boxes"));
    const more = this.preset(first)[this.shape()].slice(boxes?.length ?? 0);
    if (boxes) this.write("boxes", formatBoxes([...boxes.slice(0, people), ...more]));
  }

  /** Boxes that are no preset's any more; who is in front stays. */
  customize() {
    const preset = this.preset();
    if (!preset) return;
    if (preset.front && this.value("in_front") === AS_PRESET) this.write("in_front", `person ${preset.front}`);
    this.write("preset", this.facts.custom);
  }

  /** Write a preset's boxes down, so that the text always says what holds; then draw. */
  refresh() {
    const preset = this.preset();
    if (preset) this.write("boxes", formatBoxes(preset[this.shape()]));
    this.draw();
  }

  draw() {
    this.view.element.dataset.node = this.node.id; // a new node learns its number late
    const file = this.lastRun?.background;
    const background = file ? app.api.apiURL(`/view?${new URLSearchParams(file)}`) : "";
    this.view.draw({ size: this.size(), boxes: this.boxes(), front: this.front(), background });
  }

  executed(output) {
    this.lastRun = output?.layout?.[0] ?? this.lastRun;
    this.refresh();
  }

  // --- gestures ----------------------------------------------------------------------------------------------------

  listen() {
    const { canvas, people } = this.view;
    canvas.addEventListener("pointerdown", (event) => this.grab(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => this.release(event));
    // A latent's source may have changed its size meanwhile, of which this node hears nothing.
    canvas.addEventListener("pointerenter", () => !this.held && this.refresh());
    canvas.addEventListener("wheel", (event) => {
      if (window.LiteGraph?.vueNodesMode) return; // there the page zooms by itself
      event.preventDefault();
      app.canvas.processMouseWheel?.(event);
    });
    for (const [person, { group }] of people.entries()) {
      group.addEventListener("keydown", (event) => this.key(event, person));
      for (const event of ["focus", "blur"]) group.addEventListener(event, () => this.draw());
    }
  }

  grab(event) {
    const group = event.target.closest("[data-person]");
    if (event.button !== 0 || !group || !this.boxes()) return;
    event.stopPropagation();
    const person = Number(group.dataset.person);
    const edges = event.target.dataset.edges?.split(" ") ?? [];
    this.held = { person, edges, from: this.view.share(event), boxes: this.boxes().map((box) => [...box]) };
    this.view.canvas.setPointerCapture(event.pointerId);
    this.view.people[person].group.focus({ preventScroll: true });
  }

  drag(event) {
    if (!this.held) return;
    event.stopPropagation();
    const { person, edges, from, boxes } = this.held;
    const to = this.view.share(event);
    const by = [to[0] - from[0], to[1] - from[1]];
    if (!by[0] && !by[1] && !this.held.moved) return;
    this.held.moved = this.moved(boxes, person, edges, by);
    this.draw();
  }

  release(event) {
    if (!this.held) return;
    const { moved } = this.held;
    this.held = null;
    event.stopPropagation();
    if (moved) this.place(moved);
  }

  key(event, person) {
    const by = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey || !this.boxes()) return;
    event.preventDefault();
    event.stopPropagation();
    this.place(this.moved(this.boxes(), person, event.shiftKey ? ["right", "bottom"] : [], by));
  }

  /** The boxes with one moved, or the edges named, by shares of the picture; it stays inside and keeps its smallest size. */
  moved(boxes, person, edges, by) {
    const moved = [...boxes[person]];
    for (const axis of [0, 1]) {
      const [low, high] = [moved[axis], moved[axis + 2]];
      if (!edges.length) {
        const shift = clamp(by[axis], -low, 1 - high);
        moved[axis] = low + shift;
        moved[axis + 2] = high + shift;
      }
      if (edges.includes(EDGES[axis])) moved[axis] = clamp(low + by[axis], 0, high - this.facts.min_box);
      if (edges.includes(EDGES[axis + 2])) moved[axis + 2] = clamp(high + by[axis], low + this.facts.min_box, 1);
    }
    return boxes.map((box, k) => (k === person ? moved : box));
  }

  /** Write boxes down at the end of a gesture: one change, whenever the page looks for changes. */
  place(boxes) {
    this.customize();
    this.write("boxes", formatBoxes(boxes));
    this.draw();
    this.remember();
  }

  /** One step for undo. The page looks for changes by itself only after some of its own events. */
  remember() {
    const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
    (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
  }
}
