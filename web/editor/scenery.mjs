// What stands in the outside view beside the surfaces: ground, axes, cameras with their pictures, and the path.
import {
  AxesHelper, BufferGeometry, Float32BufferAttribute, GridHelper, Group, LineBasicMaterial, LineSegments, Line, Mesh,
  MeshBasicMaterial, SphereGeometry, DoubleSide, Vector3,
} from "../lib/three.module.mjs"
import { UNSEEN } from "./surface.mjs"

/**
 * @typedef {import("./path.mjs").View} View
 * @typedef {import("./path.mjs").Layout} Layout
 * @typedef {import("./space.mjs").Space} Space
 * @typedef {import("../lib/three.module.mjs").Texture} Texture
 */

export const COLORS = { source: [0.38, 0.65, 1], target: [0.45, 0.8, 0.55], key: [1, 0.78, 0.3], chosen: [1, 1, 1], pin: [1, 0.45, 0.85] }
const SIZES = { source: 0.16, target: 0.045, key: 0.085, current: 0.11 }

/** Corners of a camera's image at a distance, from the top left clockwise. @param {View} view @param {Space} space @param {number} size */
function corners(view, space, size) {
  const { fx, fy, cx, cy, width, height } = view.lens
  const turn = space.turnToScene(view.rotation)
  const eye = space.toScene(view.position)
  const half = size / Math.hypot(1, width / 2 / fx)
  return [[0, 0], [width, 0], [width, height], [0, height]].map(([u, v]) =>
    new Vector3(((u - cx) / fx) * half, ((cy - v) / fy) * half, -half).applyQuaternion(turn).add(eye)
  )
}

/**
 * Lines of many cameras at once.
 * @param {{view: View, size: number, color: number[]}[]} cameras @param {Space} space
 */
function frusta(cameras, space) {
  const [position, color] = [/** @type {number[]} */ ([]), /** @type {number[]} */ ([])]
  for (const { view, size, color: own } of cameras) {
    const eye = space.toScene(view.position)
    const ends = corners(view, space, size)
    const above = ends[0].clone().add(ends[1]).multiplyScalar(0.5)
    const tip = above.clone().add(ends[0].clone().sub(ends[3]).multiplyScalar(0.35))
    const pairs = [...ends.flatMap((end, i) => [eye, end, end, ends[(i + 1) % 4]]), above, tip]
    for (const point of pairs) {
      position.push(point.x, point.y, point.z)
      color.push(...own)
    }
  }
  const shape = new BufferGeometry()
  shape.setAttribute("position", new Float32BufferAttribute(position, 3))
  shape.setAttribute("color", new Float32BufferAttribute(color, 3))
  return shape
}

/** From all seen to none. @param {number | undefined} share unseen @returns {number[]} */
export function shareColor(share) {
  if (share === undefined) return COLORS.target
  const u = Math.min(1, share * 1.6)
  return COLORS.target.map((value, i) => value + u * (UNSEEN[i] - value))
}

export class Scenery {
  constructor() {
    this.group = new Group()
    const lines = () => new LineSegments(new BufferGeometry(), new LineBasicMaterial({ vertexColors: true }))
    this.sources = lines()
    this.targets = lines()
    this.keys = lines()
    this.current = lines()
    this.way = new Line(new BufferGeometry(), new LineBasicMaterial({ color: 0x8a93a6 }))
    this.pin = new Mesh(new SphereGeometry(0.016, 16, 12), new MeshBasicMaterial({ color: 0xff73d9 }))
    this.sight = new LineSegments(new BufferGeometry(), new LineBasicMaterial({ color: 0xff73d9, transparent: true, opacity: 0.5 }))
    this.ground = new Group()
    this.pictures = new Group()
    for (const part of [this.sources, this.targets, this.keys, this.current, this.way, this.sight]) part.frustumCulled = false
    this.group.add(this.sources, this.targets, this.keys, this.current, this.way, this.pin, this.sight, this.ground, this.pictures)
  }

  /** The ground at a height, with axes where the scene's centre is above it. @param {number} height @param {number} extent */
  setGround(height, extent) {
    this.empty(this.ground)
    const cells = Math.max(4, Math.ceil(extent / 0.25) * 2)
    const grid = new GridHelper(cells * 0.25, cells, 0x4a5160, 0x30353f)
    const axes = new AxesHelper(0.25)
    grid.position.y = axes.position.y = height
    this.ground.add(grid, axes)
  }

  /** @param {View[]} views @param {(Texture | null)[]} pictures @param {Space} space */
  setSources(views, pictures, space) {
    this.empty(this.pictures)
    this.replace(this.sources, frusta(views.map(view => ({ view, size: SIZES.source, color: COLORS.source })), space))
    views.forEach((view, number) => {
      const map = pictures[number]
      if (!map) return
      const shape = new BufferGeometry().setFromPoints(corners(view, space, SIZES.source))
      shape.setAttribute("uv", new Float32BufferAttribute([0, 0, 1, 0, 1, 1, 0, 1], 2))
      shape.setIndex([0, 3, 2, 0, 2, 1])
      this.pictures.add(new Mesh(shape, new MeshBasicMaterial({ map, side: DoubleSide })))
    })
  }

  /**
   * @param {Layout} layout @param {View[]} views @param {(number | undefined)[]} shares @param {number} chosen key
   * @param {Space} space
   */
  setPath(layout, views, shares, chosen, space) {
    this.replace(this.targets, frusta(views.map((view, i) => ({ view, size: SIZES.target, color: shareColor(shares[i]) })), space))
    const keys = layout.keys.map((view, i) => ({ view, size: SIZES.key, color: i === chosen ? COLORS.chosen : COLORS.key }))
    this.replace(this.keys, frusta(keys, space))
    const along = layout.curve ? layout.curve.fine.filter((_, i) => i % 2 === 0).map(knot => layout.curve?.at(knot)) : []
    this.replace(this.way, new BufferGeometry().setFromPoints(along.map(pose => space.toScene(pose?.position ?? []))))
    const point = layout.path.look_at
    this.pin.visible = this.sight.visible = Boolean(point)
    if (point) {
      this.pin.position.copy(space.toScene(point))
      const sight = layout.keys.flatMap(key => [space.toScene(key.position), this.pin.position])
      this.replace(this.sight, new BufferGeometry().setFromPoints(sight))
    }
  }

  /** The camera that is looked through. @param {View} view @param {Space} space */
  setCurrent(view, space) {
    this.replace(this.current, frusta([{ view, size: SIZES.current, color: COLORS.chosen }], space))
  }

  /** @param {LineSegments | Line} part @param {BufferGeometry} shape */
  replace(part, shape) {
    part.geometry.dispose()
    part.geometry = shape
  }

  /** @param {Group} group */
  empty(group) {
    for (const child of [...group.children]) {
      const { geometry, material } = /** @type {any} */ (child)
      geometry?.dispose()
      material?.dispose()
      group.remove(child)
    }
  }

  dispose() {
    for (const group of [this.ground, this.pictures, this.group]) this.empty(group)
  }
}
