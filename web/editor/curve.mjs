// The curve through keyframes: gld_core/cameras/curves.py and keyframes.py in JavaScript, held together by
// tests/core/data/paths.json. Quaternions are x, y, z, w; cameras are OpenCV camera-to-world.

/**
 * @typedef {[number, number, number]} Point
 * @typedef {[number, number, number, number]} Quaternion
 * @typedef {{position: Point, rotation: Quaternion}} Pose
 * @typedef {(position: Point, turn: Quaternion) => Quaternion} Facing
 */

/** @type {Record<string, (t: number) => number>} */
export const EASES = {
  none: t => t,
  in: t => t * t,
  out: t => t * (2 - t),
  in_out: t => t * t * (3 - 2 * t),
}

const PIECES = 32

/** @param {readonly number[]} a @param {readonly number[]} b */
export const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0)
/** @param {readonly number[]} a */
export const norm = a => Math.sqrt(dot(a, a))
/** @template {number[]} T @param {T} a @param {T} b @param {number} u @returns {T} */
export const lerp = (a, b, u) => /** @type {T} */ (a.map((value, i) => value + u * (b[i] - value)))
/** @template {number[]} T @param {T} a @returns {T} */
export const unit = a => /** @type {T} */ (a.map(value => value / norm(a)))
/** @param {Point} a @param {Point} b @returns {Point} */
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
/** @param {Point} a @param {Point} b @returns {Point} */
export const minus = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]]

/** @param {Quaternion} a @param {Quaternion} b @returns {number} radians */
export function angleBetween(a, b) {
  const chord = Math.min(norm(a.map((value, i) => value - b[i])), norm(a.map((value, i) => value + b[i])))
  return 4 * Math.asin(Math.min(1, chord / 2))
}

/** Shoemake, 1985. @param {Quaternion} a @param {Quaternion} b @param {number} u @returns {Quaternion} */
export function slerp(a, b, u) {
  let cosine = dot(a, b)
  if (cosine < 0) {
    b = /** @type {Quaternion} */ (b.map(value => -value))
    cosine = -cosine
  }
  const angle = Math.acos(Math.min(1, cosine))
  if (angle < 1e-6) return unit(lerp(a, b, u))
  const [left, right] = [Math.sin((1 - u) * angle), Math.sin(u * angle)]
  return unit(/** @type {Quaternion} */ (a.map((value, i) => (left * value + right * b[i]) / Math.sin(angle))))
}

/** The columns of a rotation, camera-to-world. @param {Quaternion} q @returns {[Point, Point, Point]} */
export function axes([x, y, z, w]) {
  return [
    [1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)],
    [2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w)],
    [2 * (x * z + y * w), 2 * (y * z - x * w), 1 - 2 * (x * x + y * y)],
  ]
}

/** @param {Point} right @param {Point} down @param {Point} forward @returns {Quaternion} */
export function fromAxes(right, down, forward) {
  const [[xx, yx, zx], [xy, yy, zy], [xz, yz, zz]] = [right, down, forward]
  /** @type {Quaternion[]} rows of 4 q_i q, of which the longest is the best conditioned */
  const rows = [
    [1 + xx - yy - zz, xy + yx, xz + zx, zy - yz],
    [xy + yx, 1 + yy - xx - zz, yz + zy, xz - zx],
    [xz + zx, yz + zy, 1 + zz - xx - yy, yx - xy],
    [zy - yz, xz - zx, yx - xy, 1 + xx + yy + zz],
  ]
  const best = rows.reduce((best, row, i) => (row[i] > rows[best][best] ? i : best), 0)
  const q = unit(rows[best])
  return q[3] < 0 ? /** @type {Quaternion} */ (q.map(value => -value)) : q
}

/**
 * The rotation of an upright camera that looks at a point; its own where there is none.
 * @param {Point} point @param {Point} up @returns {Facing}
 */
export function facing(point, up) {
  return (position, turn) => {
    const forward = minus(point, position)
    const right = cross(forward, up)
    if (norm(right) <= 1e-6 * norm(forward) || norm(forward) === 0) return turn
    const [ahead, aside] = [unit(forward), unit(right)]
    return fromAxes(aside, cross(ahead, aside), ahead)
  }
}

/**
 * Barry and Goldman, 1988.
 * @template {number[]} T
 * @param {T[]} keys @param {number[]} knots @param {number} t @param {(a: T, b: T, u: number) => T} mix
 */
function catmullRom(keys, knots, t, mix) {
  for (const reach of [1, 2])
    keys = keys.slice(1).map((key, i) => mix(keys[i], key, (t - knots[i]) / (knots[i + reach] - knots[i])))
  return mix(keys[0], keys[1], (t - knots[1]) / (knots[2] - knots[1]))
}

/** @param {number[]} steps @returns {number[]} */
function cumulated(steps) {
  const sums = [0]
  for (const step of steps) sums.push(sums[sums.length - 1] + step)
  return sums
}

/** @param {number[]} sorted @param {number} value how many are not above it */
function rank(sorted, value) {
  let [low, high] = [0, sorted.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if (sorted[middle] <= value) low = middle + 1
    else high = middle
  }
  return low
}

/** @param {number} x @param {number[]} xs rising @param {number[]} ys */
function interpolate(x, xs, ys) {
  if (x <= xs[0]) return ys[0]
  if (x >= xs[xs.length - 1]) return ys[ys.length - 1]
  const i = rank(xs, x) - 1
  return ys[i] + ((ys[i + 1] - ys[i]) / (xs[i + 1] - xs[i])) * (x - xs[i])
}

/** Through two keys or more: centripetal Catmull-Rom, travelled by distance; a radian counts like one scene depth. */
export class Curve {
  /** @param {Pose[]} keys @param {number} depth @param {boolean} loop @param {Facing} [look] */
  constructor(keys, depth, loop, look) {
    if (loop) keys = [...keys, keys[0]]
    this.depth = depth
    this.look = look
    this.segments = keys.length - 1
    let position = keys.map(key => key.position)
    let turn = keys.map(key => key.rotation)
    let steps = keys.slice(1).map((key, i) => Math.max(Math.sqrt(this.distance(keys[i], key)), 1e-4))
    const last = keys.length - 1
    if (loop) {
      steps = [steps[last - 1], ...steps, steps[0]]
      position = [position[last - 1], ...position, position[1]]
      turn = [turn[last - 1], ...turn, turn[1]]
    } else {
      steps = [steps[0], ...steps, steps[last - 1]]
      position = [lerp(position[0], position[1], -1), ...position, lerp(position[last], position[last - 1], -1)]
      turn = [slerp(turn[0], turn[1], -1), ...turn, slerp(turn[last], turn[last - 1], -1)]
    }
    this.position = position
    this.turn = turn
    this.knots = cumulated(steps)
    const inner = this.knots.slice(1, -1)
    this.fine = Array.from({ length: PIECES * this.segments + 1 }, (_, i) =>
      interpolate(i / PIECES, inner.map((_, key) => key), inner)
    )
    const samples = this.fine.map(knot => this.at(knot))
    this.travelled = cumulated(samples.slice(1).map((sample, i) => this.distance(samples[i], sample) + 1e-9))
  }

  /** @param {Pose} a @param {Pose} b */
  distance(a, b) {
    return norm(minus(b.position, a.position)) / this.depth + angleBetween(a.rotation, b.rotation)
  }

  /** @param {number} knot @returns {Pose & {segment: number, share: number}} */
  at(knot) {
    const i = Math.min(Math.max(rank(this.knots, knot) - 2, 0), this.segments - 1)
    const local = this.knots.slice(i, i + 4)
    const position = catmullRom(this.position.slice(i, i + 4), local, knot, lerp)
    const turn = catmullRom(this.turn.slice(i, i + 4), local, knot, slerp)
    const rotation = this.look ? this.look(position, turn) : turn
    return { position, rotation, segment: i, share: (knot - local[1]) / (local[2] - local[1]) }
  }

  /** @param {number} distance from the first key */
  atDistance(distance) {
    return this.at(interpolate(distance, this.travelled, this.fine))
  }

  /** The way from the first key to every key, the closing one of a loop included. */
  get keyDistances() {
    return this.travelled.filter((_, i) => i % PIECES === 0)
  }
}
