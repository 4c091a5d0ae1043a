/* Texts that nodes show after a run: the Doctor's report, the name under which a person was saved. The page shows such texts on some
nodes of its own only. */

import { app } from "../../scripts/app.js";
import { NodePanel } from "./node_panel.js";

const NODES = ["DHDDoctor", "DHDSaveReference"];

app.registerExtension({
  name: "DHumanDiff.StatusText",
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return;
    new NodePanel(node, "status_text", {
      contents: (output) => output.text?.length && [output.text.join("\n")],
      style: "font: 12px/1.5 monospace",
      selectable: true,
    });
  },
});
