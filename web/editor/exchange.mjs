// Paths from and to files: the editor's own JSON, and the camera_path.json of nerfstudio's viewer.
import { Quaternion, Matrix4, Vector3 } from "../lib/three.module.mjs"
import { emptyPath, rounded, roundedPose } from "./path.mjs"

/**
 * @typedef {import("./path.mjs").Path} Path
 * @typedef {import("./path.mjs").Key} Key
 * @typedef {import("./path.mjs").Lens} Lens
 * @typedef {import("./path.mjs").Layout} Layout
 */

const HALF_TURN = new Quaternion(1, 0, 0, 0)
const KEYS = 24

/** From three.js's and nerfstudio's camera axes to OpenCV's, and back. @param {Matrix4} matrix */
function toPose(matrix) {
  const [at, turn] = [new Vector3(), new Quaternion()]
  matrix.decompose(at, turn, new Vector3())
  const { x, y, z, w } = turn.multiply(HALF_TURN)
  return roundedPose({
    position: /** @type {[number, number, number]} */ ([at.x, at.y, at.z]),
    rotation: /** @type {[number, number, number, number]} */ ([x, y, z, w]),
  })
}

/** @param {import("./curve.mjs").Pose} pose @returns {Matrix4} */
const toMatrix = ({ position, rotation }) =>
  new Matrix4().compose(new Vector3(...position), new Quaternion(...rotation).multiply(HALF_TURN), new Vector3(1, 1, 1))

/** Degrees across of a field of view in degrees down. @param {number} fov @param {Lens} lens */
const across = (fov, lens) =>
  rounded((Math.atan((Math.tan((fov * Math.PI) / 360) * lens.width) / lens.height) * 360) / Math.PI)
/** @param {Lens} lens */
const down = lens => (Math.atan(lens.height / 2 / lens.fy) * 360) / Math.PI

/** @param {unknown} value @param {number} size @returns {number[]} */
function numbers(value, size) {
  const list = typeof value === "string" ? JSON.parse(value) : value
  if (!Array.isArray(list) || list.length !== size || !list.every(Number.isFinite)) throw new Error("matrix")
  return list
}

/**
 * What a file says. Throws where it is no path.
 * @param {string} text @param {Lens} lens of the first source @returns {Path}
 */
export function readPath(text, lens) {
  const data = JSON.parse(text)
  if (data?.version === 1 && Array.isArray(data.keys)) return { ...emptyPath(), ...data }
  const fps = Number(data?.fps) || 8
  const loop = Boolean(data?.is_cycle)
  if (Array.isArray(data?.keyframes) && data.keyframes.length) {
    /** @type {Key[]} */
    const keys = data.keyframes.map((/** @type {any} */ key) => ({
      // As three.js keeps it: column by column.
      ...toPose(new Matrix4().fromArray(numbers(key.matrix, 16))),
      ...(Number(key.fov) ? { fov: across(Number(key.fov), lens) } : {}),
    }))
    return { ...emptyPath(), keys, loop, fps, views: Math.max(keys.length, Math.round(fps * (Number(data.seconds) || 3))) }
  }
  if (Array.isArray(data?.camera_path) && data.camera_path.length) {
    const frames = data.camera_path
    const count = Math.min(KEYS, frames.length)
    const keys = Array.from({ length: count }, (_, i) => {
      const frame = frames[count > 1 ? Math.round((i * (frames.length - 1)) / (count - 1)) : 0]
      const pose = toPose(new Matrix4().fromArray(numbers(frame.camera_to_world, 16)).transpose())
      return { ...pose, ...(Number(frame.fov) ? { fov: across(Number(frame.fov), lens) } : {}) }
    })
    return { ...emptyPath(), keys, fps, views: frames.length }
  }
  throw new Error("path")
}

/** nerfstudio's file of a path. @param {Layout} layout */
export function cameraPath(layout) {
  const { path } = layout
  const views = layout.views()
  const { width, height } = views[0].lens
  const fps = path.fps ?? 8
  return {
    camera_type: "perspective",
    render_width: width,
    render_height: height,
    fps,
    seconds: views.length / fps,
    is_cycle: path.loop ?? false,
    smoothness_value: 0.5,
    keyframes: layout.keys.map(view => ({
      matrix: JSON.stringify(toMatrix(view).toArray()),
      fov: down(view.lens),
      aspect: width / height,
    })),
    camera_path: views.map(view => ({
      camera_to_world: toMatrix(view).transpose().toArray(),
      fov: down(view.lens),
      aspect: width / height,
    })),
  }
}

/** Hand a file to the user. @param {string} name @param {unknown} content */
export function download(name, content) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }))
  const link = document.createElement("a")
  link.href = url
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(url), 1000)
}

/** A file of the user's. @returns {Promise<string>} */
export function upload() {
  return new Promise(resolve => {
    const input = document.createElement("input")
    input.type = "file"
    input.accept = ".json,application/json"
    input.addEventListener("change", async () => {
      const file = input.files?.[0]
      if (file) resolve(await file.text())
    })
    input.click()
  })
}
