import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"
import { keepPlace, showOutput } from "./remade.js"

// The page's own 3D viewer, inside a node that has a GLB among its results.
app.registerExtension({
  name: "gld.preview_3d",
  nodeCreated(node) {
    if (node.comfyClass !== "GLDExportGLB") return
    const container = document.createElement("div")
    // The viewer fills the nearest positioned element, which in Vue nodes would be the whole node.
    container.style = "position: relative; width: 100%; height: 100%; min-height: 280px; overflow: hidden"
    const widget = node.addDOMWidget("preview", "gld_preview_3d", container, { serialize: false, hideOnZoom: false, getMinHeight: () => 280 })
    widget.serialize = false
    node.setSize([Math.max(node.size[0], 360), Math.max(node.size[1], node.computeSize()[1])])

    let viewer
    keepPlace(container, node)
    const { onRemoved, onResize, onMouseEnter, onMouseLeave } = node
    showOutput(node, output => {
      const file = output?.["3d"]?.[0]
      const create = window.comfyAPI?.createLoad3d?.createLoad3d
      if (!file || !create) return
      viewer ??= create(container, { getZoomScale: () => app.canvas.ds.scale })
      viewer.loadModel(api.apiURL(`/view?${new URLSearchParams(file)}`), file.filename)
    })
    node.onResize = function () {
      onResize?.apply(this, arguments)
      viewer?.handleResize()
    }
    node.onMouseEnter = function () {
      onMouseEnter?.apply(this, arguments)
      viewer?.refreshViewport()
      viewer?.updateStatusMouseOnNode(true)
    }
    node.onMouseLeave = function () {
      onMouseLeave?.apply(this, arguments)
      viewer?.updateStatusMouseOnNode(false)
    }
    node.onRemoved = function () {
      onRemoved?.apply(this, arguments)
      viewer?.remove()
    }
  },
})
