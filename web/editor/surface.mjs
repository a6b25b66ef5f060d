// The sources' depth as surfaces with their photographs on them, cut where they are torn, and points where only points
// are left. Front faces are what a source has seen; back faces hide what lies behind them and were seen by nobody.
import {
  BackSide, BufferAttribute, BufferGeometry, DoubleSide, FrontSide, Group, Mesh, Points, ShaderMaterial, Texture, Vector3,
} from "../lib/three.module.mjs"
import { axes } from "./curve.mjs"
import { depths } from "./scene_file.mjs"

/**
 * @typedef {import("./space.mjs").Space} Space
 * @typedef {import("./scene_file.mjs").SceneData} SceneData
 * @typedef {import("./scene_file.mjs").Source} Source
 */

/** What no source has seen, in the page and in the node's preview. */
export const UNSEEN = [235 / 255, 70 / 255, 80 / 255]
// A surface seen from behind hides what lies further back than this times its own depth: geometry/reprojection.py.
const HIDES = 1.05
const GRAZING = Math.cos((85 * Math.PI) / 180)

const VERTEX = `
  uniform float push;
  uniform float size;
  uniform float pixels;
  varying vec2 place;
  varying vec3 seen;
  void main() {
    place = uv;
    vec4 at = modelViewMatrix * vec4(position, 1.0);
    at.xyz *= push;
    seen = at.xyz;
    gl_Position = projectionMatrix * at;
    gl_PointSize = clamp(size * projectionMatrix[1][1] * pixels, 1.0, 24.0);
  }`

const FRAGMENT = `
  uniform sampler2D map;
  uniform float pictured;
  uniform float shade;
  uniform vec3 flat_color;
  uniform float flat_share;
  uniform float measure;
  varying vec2 place;
  varying vec3 seen;
  void main() {
    if (measure > 0.5) { gl_FragColor = vec4(-seen.z, 0.0, 0.0, 1.0 - flat_share); return; }
    vec3 slope = cross(dFdx(seen), dFdy(seen));
    float light = dot(slope, slope) > 0.0 ? mix(1.0, 0.55 + 0.45 * abs(normalize(slope).z), shade) : 1.0;
    vec3 color = mix(vec3(0.62), texture2D(map, place).rgb, pictured) * light;
    gl_FragColor = mix(vec4(color, 1.0), vec4(flat_color, 0.0), flat_share);
  }`

/** @param {number} side @param {Record<string, any>} values */
function material(side, values) {
  const uniforms = {
    map: { value: null }, pictured: { value: 0 }, shade: { value: 0 }, push: { value: 1 }, size: { value: 0 },
    pixels: { value: 1 }, flat_color: { value: UNSEEN }, flat_share: { value: 0 }, measure: { value: 0 },
  }
  for (const [name, value] of Object.entries(values)) /** @type {any} */ (uniforms)[name].value = value
  return new ShaderMaterial({ side: /** @type {any} */ (side), uniforms, vertexShader: VERTEX, fragmentShader: FRAGMENT })
}

/**
 * Triangles of a depth map on every `step`-th of its pixels.
 * @param {Source} source @param {Space} space @param {number} step
 */
function build(source, space, step) {
  const map = /** @type {NonNullable<Source["depth"]>} */ (source.depth)
  const z = depths(map)
  const rows = Math.floor((map.rows - 1) / step) + 1
  const columns = Math.floor((map.columns - 1) / step) + 1
  const [fx, fy, cx, cy] = source.K
  const [right, down, forward] = axes(source.rotation)
  const position = new Float32Array(rows * columns * 3)
  const uv = new Float32Array(rows * columns * 2)
  const depth = new Float32Array(rows * columns)
  const width = map.columns * map.stride
  const height = map.rows * map.stride
  for (let row = 0, at = 0; row < rows; row++)
    for (let column = 0; column < columns; column++, at++) {
      const here = z[row * step * map.columns + column * step]
      // To the image's border.
      const x = column === columns - 1 ? width : column && column * step * map.stride + 0.5
      const y = row === rows - 1 ? height : row && row * step * map.stride + 0.5
      depth[at] = here
      uv.set([x / width, y / height], at * 2)
      const [u, v] = [((x - cx) / fx) * here, ((y - cy) / fy) * here]
      const world = [0, 1, 2].map(i => source.position[i] + u * right[i] + v * down[i] + here * forward[i])
      space.toScene(world).toArray(position, at * 3)
    }
  return triangles({ position, uv, depth }, rows, columns, space.toScene(source.position), edge(fx) * step * map.stride)
}

/** Neighbouring pixels are of one surface while their depth differs by less than this. @param {number} focal */
const edge = focal => Math.min(Math.max(Math.tan((85 * Math.PI) / 180) / focal, 0.03), 0.1)

/**
 * Where a surface is torn, what lies behind goes on to the edge: from where the source stands there is no gap.
 * @param {{position: Float32Array, uv: Float32Array, depth: Float32Array}} grid
 * @param {number} rows @param {number} columns @param {Vector3} eye @param {number} tear
 */
function triangles({ position, uv, depth }, rows, columns, eye, tear) {
  const index = new Uint32Array((rows - 1) * (columns - 1) * 6)
  const used = new Uint8Array(depth.length)
  const behind = { position: /** @type {number[]} */ ([]), uv: /** @type {number[]} */ ([]) }
  const [ex, ey, ez] = eye.toArray()
  let count = 0
  /** @param {number} a @param {number} b @param {number} c */
  const whole = (a, b, c) => {
    const [i, j, k] = [a * 3, b * 3, c * 3]
    const [px, py, pz] = [position[i], position[i + 1], position[i + 2]]
    const [ux, uy, uz] = [position[j] - px, position[j + 1] - py, position[j + 2] - pz]
    const [vx, vy, vz] = [position[k] - px, position[k + 1] - py, position[k + 2] - pz]
    const [nx, ny, nz] = [uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx]
    const [dx, dy, dz] = [ex - px, ey - py, ez - pz]
    return nx * dx + ny * dy + nz * dz > GRAZING * Math.hypot(nx, ny, nz) * Math.hypot(dx, dy, dz)
  }
  /** @param {number} a @param {number} b @param {number} c */
  const add = (a, b, c) => {
    const [low, high] = [Math.min(depth[a], depth[b], depth[c]), Math.max(depth[a], depth[b], depth[c])]
    if (low <= 0) return
    if (high <= (1 + tear) * low && whole(a, b, c)) {
      index[count++] = a
      index[count++] = b
      index[count++] = c
      used[a] = used[b] = used[c] = 1
      return
    }
    const last = depth[a] === high ? a : depth[b] === high ? b : c
    for (const corner of [a, b, c]) {
      const [far, from] = [high / depth[corner], corner * 3]
      behind.position.push(
        ex + far * (position[from] - ex), ey + far * (position[from + 1] - ey), ez + far * (position[from + 2] - ez)
      )
      const at = 2 * (depth[corner] * (1 + tear) < high ? last : corner)
      behind.uv.push(uv[at], uv[at + 1])
    }
  }
  for (let row = 0; row + 1 < rows; row++)
    for (let column = 0; column + 1 < columns; column++) {
      const a = row * columns + column
      const [b, d] = [a + 1, a + columns]
      add(a, d, b)
      add(b, d, d + 1)
    }
  const loose = []
  for (let at = 0; at < depth.length; at++) if (depth[at] > 0 && !used[at]) loose.push(at)
  const size = depth.length
  const rest = Uint32Array.from({ length: behind.position.length / 3 }, (_, i) => size + i)
  return {
    position: joined(Float32Array, position, behind.position),
    uv: joined(Float32Array, uv, behind.uv),
    index: joined(Uint32Array, index.subarray(0, count), rest),
    loose: Uint32Array.from(loose),
  }
}

/**
 * @template {Float32Array | Uint32Array} T
 * @param {new (size: number) => T} Kind @param {T} first @param {T | number[]} second
 */
function joined(Kind, first, second) {
  const all = new Kind(first.length + second.length)
  all.set(first)
  all.set(second, first.length)
  return all
}

/** All sources' surfaces at one resolution. */
export class Surfaces {
  /** @param {SceneData} scene @param {Space} space @param {(Texture | null)[]} pictures @param {number} most triangles */
  constructor(scene, space, pictures, most) {
    this.group = new Group()
    this.triangles = 0
    /** @type {{front: ShaderMaterial, back: ShaderMaterial, backs: Mesh}[]} */
    this.parts = []
    const values = scene.sources.reduce((sum, { depth }) => sum + (depth ? depth.rows * depth.columns : 0), 0)
    const step = Math.max(1, Math.ceil(Math.sqrt((2 * values) / most)))
    scene.sources.forEach((source, number) => {
      if (!source.depth) return
      const { position, uv, index, loose } = build(source, space, step)
      const pictured = pictures[number] ? 1 : 0
      const front = material(FrontSide, { map: pictures[number], pictured })
      // Where from behind: without the photograph, and a little further away, so that it loses against its own front.
      const back = material(BackSide, { push: HIDES, flat_share: 1 })
      const attributes = { position: new BufferAttribute(position, 3), uv: new BufferAttribute(uv, 2) }
      const shape = new BufferGeometry()
      shape.setAttribute("position", attributes.position).setAttribute("uv", attributes.uv)
      shape.setIndex(new BufferAttribute(index, 1))
      const backs = new Mesh(shape, back)
      this.group.add(new Mesh(shape, front), backs)
      if (loose.length) {
        const points = new BufferGeometry()
        points.setAttribute("position", attributes.position).setAttribute("uv", attributes.uv)
        points.setIndex(new BufferAttribute(loose, 1))
        const dots = material(DoubleSide, { map: pictures[number], pictured, size: (step * source.depth.stride) / source.K[1] })
        this.group.add(new Points(points, dots))
      }
      for (const child of this.group.children) child.frustumCulled = false
      this.triangles += index.length / 3
      this.parts.push({ front, back, backs })
    })
  }

  /** @param {Record<string, any>} values of every material's uniforms */
  set(values) {
    this.group.traverse(child => {
      const own = /** @type {any} */ (child).material?.uniforms
      if (own) for (const [name, value] of Object.entries(values)) own[name].value = value
    })
  }

  /** From outside back faces are left out, so that one looks into a room. @param {boolean} shown */
  showBacks(shown) {
    for (const { backs } of this.parts) backs.visible = shown
  }

  /** How low the scene reaches, of most of it, and how far it goes from its centre. */
  bounds() {
    const [heights, reaches] = [/** @type {number[]} */ ([]), /** @type {number[]} */ ([])]
    for (const { backs } of this.parts) {
      const { array } = backs.geometry.getAttribute("position")
      for (let at = 0; at + 2 < array.length; at += 3 * 97) {
        if (!array[at] && !array[at + 1] && !array[at + 2]) continue
        heights.push(array[at + 1])
        reaches.push(Math.hypot(array[at], array[at + 2]))
      }
    }
    const at = (/** @type {number[]} */ values, /** @type {number} */ share) => values.sort((a, b) => a - b)[Math.floor(share * values.length)]
    return { floor: at(heights, 0.02) ?? -0.5, extent: Math.min(4, at(reaches, 0.9) ?? 2) }
  }

  dispose() {
    this.group.traverse(child => {
      const { geometry, material } = /** @type {any} */ (child)
      geometry?.dispose()
      material?.dispose()
    })
  }
}
