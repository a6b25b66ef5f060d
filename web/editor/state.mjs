// What the editor works on: the path with its history, the scene, the chosen key, the playhead and the camera in flight.
// Says "path", "time" or "scene" to those who listen; all drawing follows from that.
import { Layout, NO_STAGE, emptyPath, fovOf, lensOf, placedElsewhere, rounded, roundedPose, timingFits, viewCount } from "./path.mjs"
import { Space } from "./space.mjs"

/**
 * @typedef {import("./path.mjs").Path} Path
 * @typedef {import("./path.mjs").Key} Key
 * @typedef {import("./path.mjs").View} View
 * @typedef {import("./path.mjs").Lens} Lens
 * @typedef {import("./curve.mjs").Pose} Pose
 * @typedef {import("./scene_file.mjs").SceneData} SceneData
 */

const HISTORY = 200

export class State extends EventTarget {
  /** @param {Path} path @param {(path: Path) => void} save */
  constructor(path, save) {
    super()
    this.save = save
    this.path = this.committed = path
    /** @type {{path: Path, chosen: number}[]} */
    this.undone = []
    /** @type {{path: Path, chosen: number}[]} */
    this.done = []
    this.chosen = -1
    this.time = 0
    /** @type {Pose | null} a camera in flight that is no key yet */
    this.free = null
    /** @type {SceneData | null} */
    this.scene = null
    this.space = new Space({ up: NO_STAGE.up, centre: [0, 0, 1], depth: 1, sources: [] })
    this.stage = NO_STAGE
    /** @type {(number | undefined)[]} unseen, of every target */
    this.shares = []
    this.layout = new Layout(path, this.stage)
  }

  /** @param {string} what */
  say(what) {
    this.dispatchEvent(new Event(what))
  }

  /** @param {SceneData} scene */
  setScene(scene) {
    this.scene = scene
    this.space = new Space(scene)
    const [fx, fy, cx, cy] = scene.sources[0].K
    this.stage = { up: scene.up, depth: scene.depth, lens: { fx, fy, cx, cy, width: scene.width, height: scene.height } }
    this.layout = new Layout(this.path, this.stage)
    this.say("scene")
  }

  /** A path from elsewhere: a workflow that was loaded, or the page's own undo. @param {Path} path */
  replace(path) {
    if (JSON.stringify(path) === JSON.stringify(this.committed)) return
    ;[this.done, this.undone, this.chosen, this.free] = [[], [], -1, null]
    this.committed = path
    this.show(path)
  }

  /** @param {Path} path */
  show(path) {
    this.path = path
    this.layout = new Layout(path, this.stage)
    this.chosen = Math.min(this.chosen, path.keys.length - 1)
    this.time = this.chosen >= 0 ? this.layout.timeOf(this.chosen) : Math.min(this.time, Math.max(0, viewCount(path) - 1))
    this.say("path")
  }

  /** Show a change that is still being made. @param {Partial<Path>} change @returns {boolean} whether it fits */
  edit(change) {
    const path = { ...this.path, ...change }
    if (!timingFits(path)) return false
    this.show(path)
    return true
  }

  /** Make what is shown a step of the history. */
  commit() {
    if (this.path === this.committed) return
    const sources = this.path.sources ?? this.scene?.sources.map(({ position, rotation }) => roundedPose({ position, rotation }))
    const point = this.path.look_at
    const look_at = point ? /** @type {[number, number, number]} */ (point.map(rounded)) : null
    const path = { ...this.path, look_at, sources: sources ?? null, keys: this.path.keys.map(roundedPose) }
    this.done = [...this.done.slice(1 - HISTORY), { path: this.committed, chosen: this.chosen }]
    this.undone = []
    this.committed = path
    this.show(path)
    this.save(path)
  }

  /** @param {Partial<Path>} change */
  change(change) {
    if (this.edit(change)) this.commit()
  }

  undo() {
    this.step(this.done, this.undone)
  }

  redo() {
    this.step(this.undone, this.done)
  }

  /** @param {{path: Path, chosen: number}[]} from @param {{path: Path, chosen: number}[]} to */
  step(from, to) {
    const last = from.pop()
    if (!last) return
    to.push({ path: this.committed, chosen: this.chosen })
    this.committed = last.path
    this.chosen = last.chosen
    this.free = null
    this.show(last.path)
    this.save(last.path)
  }

  get elsewhere() {
    return this.scene !== null && placedElsewhere(this.path, this.scene.sources, this.scene.depth)
  }

  /** The path was placed over other sources; from now on over these. */
  keepHere() {
    const sources = this.scene?.sources.map(({ position, rotation }) => roundedPose({ position, rotation }))
    this.change({ sources })
  }

  /** What the view through the camera shows. @returns {View} */
  get view() {
    if (this.free) return { ...this.free, lens: this.stage.lens }
    if (this.chosen >= 0) return this.layout.keys[this.chosen]
    if (this.layout.keys.length) return this.layout.at(this.time)
    return { ...this.sourceView(0), lens: this.stage.lens }
  }

  /** @param {number} number @returns {View} */
  sourceView(number) {
    const source = this.scene?.sources[number]
    if (!source) return { position: [0, 0, 0], rotation: [0, 0, 0, 1], lens: this.stage.lens }
    const [fx, fy, cx, cy] = source.K
    return { position: source.position, rotation: source.rotation, lens: { ...this.stage.lens, fx, fy, cx, cy } }
  }

  /** Where one flies to: the chosen key, or a camera that is no key yet. @param {Pose} pose */
  fly(pose) {
    if (this.chosen >= 0) this.editKey(this.chosen, pose)
    else {
      this.free = pose
      this.say("time")
    }
  }

  /** @param {number} chosen */
  choose(chosen) {
    this.chosen = chosen
    this.free = null
    if (chosen >= 0) this.time = this.layout.timeOf(chosen)
    this.say("path")
  }

  /** @param {number} time in views */
  seek(time) {
    const end = Math.max(0, viewCount(this.path) - 1)
    this.time = Math.min(Math.max(time, 0), end)
    const leaves = this.chosen >= 0 || this.free
    ;[this.chosen, this.free] = [-1, null]
    this.say(leaves ? "path" : "time")
  }

  /** @param {number} number @param {Partial<Key>} change */
  editKey(number, change) {
    return this.edit({ keys: this.path.keys.map((key, i) => (i === number ? { ...key, ...change } : key)) })
  }

  /** @param {View} view after the chosen key, or at the end. */
  add({ position, rotation, lens }) {
    const usual = fovOf(this.stage.lens)
    const fov = fovOf(lens)
    const key = { position, rotation, ...(Math.abs(fov - usual) > 1e-3 ? { fov } : {}) }
    const at = this.chosen >= 0 ? this.chosen + 1 : this.path.keys.length
    const flying = this.free
    if (!this.edit({ keys: [...this.path.keys.slice(0, at), key, ...this.path.keys.slice(at)] })) return
    const before = this.chosen
    this.commit()
    if (before >= 0) this.choose(at)
    else this.free = flying
    this.time = this.layout.timeOf(at)
    this.say("path")
  }

  duplicate() {
    if (this.chosen < 0) return
    const key = this.path.keys[this.chosen]
    this.add({ ...key, lens: lensOf(key, this.stage.lens) })
  }

  remove() {
    if (this.chosen < 0) return
    this.change({ keys: this.path.keys.filter((_, i) => i !== this.chosen) })
  }

  /** @param {number} from @param {number} to places of a key */
  move(from, to) {
    if (to < 0 || to >= this.path.keys.length || from === to) return
    const keys = this.path.keys.filter((_, i) => i !== from)
    keys.splice(to, 0, this.path.keys[from])
    if (!this.edit({ keys })) return
    this.commit()
    this.choose(to)
  }

  clear() {
    this.chosen = -1
    this.change({ keys: [], look_at: null, loop: false, views: emptyPath().views })
  }
}
