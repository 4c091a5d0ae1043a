/* The page's part of Encode Subject-Augmented Prompt: after a run the node shows the sentence, and in it who is who.

A word that carries a face has its person's colour; one that only names somebody is underlined. Without colour the number and the
dash of the line tell people apart. What is shown comes from the run, as pieces of text; nothing is read from the sentence here,
and nothing of this is saved. */

import { app } from "../../scripts/app.js";
import { chain, takeOver } from "./node_panel.js";

const NODE = "DHDSubjectPrompt";
const CLASS = "dhd-who-is-who";
const MARGIN = 6; // px around the panel on the classic canvas, which counts it as part of the height

app.registerExtension({
  name: "DHumanDiff.WhoIsWho",
  nodeCreated(node) {
    if (node.comfyClass === NODE) new WhoIsWho(node);
  },
});

class WhoIsWho {
  constructor(node) {
    this.node = node;
    this.marks = node.constructor.nodeData.input.required.text[1].marks;
    chain(node, "onExecuted", (told) => this.show(told?.who_is_who));
    chain(node, "onConfigure", () => this.configured());
    const text = node.widgets?.find((one) => one.name === "text");
    if (text) chain(text, "callback", () => this.outdated());
  }

  /** After undo, or in a tab that was left and entered again, the page still has what the last run said of this node. */
  configured() {
    const { graph, id } = this.node;
    const place = graph && graph !== app.rootGraph && graph.id ? `${graph.id}:${id}` : id;
    this.show(app.nodeOutputs?.[place]?.who_is_who);
    if (this.panel) takeOver(this.panel, CLASS, id);
  }

  /** Somebody writes another sentence: what is shown is that of the last run. */
  outdated() {
    if (this.panel) this.panel.style.opacity = 0.45;
  }

  /** `sentences`: lists of pieces {text, person, bound}; mostly one. */
  show(sentences) {
    if (!sentences?.length) return;
    this.panel ?? this.build();
    this.panel.dataset.node = this.node.id;
    this.panel.style.opacity = 1;
    this.inside.replaceChildren(...sentences.map((pieces) => this.sentence(pieces)));
    this.fit();
  }

  build() {
    this.panel = document.createElement("div");
    this.panel.className = CLASS;
    this.panel.style.cssText = `width: 100%; box-sizing: border-box; cursor: default`;
    this.inside = document.createElement("div");
    this.inside.style.cssText =
      "padding: 4px 8px 8px; font: 13px/1.75 sans-serif; color: var(--input-text, #ddd); overflow-wrap: anywhere; white-space: pre-wrap";
    this.panel.append(this.inside);
    this.panel.addEventListener("wheel", (event) => {
      if (window.LiteGraph?.vueNodesMode) return; // there the page zooms by itself
      event.preventDefault();
      app.canvas.processMouseWheel?.(event);
    });
    const height = () => (this.inside.offsetHeight || 40) + 2 * MARGIN;
    this.widget = this.node.addDOMWidget("who_is_who", "dhd_who_is_who", this.panel, {
      serialize: false, // not in the API form
      hideOnZoom: false,
      margin: MARGIN,
      getMinHeight: height,
      getMaxHeight: height,
    });
    this.widget.serialize = false; // nor in the workflow
    // The width of the node decides how many lines there are.
    this.watch = new ResizeObserver(() => this.fit());
    this.watch.observe(this.inside);
    chain(this.node, "onRemoved", () => this.watch.disconnect());
  }

  /** Make the node as high as it has to be, where it is not. */
  fit() {
    const [width, height] = this.node.size;
    const least = this.node.computeSize()[1];
    if (height < least) this.node.setSize([width, least]);
    this.node.setDirtyCanvas?.(true, true);
  }

  sentence(pieces) {
    const line = document.createElement("div");
    line.dir = "auto"; // scripts that run from right to left
    line.append(...pieces.map((piece) => (piece.person ? this.word(piece) : piece.text)));
    return line;
  }

  word({ text, person, bound }) {
    const colour = this.marks.colours[(person - 1) % this.marks.colours.length];
    const dash = this.marks.dashes[(person - 1) % this.marks.dashes.length];
    const style = !dash ? "solid" : dash[0] > 2 ? "dashed" : "dotted";
    const word = document.createElement("span");
    word.dataset.person = person;
    word.dataset.bound = bound;
    word.title = `person ${person}: ${bound ? "this word carries the face" : "named here; another word carries the face"}`;
    word.style.cssText = `box-decoration-break: clone; border-bottom: 3px ${style} ${colour}; padding: 1px 4px; border-radius: 3px 3px 0 0`;
    if (bound) word.style.cssText += `; background: ${colour}; background-clip: padding-box; color: white; font-weight: 700`;
    const number = document.createElement("sup");
    number.textContent = person;
    number.style.cssText = "margin-left: 2px; font-size: 0.75em; line-height: 0";
    word.append(text, number); // as text, whatever is in it
    return word;
  }
}
