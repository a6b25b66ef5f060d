// The view from outside: orbiting, choosing cameras, and dragging and turning the chosen one or the pinned point.
import * as THREE from "../lib/three.module.mjs"
import CameraControls from "../lib/camera-controls.mjs"
import { TransformControls } from "../lib/TransformControls.mjs"

/**
 * @typedef {import("./state.mjs").State} State
 * @typedef {import("./renderer.mjs").Renderer} Renderer
 */

CameraControls.install({ THREE })
const REACH = 16

export class Outside {
  /**
   * @param {HTMLElement} pane @param {Renderer} renderer @param {State} state
   * @param {() => void} wake draws the next frame
   */
  constructor(pane, renderer, state, wake) {
    this.pane = pane
    this.renderer = renderer
    this.state = state
    this.controls = new CameraControls(renderer.outside, pane)
    this.controls.dollyToCursor = true
    this.controls.smoothTime = 0.12
    this.controls.draggingSmoothTime = 0.05
    this.controls.minDistance = 0.02
    this.controls.addEventListener("update", wake)
    for (const name of ["control", "controlstart", "wake"]) this.controls.addEventListener(/** @type {any} */ (name), wake)
    this.handle = new THREE.Object3D()
    renderer.scene.add(this.handle)
    this.gizmo = new TransformControls(renderer.outside, pane)
    this.gizmo.setSize(0.8)
    this.gizmo.setSpace("local")
    renderer.scene.add(this.gizmo.getHelper())
    this.gizmo.addEventListener("change", wake)
    this.gizmo.addEventListener("dragging-changed", event => {
      this.controls.enabled = !event.value
      if (!event.value) state.commit()
    })
    this.gizmo.addEventListener("objectChange", () => this.dragged())
    /** How far the scene goes from its centre. */
    this.extent = 1
    /** @type {"key" | "pin" | null} */
    this.held = null
    /** @type {[number, number] | null} */
    this.down = null
    pane.addEventListener("pointerdown", event => (this.down = [event.clientX, event.clientY]))
    pane.addEventListener("pointerup", event => this.clicked(event))
    pane.addEventListener("dblclick", event => this.turnAbout(event))
    for (const what of ["path", "scene"]) state.addEventListener(what, () => this.attach())
  }

  /** @param {"translate" | "rotate"} mode */
  setMode(mode) {
    this.gizmo.setMode(mode)
    this.attach()
  }

  /** Hold the pinned point instead of a key. */
  holdPin() {
    this.state.choose(-1)
    this.held = "pin"
    this.attach()
  }

  attach() {
    const { state, gizmo, handle } = this
    if (gizmo.dragging) return
    if (state.chosen >= 0) this.held = "key"
    else if (this.held === "key" || !state.path.look_at) this.held = null
    if (this.held === null) {
      gizmo.detach()
      return
    }
    if (this.held === "pin") {
      handle.position.copy(state.space.toScene(state.path.look_at ?? []))
      handle.quaternion.identity()
      if (gizmo.mode === "rotate") gizmo.setMode("translate")
    } else {
      const view = state.layout.keys[state.chosen]
      handle.position.copy(state.space.toScene(view.position))
      handle.quaternion.copy(state.space.turnToScene(view.rotation))
    }
    gizmo.attach(handle)
  }

  dragged() {
    const { state, handle } = this
    const position = state.space.toWorld(handle.position)
    if (this.held === "pin") state.edit({ look_at: position })
    else if (this.gizmo.mode === "rotate") state.editKey(state.chosen, { rotation: state.space.turnToWorld(handle.quaternion) })
    else state.editKey(state.chosen, { position })
  }

  /** @param {MouseEvent} event @returns {[number, number]} shares of the pane */
  place(event) {
    const box = this.pane.getBoundingClientRect()
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
  }

  /** @param {PointerEvent} event */
  clicked(event) {
    const still = this.down && Math.hypot(event.clientX - this.down[0], event.clientY - this.down[1]) < 4
    if (!still || event.button !== 0 || this.gizmo.axis) return
    const [x, y] = this.place(event)
    const { clientWidth, clientHeight } = this.pane
    /** @param {readonly number[]} point */
    const distance = point => {
      const at = this.state.space.toScene(point).project(this.renderer.outside)
      if (at.z > 1) return Infinity
      return Math.hypot((at.x / 2 + 0.5 - x) * clientWidth, (0.5 - at.y / 2 - y) * clientHeight)
    }
    const keys = this.state.path.keys.map(key => distance(key.position))
    const nearest = keys.length ? keys.indexOf(Math.min(...keys)) : -1
    const pin = this.state.path.look_at ? distance(this.state.path.look_at) : Infinity
    if (pin < REACH && !(keys[nearest] < pin)) this.holdPin()
    else if (keys[nearest] < REACH) this.state.choose(nearest)
    else {
      this.held = null
      this.state.choose(-1)
    }
  }

  /** Orbit about the point of the surface that was clicked. @param {MouseEvent} event */
  turnAbout(event) {
    const point = this.renderer.pick(...this.place(event))
    if (point) this.controls.setTarget(point.x, point.y, point.z, true)
  }

  /** A view of everything, from behind and above the sources. @param {boolean} smooth */
  home(smooth) {
    const eyes = (this.state.scene?.sources ?? []).map(source => this.state.space.toScene(source.position))
    const middle = eyes.reduce((sum, eye) => sum.add(eye), new THREE.Vector3()).divideScalar(Math.max(1, eyes.length))
    const spread = Math.max(...eyes.map(eye => eye.distanceTo(middle)), 0.3)
    if (middle.lengthSq() < 0.01) middle.set(0, 0, 1)
    const narrow = Math.max(1, this.pane.clientHeight / Math.max(1, this.pane.clientWidth))
    const away = (1.2 + 1.2 * spread + 0.8 * this.extent) * narrow
    const from = middle.clone().normalize().add(new THREE.Vector3(0.35, 0.45, 0)).setLength(away)
    void this.controls.setLookAt(from.x, from.y, from.z, middle.x * 0.45, middle.y * 0.45, middle.z * 0.45, smooth)
  }

  /** Stand where the camera stands. @param {import("./path.mjs").View} view */
  standAt(view) {
    const eye = this.state.space.toScene(view.position)
    const ahead = new THREE.Vector3(0, 0, -1).applyQuaternion(this.state.space.turnToScene(view.rotation)).add(eye)
    void this.controls.setLookAt(eye.x, eye.y, eye.z, ahead.x, ahead.y, ahead.z, true)
  }

  /** Where the outside view stands, through the first source's lens. @returns {import("./path.mjs").View} */
  get view() {
    const { outside } = this.renderer
    const { space, stage } = this.state
    return { position: space.toWorld(outside.position), rotation: space.turnToWorld(outside.quaternion), lens: stage.lens }
  }

  /** @param {number} seconds since the last frame; whether the view is still moving */
  update(seconds) {
    return this.controls.update(seconds)
  }

  dispose() {
    this.gizmo.detach()
    this.gizmo.dispose()
    this.controls.dispose()
  }
}
