/* The page's part of Encode Subject-Augmented Prompt: after a run the node shows the sentence, and in it who is who.

A word that carries a face has its person's color; one that only names somebody is underlined. Without color the number and the
dash of the line tell people apart. What is shown comes from the run, as spans of text; nothing is read from the sentence here. */

import { app } from "../../scripts/app.js";
import { chain, NodePanel } from "./node_panel.js";

app.registerExtension({
  name: "DHumanDiff.WhoIsWho",
  nodeCreated(node) {
    if (node.comfyClass !== "DHDSubjectPrompt") return;
    const { person_style: style } = node.constructor.nodeData.input.required.text[1];
    const panel = new NodePanel(node, "who_is_who", {
      contents: (output) => output.who_is_who?.map((spans) => sentence(spans, style)),
      style: "font: 13px/1.75 sans-serif",
    });
    const text = node.widgets?.find((one) => one.name === "text");
    if (text) chain(text, "callback", () => panel.fade()); // somebody writes another sentence
  },
});

/** `spans`: {text, person, is_subject}; person 0 is nobody. */
function sentence(spans, style) {
  const line = document.createElement("div");
  line.dir = "auto"; // scripts that run from right to left
  line.append(...spans.map((span) => (span.person ? word(span, style) : span.text)));
  return line;
}

function word({ text, person, is_subject: isSubject }, { colors, dashes }) {
  const color = colors[(person - 1) % colors.length];
  const dash = dashes[(person - 1) % dashes.length];
  const line = !dash ? "solid" : dash[0] > 6 ? "double" : dash[0] > 2 ? "dashed" : "dotted"; // long dashes would be cut by a word
  const element = document.createElement("span");
  element.dataset.person = person;
  element.dataset.subject = isSubject;
  element.title = `person ${person}: ${isSubject ? "this word carries the face" : "named here; another word carries the face"}`;
  element.style.cssText = `border-bottom: 3px ${line} ${color}; padding: 1px 4px; border-radius: 3px 3px 0 0; box-decoration-break: clone`;
  if (isSubject) element.style.cssText += `; background: ${color}; background-clip: padding-box; color: white; font-weight: 700`;
  const number = document.createElement("sup");
  number.textContent = person;
  number.style.cssText = "margin-left: 2px; font-size: 0.75em; line-height: 0";
  element.append(text, number); // as text, whatever is in it
  return element;
}
