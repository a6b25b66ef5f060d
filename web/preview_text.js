import { app } from "../../scripts/app.js"
import { keepPlace, showOutput } from "./remade.js"

// The report, inside the node that makes it.
app.registerExtension({
  name: "gld.preview_text",
  nodeCreated(node) {
    if (node.comfyClass !== "GLDEvaluateViews") return
    const text = document.createElement("pre")
    text.style = "margin: 0; padding: 6px; overflow: auto; white-space: pre-wrap; font-size: 11px; user-select: text; background: var(--comfy-input-bg)"
    const widget = node.addDOMWidget("preview", "gld_preview_text", text, { serialize: false, hideOnZoom: false, getMinHeight: () => 140 })
    widget.serialize = false
    node.setSize([Math.max(node.size[0], 420), Math.max(node.size[1], node.computeSize()[1])])
    keepPlace(text, node)
    showOutput(node, output => (text.textContent = output?.text?.join("\n") ?? ""))
  },
})
