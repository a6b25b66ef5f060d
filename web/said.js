import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"

// Newer pages take the text under a node away where the run ends, with what the node has found. It stays here until the next run.
const PAGES_OWN = "$$node-text-preview"
const said = new Map()
// The workflow that was open when the run began: only its nodes are meant.
let running
const open = () => app.extensionManager?.workflow?.activeWorkflow

/** The node that a run names by its number, in a subgraph with those of the boxes around it in front. */
const nodeOf = id => String(id).split(":").reduce((node, part) => (node?.subgraph ?? (node ? null : app.rootGraph))?.getNodeById(Number(part)), null)

function keep() {
  for (const [id, text] of said) {
    const node = open() === running ? nodeOf(id) : null
    if (!node || node.widgets?.some(widget => widget.name === PAGES_OWN)) continue
    const element = document.createElement("div")
    element.style = "white-space: pre-wrap; overflow: auto; padding: 4px; font-size: 11px; user-select: text; min-height: 50px"
    element.textContent = text
    const widget = node.addDOMWidget("said", "gld_said", element, { serialize: false, hideOnZoom: false, getMinHeight: () => 58, getMaxHeight: () => 90 })
    widget.serialize = false
    node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])])
  }
  said.clear()
}

function takeAway(node) {
  const own = node?.widgets?.find(widget => widget.name === "said")
  if (own) node.removeWidget(own)
}

app.registerExtension({
  name: "gld.said",
  setup() {
    api.addEventListener("execution_start", () => (running = open()))
    api.addEventListener("progress_text", ({ detail }) => {
      const node = open() === running ? nodeOf(detail.nodeId) : null
      if (!node?.comfyClass?.startsWith("GLD")) return
      takeAway(node)
      said.set(detail.nodeId, detail.text)
    })
    for (const end of ["execution_success", "execution_error", "execution_interrupted"]) api.addEventListener(end, () => setTimeout(keep))
  },
})
