import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"

// What the lists of the nodes offer, in the page's language: locales/<language>/main.json. The option's own name, which
// workflows and messages have, stays behind it.
let labels = {}

function translate(widget) {
  const own = labels[widget.name.split(".").at(-1)]
  if (own && widget.type === "combo" && widget.options) widget.options.getOptionLabel = value => (own[value] ? `${own[value]} (${value})` : String(value ?? ""))
}

app.registerExtension({
  name: "gld.option_labels",
  async init() {
    const offered = await (await api.fetchApi("/i18n")).json()
    labels = offered[app.extensionManager?.setting?.get("Comfy.Locale") ?? "en"]?.gldOptions ?? {}
  },
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("GLD")) return
    node.widgets?.forEach(translate)
    // A choice may bring lists of its own.
    const { addCustomWidget } = node
    node.addCustomWidget = function () {
      const widget = addCustomWidget.apply(this, arguments)
      translate(widget)
      return widget
    }
  },
})
