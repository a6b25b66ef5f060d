// Draws the scene from outside and through a camera, on one canvas; and measures how much of a view no source has seen.
import {
  Color, ColorManagement, FloatType, LinearSRGBColorSpace, PerspectiveCamera, RGBAFormat, Scene, UnsignedByteType,
  Vector3, WebGLRenderer, WebGLRenderTarget,
} from "../lib/three.module.mjs"
import { UNSEEN } from "./surface.mjs"

/**
 * @typedef {import("./path.mjs").View} View
 * @typedef {import("./path.mjs").Lens} Lens
 * @typedef {import("./space.mjs").Space} Space
 * @typedef {import("./surface.mjs").Surfaces} Surfaces
 * @typedef {{x: number, y: number, width: number, height: number}} Rectangle in CSS pixels, from the top left
 */

// Colours go to the screen as the photographs have them.
ColorManagement.enabled = false

const [NEAR, FAR] = [0.005, 200]
const MEASURED = 96
/** Pixels of a picture that is drawn in a hurry. */
const HURRIED = 150_000

/**
 * The projection of a lens onto a pane that shows more than its image, which lies in `frame`.
 * @param {PerspectiveCamera} camera @param {Lens} lens @param {Rectangle} pane @param {Rectangle} frame
 */
export function project(camera, lens, pane, frame) {
  const scale = lens.width / frame.width
  const left = (pane.x - frame.x) * scale
  const top = (pane.y - frame.y) * scale
  const sides = [
    ((left - lens.cx) / lens.fx) * NEAR,
    ((left + pane.width * scale - lens.cx) / lens.fx) * NEAR,
    ((lens.cy - top) / lens.fy) * NEAR,
    ((lens.cy - top - pane.height * scale) / lens.fy) * NEAR,
  ]
  camera.projectionMatrix.makePerspective(sides[0], sides[1], sides[2], sides[3], NEAR, FAR)
  camera.projectionMatrixInverse.copy(camera.projectionMatrix).invert()
}

/** The largest rectangle of a lens's shape in a pane, with a margin. @param {Lens} lens @param {Rectangle} pane @returns {Rectangle} */
export function frameIn(lens, pane) {
  const margin = 0.06 * Math.min(pane.width, pane.height)
  const scale = Math.min((pane.width - 2 * margin) / lens.width, (pane.height - 2 * margin) / lens.height)
  const [width, height] = [lens.width * scale, lens.height * scale]
  return { x: pane.x + (pane.width - width) / 2, y: pane.y + (pane.height - height) / 2, width, height }
}

/** Whether pictures are drawn by the processor. */
function drawsInSoftware() {
  const gl = document.createElement("canvas").getContext("webgl2")
  const info = gl?.getExtension("WEBGL_debug_renderer_info")
  const name = info ? String(gl?.getParameter(info.UNMASKED_RENDERER_WEBGL)) : ""
  gl?.getExtension("WEBGL_lose_context")?.loseContext()
  return /swiftshader|llvmpipe|software|basic render/i.test(name)
}

export class Renderer {
  /** @param {HTMLCanvasElement} canvas Throws where the page has no WebGL. */
  constructor(canvas) {
    this.software = drawsInSoftware()
    this.gl = new WebGLRenderer({ canvas, antialias: !this.software, alpha: false, powerPreference: "high-performance" })
    this.gl.outputColorSpace = LinearSRGBColorSpace
    this.gl.autoClear = false
    this.scene = new Scene()
    this.outside = new PerspectiveCamera(50, 1, NEAR, FAR)
    this.through = new PerspectiveCamera(50, 1, NEAR, FAR)
    this.background = new Color("#1b1d22")
    this.unseen = new Color(...UNSEEN)
    /** @type {Surfaces | null} */
    this.surfaces = null
    /** @type {Surfaces | null} the same with fewer triangles, for machines that cannot draw them all while one moves */
    this.coarse = null
    this.hurried = false
    /** @type {Record<string, WebGLRenderTarget>} */
    this.targets = {}
  }

  /** How many triangles this machine draws at a pleasant rate. */
  get budget() {
    return this.software ? 160_000 : 1_600_000
  }

  /** @param {Surfaces | null} surfaces @param {Surfaces | null} [coarse] */
  show(surfaces, coarse = null) {
    for (const old of [this.surfaces, this.coarse]) {
      if (old) this.scene.remove(old.group)
      old?.dispose()
    }
    this.surfaces = surfaces
    this.coarse = coarse
    for (const own of [surfaces, coarse]) if (own) this.scene.add(own.group)
  }

  /** Draw fewer triangles and pixels, or all again. @param {boolean} hurried */
  hurry(hurried) {
    if (!this.coarse) hurried = false
    const changed = hurried !== this.hurried
    this.hurried = hurried
    if (this.coarse) this.coarse.group.visible = hurried
    if (this.surfaces) this.surfaces.group.visible = !hurried
    if (changed) this.resize(this.width ?? 1, this.height ?? 1)
  }

  /** What is drawn now. */
  get drawn() {
    return this.hurried ? this.coarse : this.surfaces
  }

  /** @param {number} width @param {number} height */
  resize(width, height) {
    const ratio = Math.min(window.devicePixelRatio || 1, 2)
    const few = Math.min(1, Math.sqrt(HURRIED / (width * height)))
    this.gl.setPixelRatio(!this.software ? ratio : this.hurried ? few : 1)
    this.gl.setSize(width, height, false)
    this.width = width
    this.height = height
  }

  /** @param {Rectangle} pane */
  enter(pane) {
    const { x, y, width, height } = pane
    const bottom = (this.height ?? 0) - y - height
    this.gl.setViewport(x, bottom, width, height)
    this.gl.setScissor(x, bottom, width, height)
    this.gl.setScissorTest(true)
  }

  /** @param {Rectangle} pane */
  drawOutside(pane) {
    this.enter(pane)
    this.outside.aspect = pane.width / pane.height
    this.outside.updateProjectionMatrix()
    this.drawn?.showBacks(false)
    this.drawn?.set({ shade: 1, pixels: (pane.height * this.gl.getPixelRatio()) / 2, measure: 0 })
    this.gl.setClearColor(this.background, 1)
    this.gl.clear()
    this.gl.render(this.scene, this.outside)
  }

  /** @param {View} view @param {Space} space */
  look(view, space) {
    this.through.position.copy(space.toScene(view.position))
    this.through.quaternion.copy(space.turnToScene(view.rotation))
    this.through.updateMatrixWorld()
  }

  /** @param {View} view @param {Space} space @param {Rectangle} pane @param {Rectangle} frame */
  drawThrough(view, space, pane, frame) {
    this.enter(pane)
    this.look(view, space)
    project(this.through, view.lens, pane, frame)
    this.gl.setClearColor(this.unseen, 1)
    this.gl.clear()
    if (!this.drawn) return
    this.drawn.showBacks(true)
    this.drawn.set({ shade: 0, pixels: (pane.height * this.gl.getPixelRatio()) / 2, measure: 0 })
    this.gl.render(this.drawn.group, this.through)
  }

  /**
   * Into a buffer of its own, through `this.through`.
   * @param {"color" | "depth"} name @param {number} width @param {number} height @param {boolean} backs
   */
  drawApart(name, width, height, backs) {
    const type = name === "depth" ? FloatType : UnsignedByteType
    let target = this.targets[name]
    if (target?.width !== width || target?.height !== height) {
      target?.dispose()
      target = this.targets[name] = new WebGLRenderTarget(width, height, { type, format: RGBAFormat })
    }
    this.surfaces?.showBacks(backs)
    this.surfaces?.set({ shade: 0, pixels: height / 2, measure: name === "depth" ? 1 : 0 })
    if (this.surfaces) this.surfaces.group.visible = true
    this.gl.setRenderTarget(target)
    this.gl.setClearColor(0x000000, 0)
    this.gl.setScissorTest(false)
    this.gl.clear()
    if (this.surfaces) this.gl.render(this.surfaces.group, this.through)
    const pixels = type === FloatType ? new Float32Array(width * height * 4) : new Uint8Array(width * height * 4)
    this.gl.readRenderTargetPixels(target, 0, 0, width, height, pixels)
    this.gl.setRenderTarget(null)
    return pixels
  }

  /** What a view shows, without a frame: RGBA, or depth in scene units, row by row from the bottom; A is 0 where no
   * source has seen. @param {"color" | "depth"} what @param {View} view @param {Space} space @param {number} width */
  picture(what, view, space, width) {
    const height = Math.max(1, Math.round((width * view.lens.height) / view.lens.width))
    const whole = { x: 0, y: 0, width, height: (width * view.lens.height) / view.lens.width }
    this.look(view, space)
    project(this.through, view.lens, whole, whole)
    return { height, pixels: this.drawApart(what, width, height, true) }
  }

  /** The share of a view that no source has seen. @param {View} view @param {Space} space */
  unseenShare(view, space) {
    const { pixels } = this.picture("color", view, space, MEASURED)
    let unseen = 0
    for (let at = 3; at < pixels.length; at += 4) if (!pixels[at]) unseen++
    return (4 * unseen) / pixels.length
  }

  /**
   * The point of the surface under a place of the outside view, or null.
   * @param {number} x @param {number} y shares of the pane's width and height
   */
  pick(x, y) {
    const camera = this.outside.clone()
    camera.setViewOffset(1000, 1000, Math.floor(x * 1000), Math.floor(y * 1000), 1, 1)
    camera.updateMatrixWorld()
    this.through.copy(camera)
    const pixels = this.drawApart("depth", 1, 1, false)
    if (!pixels[0]) return null
    const ray = new Vector3(2 * x - 1, 1 - 2 * y, 0.5).unproject(this.outside).applyMatrix4(this.outside.matrixWorldInverse)
    return ray.multiplyScalar(pixels[0] / -ray.z).applyMatrix4(this.outside.matrixWorld)
  }

  dispose() {
    this.show(null)
    for (const target of Object.values(this.targets)) target.dispose()
    this.gl.dispose()
    this.gl.forceContextLoss()
  }
}
