import { app } from "../../scripts/app.js"

// The page makes a node anew where the user undoes something, or changes to another workflow and back. What follows keeps what
// the node shows.

/**
 * Vue nodes keep the element of a removed node where another of its number comes at once, as with the page's own undo: that
 * node's element takes its place.
 */
export function keepPlace(element, node) {
  const { onRemoved } = node
  node.onRemoved = function () {
    onRemoved?.apply(this, arguments)
    element.dataset.gldLeft = String(node.id)
  }
  const take = tries => {
    if (element.isConnected || !tries) return
    const left = document.querySelector(`[data-gld-left="${node.id}"]`)
    if (left) left.replaceWith(element)
    else setTimeout(take, 150, tries - 1)
  }
  setTimeout(take, 0, 20)
}

// Nodes that show what their last run gave, with how they do so.
const shown = new Map()

/** What the page keeps of a node's last run. It names nodes of a subgraph with the subgraph's number in front. */
function lastOutput(node) {
  const { graph, id } = node
  return app.nodeOutputs?.[!graph || graph === app.rootGraph ? id : `${graph.id}:${id}`]
}

/** Show what a run of a node gives, and in a node that is made anew what its last run gave. */
export function showOutput(node, show) {
  const { onExecuted, onRemoved } = node
  let last
  const again = output => {
    if (output && output !== last) show((last = output))
  }
  shown.set(node, () => again(lastOutput(node)))
  setTimeout(() => again(lastOutput(node)))
  node.onExecuted = function (output) {
    onExecuted?.apply(this, arguments)
    show((last = output))
  }
  node.onRemoved = function () {
    onRemoved?.apply(this, arguments)
    shown.delete(node)
  }
}

app.registerExtension({
  name: "gld.remade",
  onNodeOutputsUpdated: () => shown.forEach(show => show()),
})
