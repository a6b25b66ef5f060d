// The path editor: a picture of the scene, the numbers, the timeline, and the keys that work on all of them.
import { ICONS, button, icon, make } from "./dom.mjs"
import { Flight } from "./fly.mjs"
import { bindings, helpPage } from "./keyboard.mjs"
import { Menu, addMenu, fileMenu, motionMenu } from "./menus.mjs"
import { Panel } from "./panel.mjs"
import { viewCount } from "./path.mjs"
import { Picture } from "./picture.mjs"
import { readScene } from "./scene_file.mjs"
import { State } from "./state.mjs"
import { Timeline } from "./timeline.mjs"

/**
 * @typedef {import("./path.mjs").Path} Path
 * @typedef {{
 *   path: Path,
 *   save: (path: Path) => void,
 *   run: () => Promise<void>,
 *   ask: (address: string, body: object) => Promise<any>,
 *   draft: (view: import("./path.mjs").View) => Promise<string | null>,
 *   t: import("./timeline.mjs").Translate,
 * }} Hooks what the editor needs of the page
 */

const MODES = ["both", "outside", "through"]

export class Editor {
  /** @param {HTMLElement} host @param {Hooks} hooks */
  constructor(host, hooks) {
    const { t } = hooks
    this.host = host
    this.hooks = hooks
    this.t = t
    this.state = new State(hooks.path, hooks.save)
    const views = make("div", { className: "gld-views", "data-capture-wheel": "true" })
    this.picture = new Picture(views, this.state, t)
    this.timeline = new Timeline(this.state, t, () => this.picture.wake())
    this.flight = new Flight(this.picture.throughPane, this.state, () => this.picture.wake())
    this.panel = new Panel(this.state, t, { pin: () => this.pin(), holdPin: () => this.picture.outside?.holdPin() })
    this.picture.moving.add(() => this.flight.advance()).add(() => this.timeline.advance())
    this.picture.after = () => this.timeline.draw()
    this.url = ""
    this.keys = bindings(t, this.actions())
    /** @type {Record<string, HTMLButtonElement>} */
    this.buttons = {}
    // Who types in a text field is left alone by the page; this one is the editor's ear.
    this.sink = make("input", { className: "gld-sink", readOnly: true, "aria-label": t("keyboard") })
    this.notice = make("div", { className: "gld-notice", hidden: true })
    this.cover = make("div", { className: "gld-cover" }, make("p", {}, t("empty")),
      make("button", { type: "button", className: "gld-primary", onclick: () => this.run() }, t("showScene")))
    views.append(this.cover)
    this.element = make("div", { className: "gld-editor" }, this.sink, this.bar(), this.notice,
      make("div", { className: "gld-body" }, views, this.panel.element), this.timeline.element)
    this.menu = new Menu(this.element)
    host.append(this.element)
    this.listen()
    for (const what of ["path", "scene"]) this.state.addEventListener(what, () => this.refresh())
    this.refresh()
  }

  bar() {
    const { state, t } = this
    const add = button("add", t("addTip"), () => this.menu.open(add, addMenu(this.context, this.menu, () => this.outsideView())), t("add"))
    const motion = button("motion", t("motionTip"), () => void motionMenu(this.context, this.menu, motion), t("motion"))
    const file = button("more", t("fileTip"), () => this.menu.open(file, fileMenu(this.context, this.menu)))
    this.buttons.undo = button("undo", t("undo"), () => state.undo())
    this.buttons.redo = button("redo", t("redo"), () => state.redo())
    this.buttons.move = button("move", t("move"), () => this.setGizmo("translate"))
    this.buttons.turn = button("turn", t("turn"), () => this.setGizmo("rotate"))
    this.buttons.pin = button("pin", t("pin"), () => this.pin())
    this.buttons.draft = button("draft", t("draftTip"), () => void this.draft(), t("draft"))
    this.buttons.large = button("large", t("large"), () => this.enlarge())
    this.buttons.move.classList.add("gld-on")
    return make("div", { className: "gld-bar" }, add, motion, file, make("hr"), this.buttons.undo, this.buttons.redo, make("hr"),
      this.buttons.move, this.buttons.turn, this.buttons.pin, make("span", { className: "gld-gap" }), this.buttons.draft, make("hr"),
      button("home", t("home"), () => this.picture.outside?.home(true)), button("views", t("viewsButton"), () => this.nextMode()),
      button("help", t("help"), () => this.help()), this.buttons.large)
  }

  get context() {
    return { state: this.state, t: this.t, ask: this.hooks.ask, tell: (/** @type {string} */ text) => this.tell(text) }
  }

  /** @returns {Record<string, (event: KeyboardEvent) => void>} */
  actions() {
    const { state } = this
    const step = (/** @type {number} */ by) => state.seek(Math.round(state.time) + by)
    const key = (/** @type {number} */ by) => {
      const count = state.path.keys.length
      if (count) state.choose(((state.chosen < 0 && by < 0 ? 0 : state.chosen) + by + count) % count)
    }
    return {
      add: () => state.add(state.view), addOutside: () => state.add(this.outsideView()),
      duplicate: () => state.duplicate(), remove: () => state.remove(),
      previousKey: () => key(-1), nextKey: () => key(1),
      earlier: () => state.move(state.chosen, state.chosen - 1), later: () => state.move(state.chosen, state.chosen + 1),
      move: () => this.setGizmo("translate"), turn: () => this.setGizmo("rotate"), pin: () => this.pin(),
      play: () => this.timeline.toggle(), stepBack: () => step(-1), stepOn: () => step(1),
      first: () => state.seek(0), last: () => state.seek(viewCount(state.path) - 1),
      loop: () => state.change({ loop: !state.path.loop }), undo: () => state.undo(), redo: () => state.redo(),
      views: () => this.nextMode(), large: () => this.enlarge(), home: () => this.picture.outside?.home(true),
      stand: () => this.picture.outside?.standAt(state.view), numbers: () => this.toNumbers(), draft: () => void this.draft(),
      leave: () => this.leave(), help: () => this.help(),
    }
  }

  listen() {
    const { element, sink } = this
    element.addEventListener("mousedown", event => {
      if (/** @type {HTMLElement} */ (event.target).closest("input:not(.gld-sink), select, label")) return
      event.preventDefault()
      sink.focus({ preventScroll: true })
    })
    element.addEventListener("keydown", event => {
      if (event.target !== sink && /** @type {HTMLElement} */ (event.target).closest("input:not([type=checkbox]), select")) {
        event.stopPropagation()
        return
      }
      const bound = this.keys.find(binding => binding.match(event))
      if (bound) bound.act(event)
      else if (!this.flight.press(event)) return
      event.preventDefault()
      event.stopPropagation()
    })
    element.addEventListener("keyup", event => this.flight.release(event))
    sink.addEventListener("blur", () => this.flight.letGo())
    for (const kind of ["contextmenu", "dblclick", "mousedown", "wheel"])
      element.addEventListener(kind, event => {
        event.stopPropagation()
        if (kind === "contextmenu" && this.picture.element.contains(/** @type {Node} */ (event.target))) event.preventDefault()
      })
  }

  refresh() {
    const { state } = this
    this.cover.hidden = state.scene !== null
    this.buttons.undo.disabled = !state.done.length
    this.buttons.redo.disabled = !state.undone.length
    this.buttons.pin.classList.toggle("gld-on", Boolean(state.path.look_at))
    if (state.elsewhere)
      this.tell(this.t("elsewhere"), make("button", { type: "button", onclick: () => state.keepHere() }, this.t("keepHere")))
    else if (this.notice.classList.contains("gld-asks")) this.notice.hidden = true
  }

  /** @param {string} text @param {HTMLElement} [action] without one the notice goes by itself */
  tell(text, action) {
    clearTimeout(this.timer)
    this.notice.replaceChildren(text, ...(action ? [action] : []))
    this.notice.classList.toggle("gld-asks", Boolean(action))
    this.notice.hidden = false
    if (!action) this.timer = setTimeout(() => (this.notice.hidden = true), 6000)
  }

  async run() {
    this.cover.firstElementChild?.replaceChildren(this.t("running"))
    await this.hooks.run()
    setTimeout(() => this.cover.firstElementChild?.replaceChildren(this.t("empty")), 8000)
  }

  /** @param {string} url of the scene's file */
  async load(url) {
    if (url === this.url) return
    this.url = url
    const answer = await fetch(url)
    if (!answer.ok || url !== this.url) return
    this.state.setScene(readScene(await answer.arrayBuffer()))
    if (this.state.scene && !this.state.scene.sources.some(({ depth }) => depth)) this.tell(this.t("noDepth"))
  }

  /** @returns {import("./path.mjs").View} */
  outsideView() {
    return this.picture.outside?.view ?? this.state.view
  }

  /** @param {"translate" | "rotate"} mode */
  setGizmo(mode) {
    this.picture.outside?.setMode(mode)
    this.buttons.move.classList.toggle("gld-on", mode === "translate")
    this.buttons.turn.classList.toggle("gld-on", mode === "rotate")
  }

  /** Keep facing what is in the middle of the view; or let go of it, with the cameras as they then stand. */
  pin() {
    const { state } = this
    if (!state.path.look_at) return state.change({ look_at: this.picture.middle(state.view) })
    const keys = state.path.keys.map((key, i) => ({ ...key, rotation: state.layout.keys[i].rotation }))
    state.change({ look_at: null, keys })
  }

  nextMode() {
    this.picture.show(MODES[(MODES.indexOf(this.picture.mode) + 1) % MODES.length])
  }

  toNumbers() {
    if (this.state.chosen < 0 && this.state.path.keys.length) this.state.choose(0)
    this.panel.position[0].input.select()
  }

  /** To the whole window, and back into the node. */
  enlarge() {
    const large = this.element.parentElement === this.host
    if (large) document.body.append(this.element)
    else this.host.append(this.element)
    this.element.classList.toggle("gld-large", large)
    this.buttons.large.replaceChildren(icon(ICONS[large ? "small" : "large"]))
    this.sink.focus({ preventScroll: true })
    this.picture.wake()
  }

  leave() {
    if (this.helping) this.help()
    else if (!this.menu.element.hidden) this.menu.close()
    else if (this.state.chosen >= 0 || this.state.free) this.state.seek(this.state.time)
    else if (this.element.classList.contains("gld-large")) this.enlarge()
  }

  help() {
    if (this.helping) this.helping = void this.helping.remove()
    else this.element.append((this.helping = helpPage(this.keys, this.t, () => this.help())))
  }

  /** The picture that the networks make of what the right view shows. */
  async draft() {
    const { state, t } = this
    const name = state.free || !state.path.keys.length ? t("through") : t("atView", { number: Math.round(state.time) })
    this.tell(t("drafting", { name }))
    try {
      const picture = await this.hooks.draft(state.view)
      if (!picture) return this.tell(t("draftNone"))
      const shown = make("figure", { className: "gld-draft", onclick: () => shown.remove() },
        make("img", { src: picture }), make("figcaption", {}, t("draftDone", { name })))
      this.picture.throughPane.querySelector(".gld-draft")?.remove()
      this.picture.throughPane.append(shown)
      this.notice.hidden = true
    } catch (error) {
      this.tell(String(/** @type {Error} */ (error).message))
    }
  }

  /** @param {boolean} shown whether the node is in sight */
  setShown(shown) {
    this.picture.shown = shown || this.element.classList.contains("gld-large")
    this.picture.wake()
  }

  dispose() {
    this.timeline.playing = false
    this.picture.dispose()
    this.element.remove()
  }
}
