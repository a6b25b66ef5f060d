// The binary file that the node leaves in the temp folder: gld_core/export/editor_scene.py says what is in it.

/**
 * @typedef {import("./curve.mjs").Point} Point
 * @typedef {import("./curve.mjs").Quaternion} Quaternion
 * @typedef {{values: Uint16Array, rows: number, columns: number, stride: number, near: number, far: number}} DepthMap
 * @typedef {{position: Point, rotation: Quaternion, K: [number, number, number, number], image: Blob | null,
 *   depth: DepthMap | null}} Source
 * @typedef {{width: number, height: number, depth: number, up: Point, centre: Point, sources: Source[],
 *   incoming: import("./path.mjs").Key[]}} SceneData
 */

const VERSION = 1

/** @param {ArrayBuffer} buffer @returns {SceneData} Throws where it is no such file. */
export function readScene(buffer) {
  const view = new DataView(buffer)
  if (buffer.byteLength < 8 || view.getUint32(0) !== 0x474c4453) throw new Error("This is no scene of Place GLD Cameras.")
  const size = view.getUint32(4, true)
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)))
  if (header.version !== VERSION) throw new Error("The scene is of another version of the plugin; reload the page.")
  const start = 8 + size
  return {
    ...header,
    sources: header.sources.map((/** @type {any} */ source) => ({
      ...source,
      image: source.image
        ? new Blob([new Uint8Array(buffer, start + source.image.offset, source.image.size)], { type: "image/jpeg" })
        : null,
      depth: source.depth
        ? { ...source.depth, values: new Uint16Array(buffer, start + source.depth.offset, source.depth.size / 2) }
        : null,
    })),
  }
}

/** Depths (rows x columns) along the camera's axis, 0 where there is none. @param {DepthMap} map */
export function depths({ values, near, far }) {
  const span = Math.log(far / near)
  return Float32Array.from(values, value => (value ? near * Math.exp((span * (value - 1)) / 65534) : 0))
}
