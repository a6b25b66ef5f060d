// Menus of the toolbar: where keys come from, the motions to start from, files.
import { make, number } from "./dom.mjs"
import { cameraPath, download, readPath, upload } from "./exchange.mjs"
import { emptyPath } from "./path.mjs"

/**
 * @typedef {import("./state.mjs").State} State
 * @typedef {import("./timeline.mjs").Translate} Translate
 * @typedef {{state: State, t: Translate, ask: (address: string, body: object) => Promise<any>, tell: (text: string) => void}} Context
 */

/** How many keys follow a motion closely, and the step of its settings. */
const KEYS = /** @type {Record<string, number>} */ ({
  orbit: 8, arc: 3, spiral: 16, lemniscate: 12, dolly: 2, truck: 2, pedestal: 2, pan: 3, tilt: 3, roll: 3, zoom: 3,
  dolly_zoom: 5, look_around: 12,
})

/** A menu that closes when something else is pressed. */
export class Menu {
  /** @param {HTMLElement} root of the editor */
  constructor(root) {
    this.element = make("div", { className: "gld-menu", hidden: true, role: "menu" })
    root.append(this.element)
    root.addEventListener("pointerdown", event => {
      if (!this.element.contains(/** @type {Node} */ (event.target))) this.close()
    }, true)
  }

  /** @param {HTMLElement} below @param {(Node | null)[]} content */
  open(below, content) {
    if (!this.element.hidden && this.owner === below) return this.close()
    this.owner = below
    this.element.replaceChildren(...content.filter(part => part !== null))
    this.element.hidden = false
    this.element.style.left = `${Math.max(4, Math.min(below.offsetLeft, (this.element.parentElement?.clientWidth ?? 0) - this.element.offsetWidth - 4))}px`
    this.element.style.top = `${below.offsetTop + below.offsetHeight + 4}px`
  }

  close() {
    this.element.hidden = true
  }

  /** @param {string} text @param {() => void} press @param {string} [hint] */
  item(text, press, hint) {
    return make("button", { type: "button", className: "gld-item", role: "menuitem", onclick: () => {
      this.close()
      press()
    } }, make("span", {}, text), hint ? make("kbd", {}, hint) : null)
  }
}

/** Keys of a path as the start of this one. @param {State} state @param {import("./path.mjs").Key[]} keys @param {object} [rest] */
function start(state, keys, rest = {}) {
  state.chosen = -1
  state.free = null
  const views = Math.max(state.path.views ?? emptyPath().views ?? 24, keys.length)
  state.change({ keys, look_at: null, views, ...rest })
  state.seek(0)
}

/** @param {Context} context @param {Menu} menu @param {() => import("./path.mjs").View} outside */
export function addMenu({ state, t }, menu, outside) {
  const sources = state.scene?.sources.map((_, number) => menu.item(t("atSource", { number }), () => state.add(state.sourceView(number)))) ?? []
  return [
    menu.item(t("addHere"), () => state.add(state.view), "K"),
    menu.item(t("addOutside"), () => state.add(outside()), "Shift+K"),
    ...sources,
  ]
}

/** @param {Context} context @param {Menu} menu @param {HTMLElement} below */
export async function motionMenu({ state, t, ask, tell }, menu, below) {
  if (!state.scene) return tell(t("runFirst"))
  const { motions } = await ask("/gld/motions", {})
  const scene = state.scene
  const choose = (/** @type {string} */ name) => {
    /** @type {Record<string, number>} */
    const settings = { ...motions[name].settings }
    let keys = KEYS[name] ?? 8
    let base = 0
    const fields = Object.entries(settings).map(([setting, value]) => {
      const step = Math.abs(value) > 5 || setting === "elevation" ? 1 : 0.05
      const field = number(setting, motions[name].about, { step, digits: 3, done: () => {}, edit: now => field.show((settings[setting] = now)) })
      field.show(value)
      return field.element
    })
    const count = number(t("keys"), t("motionKeysTip"), { step: 1, digits: 0, low: 2, high: 60, done: () => {}, edit: now => count.show((keys = Math.round(now))) })
    const from = number(t("source"), t("motionSourceTip"), { step: 1, digits: 0, low: 0, high: scene.sources.length - 1, done: () => {}, edit: now => from.show((base = Math.round(now))) })
    count.show(keys)
    from.show(base)
    const apply = make("button", { type: "button", className: "gld-primary", onclick: async () => {
      menu.close()
      const K = scene.sources.map(({ K: [fx, fy, cx, cy] }) => [[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
      const c2w = scene.sources.map(source => matrix(source))
      const found = await ask("/gld/motion", { motion: name, keys, base, settings, depth: scene.depth, width: scene.width, height: scene.height, c2w, K })
      start(state, found.keys, { loop: found.loop })
    } }, t("apply"))
    menu.element.replaceChildren(make("h4", {}, name.replace("_", " ")), make("p", {}, motions[name].about.replaceAll("`", "")), ...fields, count.element, from.element, apply)
  }
  const along = scene.sources.length > 1
    ? menu.item(t("alongSources"), () => start(state, scene.sources.map(({ position, rotation }) => ({ position, rotation }))))
    : null
  const names = Object.keys(motions).map(name =>
    make("button", { type: "button", className: "gld-item", title: motions[name].about, onclick: () => choose(name) }, name.replace("_", " "))
  )
  menu.open(below, [make("div", { className: "gld-grid" }, ...names), along])
}

/** @param {import("./curve.mjs").Pose} pose @returns {number[][]} */
function matrix({ position, rotation: [x, y, z, w] }) {
  return [
    [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), position[0]],
    [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), position[1]],
    [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), position[2]],
    [0, 0, 0, 1],
  ]
}

/** @param {Context} context @param {Menu} menu */
export function fileMenu({ state, t, tell }, menu) {
  const incoming = state.scene?.incoming ?? []
  return [
    incoming.length ? menu.item(t("takeIncoming", { number: incoming.length }), () => start(state, incoming)) : null,
    menu.item(t("import"), async () => {
      try {
        const path = readPath(await upload(), state.stage.lens)
        state.chosen = -1
        state.change({ ...path, version: 1 })
        state.seek(0)
      } catch {
        tell(t("noPath"))
      }
    }),
    menu.item(t("export"), () => download("camera_path_gld.json", state.path)),
    menu.item(t("exportNerfstudio"), () => (state.path.keys.length ? download("camera_path.json", cameraPath(state.layout)) : tell(t("noKeys")))),
    menu.item(t("clear"), () => state.clear()),
  ]
}
