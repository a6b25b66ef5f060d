// From the cameras' world to the scene that is drawn, and back. The scene has y up, its unit is the scene's depth, its
// origin what the sources look at; the first source looks along -z. Cameras there are three.js's, which look along -z.
import { Quaternion, Vector3, Matrix4 } from "../lib/three.module.mjs"
import { axes, cross, dot, fromAxes, minus, norm, unit } from "./curve.mjs"

/**
 * @typedef {import("./curve.mjs").Point} Point
 * @typedef {import("./curve.mjs").Quaternion} Turn
 * @typedef {import("./curve.mjs").Pose} Pose
 */

const HALF_TURN = new Quaternion(1, 0, 0, 0)

export class Space {
  /** @param {{up: Point, centre: Point, depth: number, sources: Pose[]}} scene */
  constructor({ up, centre, depth, sources }) {
    const [right, , forward] = axes(sources[0]?.rotation ?? [0, 0, 0, 1])
    let aside = cross(forward, up)
    if (norm(aside) < 1e-3) aside = right
    this.up = unit(up)
    this.right = unit(aside)
    this.back = cross(this.right, this.up)
    this.origin = centre
    this.depth = depth
    const rows = new Matrix4().makeBasis(
      new Vector3(this.right[0], this.up[0], this.back[0]),
      new Vector3(this.right[1], this.up[1], this.back[1]),
      new Vector3(this.right[2], this.up[2], this.back[2])
    )
    this.turn = new Quaternion().setFromRotationMatrix(rows)
  }

  /** @param {readonly number[]} point */
  toScene(point) {
    const away = minus(/** @type {Point} */ (point), this.origin)
    return new Vector3(dot(away, this.right), dot(away, this.up), dot(away, this.back)).divideScalar(this.depth)
  }

  /** @param {Vector3} v @returns {Point} */
  toWorld(v) {
    const [x, y, z] = [v.x * this.depth, v.y * this.depth, v.z * this.depth]
    return /** @type {Point} */ (
      [0, 1, 2].map(i => this.origin[i] + x * this.right[i] + y * this.up[i] + z * this.back[i])
    )
  }

  /** @param {Turn} q */
  turnToScene(q) {
    return this.turn.clone().multiply(new Quaternion(...q)).multiply(HALF_TURN)
  }

  /** @param {Quaternion} q @returns {Turn} */
  turnToWorld(q) {
    const { x, y, z, w } = this.turn.clone().invert().multiply(q).multiply(HALF_TURN.clone().invert())
    const sign = w < 0 ? -1 : 1
    return [sign * x, sign * y, sign * z, sign * w]
  }

  /** Degrees: yaw to the right of the first source, pitch upwards, roll clockwise. @param {Turn} q */
  angles(q) {
    const [right, , forward] = axes(q)
    const ahead = /** @type {Point} */ (this.back.map(value => -value))
    const pitch = Math.asin(Math.min(1, Math.max(-1, dot(forward, this.up))))
    const level = cross(forward, this.up)
    const upright = norm(level) > 1e-6
    const yaw = upright ? Math.atan2(dot(forward, this.right), dot(forward, ahead)) : Math.atan2(-dot(right, ahead), dot(right, this.right))
    const aside = upright ? unit(level) : right
    const roll = Math.atan2(-dot(right, cross(aside, forward)), dot(right, aside))
    return [yaw, pitch, roll].map(angle => (angle * 180) / Math.PI)
  }

  /** @param {number[]} degrees yaw, pitch, roll @returns {Turn} */
  fromAngles(degrees) {
    const [yaw, pitch, roll] = degrees.map(angle => (angle * Math.PI) / 180)
    /** @param {Point} a @param {Point} b @param {number} angle @returns {Point} */
    const mix = (a, b, angle) =>
      /** @type {Point} */ (a.map((value, i) => Math.cos(angle) * value + Math.sin(angle) * b[i]))
    const ahead = mix(/** @type {Point} */ (this.back.map(value => -value)), this.right, yaw)
    const level = cross(ahead, this.up)
    const forward = mix(ahead, this.up, pitch)
    const down = cross(forward, level)
    const right = mix(level, down, roll)
    return fromAxes(right, cross(forward, right), forward)
  }
}
