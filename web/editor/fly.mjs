// Flying through the camera: keys move it, the mouse turns it. Upright, like walking with a tripod.
import { axes } from "./curve.mjs"

/**
 * @typedef {import("./curve.mjs").Point} Point
 * @typedef {import("./state.mjs").State} State
 */

const MOVES = /** @type {Record<string, [number, number, number]>} */ ({
  KeyW: [0, 0, 1], KeyS: [0, 0, -1], KeyA: [-1, 0, 0], KeyD: [1, 0, 0], KeyE: [0, 1, 0], KeyQ: [0, -1, 0],
})
/** Scene depths a second. */
const SPEED = 0.35
const IDLE = 350

export class Flight {
  /** @param {HTMLElement} pane @param {State} state @param {() => void} wake draws the next frame, which calls `advance` */
  constructor(pane, state, wake) {
    this.state = state
    this.wake = wake
    this.held = new Set()
    this.fast = 1
    this.last = 0
    /** @type {number | undefined} */
    this.settling = undefined
    pane.addEventListener("pointerdown", event => this.grab(event, pane))
    pane.addEventListener("wheel", event => this.roll(event), { passive: false })
  }

  /** @param {KeyboardEvent} event @returns {boolean} whether the key is one to fly with */
  press(event) {
    if (!(event.code in MOVES) || event.ctrlKey || event.metaKey) return false
    this.fast = event.shiftKey ? 4 : event.altKey ? 0.25 : 1
    if (!this.held.size) this.last = performance.now()
    this.held.add(event.code)
    this.wake()
    return true
  }

  /** @param {KeyboardEvent} event */
  release(event) {
    if (this.held.delete(event.code) && !this.held.size) this.state.commit()
  }

  letGo() {
    if (this.held.size) this.state.commit()
    this.held.clear()
  }

  /** One frame of flight; whether it goes on. */
  advance() {
    if (!this.held.size) return false
    const now = performance.now()
    const step = SPEED * this.fast * Math.min((now - this.last) / 1000, 0.1)
    this.last = now
    const sum = [0, 0, 0]
    for (const code of this.held) MOVES[code].forEach((value, i) => (sum[i] += value * step))
    this.shift(sum)
    return true
  }

  /** @param {number[]} by right, up, forward, in scene depths */
  shift([right, up, forward]) {
    const { view, space } = this.state
    const [x, , z] = axes(view.rotation)
    const position = /** @type {Point} */ (
      view.position.map((value, i) => value + space.depth * (right * x[i] + up * space.up[i] + forward * z[i]))
    )
    this.state.fly({ position, rotation: view.rotation })
  }

  /** @param {WheelEvent} event */
  roll(event) {
    if (event.ctrlKey) return
    event.preventDefault()
    this.shift([0, 0, -Math.sign(event.deltaY) * 0.03])
    this.settle()
  }

  /** @param {PointerEvent} event @param {HTMLElement} pane */
  grab(event, pane) {
    if (event.button > 2) return
    pane.setPointerCapture(event.pointerId)
    let [x, y] = [event.clientX, event.clientY]
    const moved = (/** @type {PointerEvent} */ to) => {
      const scale = pane.clientWidth / pane.getBoundingClientRect().width
      const [dx, dy] = [(to.clientX - x) * scale, (to.clientY - y) * scale]
      ;[x, y] = [to.clientX, to.clientY]
      if (event.button === 0 && !event.shiftKey) this.turn(dx, dy, pane.clientWidth)
      else this.shift([-dx / pane.clientWidth, dy / pane.clientWidth, 0])
    }
    const ended = () => {
      pane.removeEventListener("pointermove", moved)
      this.state.commit()
    }
    pane.addEventListener("pointermove", moved)
    pane.addEventListener("pointerup", ended, { once: true })
    pane.addEventListener("pointercancel", ended, { once: true })
  }

  /** What is under the mouse stays under it. @param {number} dx @param {number} dy @param {number} width */
  turn(dx, dy, width) {
    const { view, space } = this.state
    const degrees = (Math.atan(view.lens.width / 2 / view.lens.fx) * 360) / Math.PI / width
    const [yaw, pitch, roll] = space.angles(view.rotation)
    const rotation = space.fromAngles([yaw - dx * degrees, Math.min(89, Math.max(-89, pitch + dy * degrees)), roll])
    this.state.fly({ position: view.position, rotation })
  }

  settle() {
    clearTimeout(this.settling)
    this.settling = window.setTimeout(() => this.state.commit(), IDLE)
  }
}
