// The path of keyframes as the node's widget holds it, and the cameras that it gives: gld_core/cameras/keyframes.py in
// JavaScript. Paths are plain JSON and never changed in place, so that undo is a list of them.
import { Curve, EASES, angleBetween, facing, lerp, norm, minus } from "./curve.mjs"

/**
 * @typedef {import("./curve.mjs").Point} Point
 * @typedef {import("./curve.mjs").Quaternion} Quaternion
 * @typedef {import("./curve.mjs").Pose} Pose
 * @typedef {Pose & {fov?: number | null, views?: number, ease?: string, hold?: number}} Key
 * @typedef {{version: 1, keys: Key[], views?: number | null, ease?: string, loop?: boolean, look_at?: Point | null,
 *   fps?: number, sources?: Pose[] | null}} Path
 * @typedef {{fx: number, fy: number, cx: number, cy: number, width: number, height: number}} Lens
 * @typedef {Pose & {lens: Lens}} View
 * @typedef {{up: Point, depth: number, lens: Lens}} Stage
 */

/** @type {Stage} what a path is shown with before the scene has been run */
export const NO_STAGE = { up: [0, -1, 0], depth: 1, lens: { fx: 400, fy: 400, cx: 252, cy: 168, width: 504, height: 336 } }
export const DEFAULT_VIEWS = 8
export const MAX_VIEWS = 1000

/** @returns {Path} */
export const emptyPath = () => ({ version: 1, keys: [], views: 24, ease: "none", loop: false, look_at: null, fps: 8 })

/** @param {Path} path */
export const holds = path => path.keys.reduce((sum, key) => sum + (key.hold ?? 0), 0)

/** @param {Path} path */
export const segmentCount = path =>
  path.loop && path.keys.length > 1 ? path.keys.length : Math.max(path.keys.length - 1, 0)

/** @param {Path} path how many views it has */
export function viewCount(path) {
  if (!path.keys.length) return 0
  if (path.views != null) return path.views
  if (path.keys.length === 1) return 1 + holds(path)
  const way = path.keys.slice(0, segmentCount(path)).reduce((sum, key) => sum + (key.views ?? DEFAULT_VIEWS), 0)
  return way + holds(path) + (path.loop ? 0 : 1)
}

/** Whether its holds leave views for the way. @param {Path} path */
export function timingFits(path) {
  const count = viewCount(path)
  return count <= MAX_VIEWS && !(path.views != null && path.keys.length > 1 && count > 1 && count <= holds(path) + (path.loop ? 0 : 1))
}

/** @param {Key} key @param {Lens} lens of the first source @returns {Lens} */
export function lensOf(key, lens) {
  if (key.fov == null) return lens
  const focal = lens.width / 2 / Math.tan((key.fov * Math.PI) / 360)
  return { ...lens, fx: focal, fy: (lens.fy * focal) / lens.fx }
}

/** Degrees across. @param {Lens} lens */
export const fovOf = lens => (Math.atan(lens.width / 2 / lens.fx) * 360) / Math.PI

/** What the path's timing is made of, in views. @param {Path} path @param {number[]} lengths of the segments */
export function timing(path, lengths) {
  const count = viewCount(path)
  const total = count - 1 + (path.loop ? 1 : 0)
  const way = lengths.reduce((sum, length) => sum + length, 0)
  const durations = lengths.map((length, i) =>
    path.views == null ? path.keys[i].views ?? DEFAULT_VIEWS : ((total - holds(path)) * length) / way
  )
  let start = 0
  const arrivals = path.keys.map((key, i) => {
    const arrival = start
    start += (key.hold ?? 0) + (durations[i] ?? 0)
    return arrival
  })
  return { count, total, durations, arrivals }
}

/** A path laid out over a scene: what it shows at any time, in views from 0. */
export class Layout {
  /** @param {Path} path @param {Stage} stage */
  constructor(path, stage) {
    this.path = path
    this.look = path.look_at ? facing(path.look_at, stage.up) : undefined
    const keys = path.keys.map(key => ({
      position: key.position,
      rotation: this.look ? this.look(key.position, key.rotation) : key.rotation,
    }))
    /** @type {View[]} the keys as they look, which a pinned point turns */
    this.keys = keys.map((key, i) => ({ ...key, lens: lensOf(path.keys[i], stage.lens) }))
    this.curve = keys.length > 1 ? new Curve(keys, stage.depth, path.loop ?? false, this.look) : null
    this.starts = this.curve?.keyDistances ?? [0]
    this.lengths = this.starts.slice(1).map((end, i) => end - this.starts[i])
    this.timing = timing(path, this.lengths)
  }

  /** @param {number} view from 0 to the last, fractions between @returns {View} */
  at(view) {
    if (!this.curve) return this.keys[0]
    const { total, durations } = this.timing
    const time = total > 0 ? total * EASES[this.path.ease ?? "none"](Math.min(Math.max(view / total, 0), 1)) : 0
    let [segment, share, start] = [this.lengths.length - 1, 1, 0]
    for (const [i, key] of this.path.keys.entries()) {
      start += key.hold ?? 0
      if (time <= start) {
        if (i < this.lengths.length) [segment, share] = [i, 0]
        break
      }
      if (i < this.lengths.length) {
        if (time < start + durations[i]) {
          ;[segment, share] = [i, EASES[key.ease ?? "none"]((time - start) / durations[i])]
          break
        }
        start += durations[i]
      }
    }
    const pose = this.curve.atDistance(this.starts[segment] + share * this.lengths[segment])
    const [from, to] = [this.keys[pose.segment].lens, this.keys[(pose.segment + 1) % this.keys.length].lens]
    const [fx, fy] = lerp([from.fx, from.fy], [to.fx, to.fy], pose.share)
    return { position: pose.position, rotation: pose.rotation, lens: { ...from, fx, fy } }
  }

  /** The targets. @returns {View[]} */
  views() {
    return Array.from({ length: this.timing.count }, (_, view) => this.at(view))
  }

  /** The time of a key, in views. @param {number} key */
  timeOf(key) {
    const { total, arrivals } = this.timing
    const ease = EASES[this.path.ease ?? "none"]
    let [low, high] = [0, 1]
    for (let step = 0; step < 40; step++) {
      const middle = (low + high) / 2
      if (ease(middle) * total < arrivals[key]) low = middle
      else high = middle
    }
    return high * total
  }
}

/** Whether a path was placed over other sources than these. @param {Path} path @param {Pose[]} sources @param {number} depth */
export function placedElsewhere(path, sources, depth) {
  if (!path.sources?.length) return false
  if (path.sources.length !== sources.length) return true
  return path.sources.some(
    ({ position, rotation }, i) =>
      norm(minus(position, sources[i].position)) / depth > 0.02 ||
      (angleBetween(rotation, sources[i].rotation) * 180) / Math.PI > 2
  )
}

/** Numbers as the widget keeps them: what float32 cameras can tell apart. @param {number} value */
export const rounded = value => Number(value.toPrecision(9))

/** @template {Pose} T @param {T} pose @returns {T} */
export const roundedPose = pose => ({
  ...pose,
  position: /** @type {Point} */ (pose.position.map(rounded)),
  rotation: /** @type {Quaternion} */ (pose.rotation.map(rounded)),
})
