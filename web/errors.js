/* What a node of this pack refuses is written on the node itself: the page may say only that it failed, and why behind a button. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const TEXT = "$$node-text-preview"; // the page's own name for a text on a node
let failed = null; // the number of the node that has one

app.registerExtension({
  name: "DHumanDiff.Errors",
  setup() {
    api.addEventListener("execution_error", ({ detail }) => {
      if (!detail?.node_type?.startsWith("DHD") || !detail.exception_message) return;
      failed = detail.node_id;
      // The page shows such texts as HTML, and a message may quote what somebody typed.
      const text = detail.exception_message.trim().replaceAll("<", "‹").replaceAll(">", "›");
      api.dispatchCustomEvent?.("progress_text", { nodeId: String(failed), text });
    });
    api.addEventListener("execution_start", clear);
  },
});

/** The next run begins: whether it is mended will be seen. */
function clear() {
  const node = failed === null ? null : app.graph.getNodeById(Number(failed));
  failed = null;
  const place = node?.widgets?.findIndex((widget) => widget.name === TEXT) ?? -1;
  if (place < 0) return;
  node.widgets[place].onRemove?.();
  node.widgets.splice(place, 1);
  node.setDirtyCanvas?.(true, true);
}
