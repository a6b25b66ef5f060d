import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"
import { keepPlace, showOutput } from "./remade.js"

// The widget of Place GLD Cameras. The editor itself, and three.js with it, comes when such a node is first in sight.
const TYPE = "GLD_CAMERA_PATH"
const SIZE = [860, 690]

const viewAddress = file => api.apiURL(`/view?${new URLSearchParams(file)}`)

let style
function addStyle() {
  style ??= document.head.appendChild(
    Object.assign(document.createElement("link"), { rel: "stylesheet", href: new URL("editor/editor.css", import.meta.url).href })
  )
}

async function ask(address, body) {
  const answer = await api.fetchApi(address, { method: "POST", body: JSON.stringify(body) })
  const content = await answer.json()
  if (content.error) throw new Error(content.error)
  return content
}

/** The node's number as runs name it, which in a subgraph has those of the boxes around it in front. */
const isNode = (id, node) => String(id).split(":").pop() === String(node.id)

/** The path in a widget's value; null for what is none, which the server will say. */
function asPath(value) {
  try {
    const path = typeof value === "string" ? JSON.parse(value) : value
    return path?.version === 1 && Array.isArray(path.keys) ? path : null
  } catch {
    return null
  }
}

function pathWidget(node, name, [, options]) {
  const host = Object.assign(document.createElement("div"), { className: "gld-host" })
  const empty = options?.default ?? { version: 1, keys: [] }
  let path = structuredClone(empty)
  let editor, opening, scene, unread

  const widget = node.addDOMWidget(name, "gld_camera_path", host, {
    hideOnZoom: false,
    getMinHeight: () => 400,
    getValue: () => unread ?? path,
    setValue(value) {
      const found = asPath(value)
      unread = found ? undefined : value || undefined
      path = found ?? structuredClone(empty)
      editor?.state.replace(path)
    },
  })

  const show = file => {
    scene = file
    editor?.load(viewAddress(file))
  }

  async function open() {
    addStyle()
    const [{ Editor }, { translator }, offered] = await Promise.all([
      import("./editor/editor.mjs"),
      import("./editor/texts.mjs"),
      api.fetchApi("/i18n").then(answer => answer.json()),
    ])
    const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en"
    editor = new Editor(host, {
      path,
      save(value) {
        path = value
        unread = undefined
        node.graph?.setDirtyCanvas(true, false)
        const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker
        ;(tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker)
      },
      run: () => app.queuePrompt(0, 1, [String(node.id)]),
      ask,
      draft: view => import("./editor/draft.mjs").then(({ draft }) => draft({ app, api, node, path, view })),
      t: translator(offered, language),
    })
    host.editor = editor
    if (scene) show(scene)
  }

  const sight = new IntersectionObserver(entries => {
    const { isIntersecting } = entries.at(-1)
    if (isIntersecting) opening ??= open()
    editor?.setShown(isIntersecting)
  })
  sight.observe(host)
  keepPlace(host, node)

  const told = ({ detail }) => isNode(detail.node, node) && show(detail.scene)
  api.addEventListener("gld.scene", told)
  showOutput(node, output => output?.gld_scene && show(output.gld_scene[0]))
  const { onRemoved } = node
  node.onRemoved = function () {
    onRemoved?.apply(this, arguments)
    sight.disconnect()
    api.removeEventListener("gld.scene", told)
    // Not before the editor is there.
    Promise.resolve(opening).then(() => editor?.dispose())
  }
  requestAnimationFrame(() => {
    if (node.size[0] < SIZE[0] - 100) node.setSize([SIZE[0], Math.max(node.size[1], SIZE[1])])
  })
  return { widget, minWidth: SIZE[0], minHeight: SIZE[1] }
}

app.registerExtension({
  name: "gld.place_cameras",
  getCustomWidgets: () => ({ [TYPE]: pathWidget }),
})
