// The two views of the editor: what is drawn, when, and what is measured while nothing else goes on.
import { Texture } from "../lib/three.module.mjs"
import { make } from "./dom.mjs"
import { Outside } from "./outside.mjs"
import { Renderer, frameIn } from "./renderer.mjs"
import { Scenery } from "./scenery.mjs"
import { Surfaces } from "./surface.mjs"
import { axes } from "./curve.mjs"

/**
 * @typedef {import("./state.mjs").State} State
 * @typedef {import("./path.mjs").View} View
 * @typedef {import("./curve.mjs").Point} Point
 */

/** Milliseconds of stillness before shares are measured, and of a measurement in one piece. */
const [STILL, SLICE] = [120, 12]
/** Shares that are kept. */
const MOST = 5000

export class Picture {
  /** @param {HTMLElement} element to draw in @param {State} state @param {import("./timeline.mjs").Translate} t */
  constructor(element, state, t) {
    this.element = element
    this.state = state
    this.t = t
    this.mode = "both"
    this.canvas = make("canvas", { className: "gld-canvas" })
    this.outsidePane = make("div", { className: "gld-pane" }, make("span", { className: "gld-label" }, t("outside")))
    this.frame = make("div", { className: "gld-frame" })
    this.label = make("span", { className: "gld-label" })
    this.share = make("span", { className: "gld-share" })
    this.throughPane = make("div", { className: "gld-pane gld-through" }, this.frame, this.label, this.share)
    element.append(this.canvas, this.outsidePane, this.throughPane)
    /** @type {Set<() => boolean>} what changes with time; each says whether it goes on */
    this.moving = new Set()
    this.after = () => {}
    /** @type {Map<string, number>} */
    this.known = new Map()
    /** @type {Texture[]} */
    this.pictures = []
    this.changed = true
    this.previous = 0
    this.shown = true
    this.still = false
    try {
      this.renderer = new Renderer(this.canvas)
      this.scenery = new Scenery()
      this.renderer.scene.add(this.scenery.group)
      this.outside = new Outside(this.outsidePane, this.renderer, state, () => this.wake())
      this.outside.home(false)
    } catch {
      this.renderer = null
      this.say(t("noWebGL"))
    }
    this.canvas.addEventListener("webglcontextlost", event => {
      event.preventDefault()
      this.say(t("lostWebGL"))
    })
    this.canvas.addEventListener("webglcontextrestored", () => {
      this.message?.remove()
      this.wake()
    })
    this.sizes = new ResizeObserver(() => this.wake())
    this.sizes.observe(element)
    state.addEventListener("path", () => {
      this.changed = true
      this.wake()
    })
    state.addEventListener("time", () => this.wake())
    state.addEventListener("scene", () => void this.load())
  }

  /** @param {string} text in the place of the picture */
  say(text) {
    this.message?.remove()
    this.message = make("div", { className: "gld-message" }, text)
    this.element.append(this.message)
  }

  /** Draw once more. @param {boolean} [still] whether nothing has changed since the last time */
  wake(still = false) {
    this.still = still && (this.still || !this.waiting)
    if (this.waiting || !this.shown) return
    this.waiting = true
    clearTimeout(this.timer)
    requestAnimationFrame(now => this.draw(now))
  }

  async load() {
    const { state, renderer, scenery } = this
    const scene = state.scene
    if (!renderer || !scenery || !scene) return this.wake()
    const bitmaps = await Promise.all(scene.sources.map(({ image }) => (image ? createImageBitmap(image) : null)))
    if (scene !== state.scene) return bitmaps.forEach(bitmap => bitmap?.close())
    const first = !renderer.surfaces
    for (const texture of this.pictures) {
      texture.dispose()
      texture.image?.close?.()
    }
    const pictures = bitmaps.map(bitmap => (bitmap ? Object.assign(new Texture(bitmap), { flipY: false, needsUpdate: true }) : null))
    this.pictures = /** @type {Texture[]} */ (pictures.filter(Boolean))
    const surfaces = new Surfaces(scene, state.space, pictures, renderer.budget)
    renderer.show(surfaces, renderer.software ? new Surfaces(scene, state.space, pictures, renderer.budget / 6) : null)
    const { floor, extent } = surfaces.bounds()
    scenery.setGround(floor, extent)
    scenery.setSources(scene.sources.map((_, number) => state.sourceView(number)), pictures, state.space)
    this.known.clear()
    this.changed = true
    if (this.outside) this.outside.extent = extent
    if (first) this.outside?.home(false)
    this.element.dataset.scene = String(surfaces.triangles)
    this.wake()
  }

  /** @param {string} mode both, outside or through */
  show(mode) {
    this.mode = mode
    this.wake()
  }

  layOut() {
    const [width, height] = [this.element.clientWidth, this.element.clientHeight]
    const whole = { x: 0, y: 0, width, height }
    const half = Math.floor(width / 2)
    const outside = this.mode === "both" ? { ...whole, width: half } : this.mode === "outside" ? whole : null
    const through = this.mode === "both" ? { ...whole, x: half, width: width - half } : this.mode === "through" ? whole : null
    for (const [pane, box] of /** @type {const} */ ([[this.outsidePane, outside], [this.throughPane, through]])) {
      pane.hidden = !box
      if (box) Object.assign(pane.style, { left: `${box.x}px`, width: `${box.width}px` })
    }
    return { width, height, outside, through }
  }

  /** @param {number} now */
  draw(now) {
    this.waiting = false
    const seconds = Math.min(0.1, (now - this.previous) / 1000)
    this.previous = now
    let goesOn = false
    for (const step of this.moving) goesOn = step() || goesOn
    const { width, height, outside, through } = this.layOut()
    if (!width || !height) return
    const { renderer, scenery, state } = this
    const view = state.view
    if (this.changed) {
      this.changed = false
      this.views = state.layout.keys.length ? state.layout.views() : []
      state.shares = this.views.map(view => this.known.get(name(view)))
      scenery?.setPath(state.layout, this.views, state.shares, state.chosen, state.space)
    }
    if (renderer) {
      goesOn = this.outside?.update(seconds) || goesOn
      renderer.hurry(!this.still)
      if (this.size !== `${width} ${height}`) {
        this.size = `${width} ${height}`
        renderer.resize(width, height)
      }
      if (outside) {
        scenery?.setCurrent(view, state.space)
        renderer.drawOutside(outside)
      }
      if (through) renderer.drawThrough(view, state.space, through, frameIn(view.lens, through))
    }
    if (through) {
      const frame = frameIn(view.lens, { ...through, x: 0 })
      Object.assign(this.frame.style, { left: `${frame.x}px`, top: `${frame.y}px`, width: `${frame.width}px`, height: `${frame.height}px` })
    }
    this.describe(view)
    this.after()
    if (goesOn) this.wake()
    else this.rest()
  }

  /** @param {View} view */
  describe(view) {
    const { state, t } = this
    const where = state.free ? t("flying") : state.chosen >= 0 ? t("editing", { number: state.chosen }) : t("atView", { number: Math.round(state.time) })
    this.label.textContent = state.path.keys.length || state.free ? where : t("through")
    const share = this.known.get(name(view))
    this.share.textContent = share === undefined ? "" : t("unseen", { percent: Math.round(100 * share) })
    this.share.classList.toggle("gld-bad", (share ?? 0) > 0.5)
  }

  /** The views whose share is not known yet: what is looked at first, then the targets. */
  get open() {
    return [this.state.view, ...(this.views ?? [])].filter(view => !this.known.has(name(view)))
  }

  /** Nothing moves: there is time to draw all of it, and to measure. */
  rest() {
    clearTimeout(this.timer)
    const hurried = this.renderer?.hurried
    if (!this.renderer?.surfaces || !(hurried || this.open.length)) return
    this.timer = setTimeout(() => {
      if (hurried) this.wake(true)
      else this.measure()
    }, STILL)
  }

  /** A few views at a time, without drawing the picture anew, until all are known. */
  measure() {
    const { renderer, state } = this
    if (!renderer || !this.shown || this.waiting) return
    const start = performance.now()
    for (const view of this.open) {
      this.known.set(name(view), renderer.unseenShare(view, state.space))
      if (performance.now() - start > SLICE) break
    }
    state.shares = (this.views ?? []).map(view => this.known.get(name(view)))
    this.describe(state.view)
    this.after()
    if (this.open.length) this.timer = setTimeout(() => this.measure())
    else {
      this.changed = true
      this.wake(true)
    }
    if (this.known.size > MOST) this.known.clear()
  }

  /** The point in the middle of what a view sees; at the scene's depth where it sees nothing. @param {View} view @returns {Point} */
  middle(view) {
    const { state, renderer } = this
    let depth = 1
    if (renderer?.surfaces) {
      const { pixels, height } = renderer.picture("depth", view, state.space, 33)
      const at = 4 * (Math.floor(height / 2) * 33 + 16)
      if (pixels[at + 3]) depth = pixels[at]
    }
    const [, , forward] = axes(view.rotation)
    return /** @type {Point} */ (view.position.map((value, i) => value + depth * state.space.depth * forward[i]))
  }

  dispose() {
    this.shown = false
    clearTimeout(this.timer)
    this.sizes.disconnect()
    for (const texture of this.pictures) {
      texture.dispose()
      texture.image?.close?.()
    }
    this.outside?.dispose()
    this.scenery?.dispose()
    this.renderer?.dispose()
  }
}

/** What a view is known by. @param {View} view */
const name = ({ position, rotation, lens }) => [...position, ...rotation, lens.fx].map(value => value.toFixed(5)).join(" ")
