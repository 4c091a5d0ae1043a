/* What the pack's panels on nodes share. */

import { app } from "../../scripts/app.js";

const MARGIN = 6; // px around a panel on the classic canvas, which counts it as part of the height

/** Call `after` with the arguments of `owner[name]` whenever that has been called. */
export function chain(owner, name, after) {
  const before = owner[name];
  owner[name] = function (...all) {
    const result = before?.apply(this, all);
    after(...all);
    return result;
  };
}

/** What an object itself has under a name; undefined for what every object has, such as "constructor". */
export function own(object, name) {
  return object && typeof name !== "object" && Object.hasOwn(object, name) ? object[name] : undefined;
}

/** After undo Nodes 2.0 still shows the panel of the node that this one, of the same number, stands in for: put this one's there.
 *
 * `element` has the class `name`, and the node's number as `data-node`. */
export function takeOver(element, name, number) {
  requestAnimationFrame(() => {
    // Compared, never put into a selector: the number comes out of a workflow's file, which may hold anything.
    const shown = [...document.getElementsByClassName(name)].filter((one) => one.dataset.node === String(number));
    if (!shown.includes(element)) shown[0]?.replaceWith(element);
  });
}

/** What a node has to say after a run, on the node. It is there from the first run on, and nothing of it is saved. */
export class NodePanel {
  /** `contents`: a run's output for the page -> elements and texts (which are never markup), or nothing; `style`: CSS of what is inside;
   * `selectable`: whether the text can be marked and copied, in the place of dragging the node by it. */
  constructor(node, name, { contents, style, selectable = false }) {
    Object.assign(this, { node, name, contents, style, selectable });
    this.className = `dhd-${name.replaceAll("_", "-")}`;
    chain(node, "onExecuted", (output) => this.show(output));
    chain(node, "onConfigure", () => this.configured());
  }

  /** After undo, or in a tab that was left and entered again, the page still has the last run's output of this node. */
  configured() {
    const { graph, id } = this.node;
    this.show(own(app.nodeOutputs, graph && graph !== app.rootGraph && graph.id ? `${graph.id}:${id}` : id));
    if (this.element) takeOver(this.element, this.className, id);
  }

  show(output) {
    const contents = output && this.contents(output);
    if (!contents?.length) return;
    if (!this.element) this.build();
    this.element.dataset.node = this.node.id;
    this.element.style.opacity = 1;
    this.inside.replaceChildren(...contents);
    this.fit();
  }

  /** What is shown is no longer what holds. */
  fade() {
    if (this.element) this.element.style.opacity = 0.45;
  }

  build() {
    this.element = document.createElement("div");
    this.element.className = this.className;
    this.element.style.cssText = `width: 100%; box-sizing: border-box; cursor: ${this.selectable ? "text" : "default"}`;
    this.inside = document.createElement("div");
    this.inside.style.cssText = `padding: 4px 8px 8px; color: var(--input-text, #ddd); overflow-wrap: anywhere; white-space: pre-wrap; ${this.style}`;
    this.element.append(this.inside);
    if (this.selectable) {
      this.inside.style.userSelect = "text";
      for (const name of ["pointerdown", "pointermove"]) this.element.addEventListener(name, (event) => event.stopPropagation());
    }
    this.element.addEventListener("wheel", (event) => {
      if (window.LiteGraph?.vueNodesMode) return; // there the page zooms by itself
      event.preventDefault();
      app.canvas.processMouseWheel?.(event);
    });
    const height = () => (this.inside.offsetHeight || 40) + 2 * MARGIN;
    const widget = this.node.addDOMWidget(this.name, `dhd_${this.name}`, this.element, {
      serialize: false, // not in the API form
      hideOnZoom: false,
      margin: MARGIN,
      getMinHeight: height,
      getMaxHeight: height,
    });
    widget.serialize = false; // nor in the workflow
    // The width of the node decides how many lines there are.
    const watch = new ResizeObserver(() => this.fit());
    watch.observe(this.inside);
    chain(this.node, "onRemoved", () => watch.disconnect());
  }

  /** Make the node as high as it has to be, where it is not. */
  fit() {
    const [width, height] = this.node.size;
    const minHeight = this.node.computeSize()[1];
    if (height < minHeight) this.node.setSize([width, minHeight]);
    this.node.setDirtyCanvas?.(true, true);
  }
}
