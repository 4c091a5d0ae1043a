/* What a node of this pack refuses is written on the node itself: the page may say only that it failed, and why behind a button.
   Where the node is inside a subgraph (a blueprint) that is not open, a message of the page says it. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const TEXT = "$$node-text-preview"; // the page's own name for a text on a node
const JOINER = "\u2060"; // is not seen, and takes from a text what the page would make a link of
let takeBack = () => {};

app.registerExtension({
  name: "DHumanDiff.Errors",
  setup() {
    api.addEventListener("execution_error", ({ detail }) => {
      if (!detail?.node_type?.startsWith("DHD") || !detail.exception_message) return;
      takeBack();
      const text = detail.exception_message.trim();
      const node = onOpenGraph(String(detail.node_id));
      takeBack = node ? write(node, String(detail.node_id), text) : announce(text);
    });
    api.addEventListener("execution_start", () => {
      takeBack(); // whether it is mended will be seen
      takeBack = () => {};
    });
  },
});

/** The node with an id like "12:5", node 5 inside the subgraph node 12; undefined where that subgraph is not what is open. */
function onOpenGraph(id) {
  const path = id.split(":");
  const last = path.pop();
  const graph = path.reduce((inside, host) => inside?.getNodeById(host)?.subgraph, app.rootGraph ?? app.graph);
  return graph && graph === app.canvas.graph ? graph.getNodeById(last) : undefined;
}

/** A text without markup and links: the page shows it as HTML, and a message may quote what somebody typed. */
function plain(text) {
  return text.replaceAll("<", "‹").replaceAll(">", "›").replace(/\[(?=\[)|:(?=\/\/)|www(?=\.)/gi, (found) => found + JOINER);
}

function write(node, nodeId, text) {
  api.dispatchCustomEvent?.("progress_text", { nodeId, text: plain(text) });
  return () => {
    const index = node.widgets?.findIndex((widget) => widget.name === TEXT) ?? -1;
    if (index < 0) return;
    node.widgets[index].onRemove?.();
    node.widgets.splice(index, 1);
    node.setDirtyCanvas?.(true, true);
  };
}

function announce(detail) {
  const message = { severity: "error", summary: "DHumanDiff", detail };
  app.extensionManager.toast.add(message);
  return () => app.extensionManager.toast.remove(message);
}
