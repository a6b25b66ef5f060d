// The path in time: a bar for every target, as high as it is unseen, the keys above, the playhead over all.
import { button, choice, icon, ICONS, make, number } from "./dom.mjs"
import { DEFAULT_VIEWS, MAX_VIEWS, segmentCount, viewCount } from "./path.mjs"
import { shareColor } from "./scenery.mjs"

/**
 * @typedef {import("./state.mjs").State} State
 * @typedef {(key: string, values?: Record<string, any>) => string} Translate
 */

const PAD = 16
const KEYS = 16

export class Timeline {
  /** @param {State} state @param {Translate} t @param {() => void} wake */
  constructor(state, t, wake) {
    this.state = state
    this.t = t
    this.wake = wake
    this.playing = false
    this.last = 0
    this.canvas = make("canvas", { className: "gld-track", "aria-label": t("timeline") })
    this.play = button("play", t("play"), () => this.toggle())
    this.loop = button("loop", t("loop"), () => state.change({ loop: !state.path.loop }))
    this.clock = make("span", { className: "gld-clock" })
    const common = { step: 1, digits: 0, low: 1, high: MAX_VIEWS, done: () => state.commit() }
    this.views = number(t("views"), t("viewsTip"), { ...common, edit: value => this.setViews(Math.round(value)) })
    this.even = choice(t("spreadTip"), [["all", t("inAll")], ["segments", t("perSegment")]], value => this.spread(value))
    const eases = /** @type {[string, string][]} */ (["none", "in", "out", "in_out"].map(ease => [ease, t(`ease_${ease}`)]))
    this.ease = choice(t("easeTip"), eases, ease => state.change({ ease }))
    this.fps = number(t("fps"), t("fpsTip"), { ...common, high: 240, edit: fps => void state.edit({ fps }) })
    this.element = make(
      "div",
      { className: "gld-timeline" },
      make("div", { className: "gld-row" }, this.play, this.clock, this.loop, this.views.element, this.even, this.ease, this.fps.element),
      this.canvas
    )
    this.canvas.addEventListener("pointerdown", event => this.grab(event))
    for (const what of ["path", "time"]) state.addEventListener(what, () => this.refresh())
    this.refresh()
  }

  /** @param {number} views */
  setViews(views) {
    const { path } = this.state
    if (path.views != null) this.state.edit({ views })
    else this.state.edit({ keys: path.keys.map(key => ({ ...key, views })) })
  }

  /** @param {string} how views are given */
  spread(how) {
    const { state } = this
    if (how === "all") state.change({ views: Math.max(1, viewCount(state.path)) })
    else {
      const { durations } = state.layout.timing
      const keys = state.path.keys.map((key, i) => ({ ...key, views: Math.max(1, Math.round(durations[i] ?? DEFAULT_VIEWS)) }))
      state.change({ views: null, keys })
    }
  }

  toggle() {
    this.playing = !this.playing && viewCount(this.state.path) > 1
    this.last = performance.now()
    if (this.playing && this.state.time >= viewCount(this.state.path) - 1) this.state.seek(0)
    this.refresh()
    this.wake()
  }

  /** One frame of playing; whether it goes on. */
  advance() {
    if (!this.playing) return false
    const now = performance.now()
    const count = viewCount(this.state.path)
    const end = this.state.path.loop ? count : count - 1
    const time = this.state.time + ((now - this.last) / 1000) * (this.state.path.fps ?? 8)
    this.last = now
    if (time >= end) this.state.path.loop ? this.state.seek(time % end) : this.state.seek(0)
    else this.state.seek(time)
    return true
  }

  /** @param {number} view @param {number} width */
  x(view, width) {
    const { total, count } = this.state.layout.timing
    return PAD + (width - 2 * PAD) * (view / Math.max(1, total, count - 1))
  }

  /** @param {MouseEvent} event @returns {[number, number]} time in views, and the height in pixels */
  place(event) {
    const box = this.canvas.getBoundingClientRect()
    const scale = this.canvas.clientWidth / box.width
    const share = ((event.clientX - box.left) * scale - PAD) / (this.canvas.clientWidth - 2 * PAD)
    const { total, count } = this.state.layout.timing
    return [share * Math.max(1, total, count - 1), (event.clientY - box.top) * scale]
  }

  /** @param {PointerEvent} event */
  grab(event) {
    if (event.button !== 0 || !this.state.path.keys.length) return
    this.playing = false
    this.canvas.setPointerCapture(event.pointerId)
    const [time, height] = this.place(event)
    const width = this.canvas.clientWidth
    const near = this.state.path.keys.findIndex((_, i) => Math.abs(this.x(this.state.layout.timeOf(i), width) - this.x(time, width)) < 8)
    const key = height < KEYS + 4 ? near : -1
    if (key >= 0) this.state.choose(key)
    else this.state.seek(time)
    const moved = (/** @type {PointerEvent} */ to) => (key >= 0 ? this.shift(key, this.place(to)[0]) : this.state.seek(this.place(to)[0]))
    this.canvas.addEventListener("pointermove", moved)
    this.canvas.addEventListener("lostpointercapture", () => {
      this.canvas.removeEventListener("pointermove", moved)
      this.state.commit()
    }, { once: true })
  }

  /** Drag a key in time: views go from one of its sides to the other. @param {number} key @param {number} time */
  shift(key, time) {
    const { state } = this
    if (key === 0 || key >= state.path.keys.length) return
    const by = Math.round(time - state.layout.timeOf(key))
    if (!by) return
    const views = state.layout.timing.durations.map(duration => Math.max(1, Math.round(duration)))
    const [before, after] = [views[key - 1] + by, key < segmentCount(state.path) ? views[key] - by : 1]
    if (before < 1 || after < 1) return
    const keys = state.path.keys.map((old, i) => {
      const own = i === key - 1 ? before : i === key ? after : views[i] ?? old.views ?? DEFAULT_VIEWS
      return { ...old, views: own }
    })
    if (state.edit({ views: null, ease: "none", keys })) state.choose(key)
  }

  refresh() {
    const { path, time } = this.state
    const count = viewCount(path)
    this.play.replaceChildren(icon(ICONS[this.playing ? "pause" : "play"]))
    this.loop.classList.toggle("gld-on", Boolean(path.loop))
    this.clock.textContent = count ? `${Math.round(time)} / ${count - 1}` : "–"
    this.views.show(path.views ?? path.keys[0]?.views ?? DEFAULT_VIEWS)
    this.even.value = path.views == null ? "segments" : "all"
    this.ease.value = path.ease ?? "none"
    this.fps.show(path.fps ?? 8)
    this.wake()
  }

  draw() {
    const { canvas, state } = this
    const [width, height] = [canvas.clientWidth, canvas.clientHeight]
    const ratio = window.devicePixelRatio || 1
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio)
      canvas.height = Math.round(height * ratio)
    }
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"))
    context.setTransform(ratio, 0, 0, ratio, 0, 0)
    context.clearRect(0, 0, width, height)
    const style = getComputedStyle(canvas)
    const ink = style.color
    const floor = height - 14
    const count = viewCount(state.path)
    const room = floor - KEYS - 6
    const bar = Math.max(1, Math.min(10, (width - 2 * PAD) / Math.max(1, count) - 1.5))
    for (let view = 0; view < count; view++) {
      const share = state.shares[view]
      const rise = 3 + (room - 3) * (share ?? 0)
      const color = shareColor(share).map(value => Math.round(value * 255))
      context.fillStyle = share === undefined ? "rgb(128 128 128 / 50%)" : `rgb(${color.join(" ")})`
      context.fillRect(this.x(view, width) - bar / 2, floor - rise, bar, rise)
    }
    context.fillStyle = context.strokeStyle = ink
    context.globalAlpha = 0.35
    context.fillRect(PAD, floor + 0.5, width - 2 * PAD, 1)
    context.globalAlpha = 0.6
    context.font = "10px sans-serif"
    context.textAlign = "center"
    const gap = [1, 2, 5, 10, 20, 50, 100, 200].find(step => (step * (width - 2 * PAD)) / Math.max(1, count) > 26) ?? 500
    for (let view = 0; view < count; view += gap) context.fillText(String(view), this.x(view, width), height - 2)
    context.globalAlpha = 1
    state.path.keys.forEach((_, i) => {
      const x = this.x(state.layout.timeOf(i), width)
      context.fillStyle = i === state.chosen ? ink : "rgb(255 199 77)"
      context.beginPath()
      context.moveTo(x, 3)
      context.lineTo(x + 6, 10)
      context.lineTo(x, 17)
      context.lineTo(x - 6, 10)
      context.fill()
    })
    if (count) {
      context.fillStyle = ink
      const x = this.x(state.time, width)
      context.fillRect(x - 0.75, 0, 1.5, floor + 2)
    }
  }
}
