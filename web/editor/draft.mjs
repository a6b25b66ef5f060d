// A draft of one target: the workflow's own networks behind the node, level 1 alone, in few steps, as a run of its own.

/**
 * @typedef {Record<string, {class_type: string, inputs: Record<string, any>}>} Prompt
 * @typedef {{app: any, api: any, node: {id: any}, path: import("./path.mjs").Path, view: import("./path.mjs").View}} Wish
 */

const STEPS = 4
const SHOWN = "gld_draft"

/** @param {unknown} value @returns {value is [string, number]} */
const isLink = value => Array.isArray(value) && value.length === 2 && typeof value[0] === "string"

/** Nodes of a class that come after a node. @param {Prompt} prompt @param {string} from @param {string} kind */
function behind(prompt, from, kind) {
  const reached = new Set([from])
  for (let size = 0; size !== reached.size; ) {
    size = reached.size
    for (const [id, { inputs }] of Object.entries(prompt))
      if (Object.values(inputs).some(value => isLink(value) && reached.has(value[0]))) reached.add(id)
  }
  return [...reached].find(id => prompt[id].class_type === kind)
}

/** Only what a node needs. @param {Prompt} prompt @param {string} last @returns {Prompt} */
function needed(prompt, last) {
  /** @type {Prompt} */
  const part = {}
  const open = [last]
  while (open.length) {
    const id = /** @type {string} */ (open.pop())
    if (part[id]) continue
    part[id] = prompt[id]
    for (const value of Object.values(prompt[id].inputs)) if (isLink(value)) open.push(value[0])
  }
  return part
}

/** @param {Prompt} prompt of the workflow @param {string} place the node @param {object} path of one view @returns {Prompt | null} */
export function draftPrompt(prompt, place, path) {
  const encode = behind(prompt, place, "GLDEncodeViews")
  const sampler = encode && (behind(prompt, encode, "GLDSampleLevel1") ?? behind(prompt, encode, "GLDSample"))
  if (!encode || !sampler) return null
  // Sample GLD leaves level 0 out where it has no model for it.
  const { level0_model, ...settings } = prompt[sampler].inputs
  const own = { ...prompt[place].inputs, path }
  const changed = {
    ...prompt,
    [`${SHOWN}_place`]: { class_type: "GLDPlaceCameras", inputs: own },
    [`${SHOWN}_encode`]: { class_type: "GLDEncodeViews", inputs: { ...prompt[encode].inputs, cameras: [`${SHOWN}_place`, 0] } },
    [`${SHOWN}_level1`]: {
      class_type: prompt[sampler].class_type,
      inputs: { ...settings, views: [`${SHOWN}_encode`, 0], steps: Math.min(STEPS, Number(settings.steps) || STEPS) },
    },
    [`${SHOWN}_rgb`]: {
      class_type: "GLDDecodeRGB",
      inputs: { backbone: prompt[encode].inputs.backbone, views: [`${SHOWN}_encode`, 0], level1: [`${SHOWN}_level1`, 0] },
    },
    [SHOWN]: { class_type: "PreviewImage", inputs: { images: [`${SHOWN}_rgb`, 0] } },
  }
  return needed(changed, SHOWN)
}

/**
 * The address of the picture, or null where the workflow has nothing to make it with.
 * @param {Wish} wish @returns {Promise<string | null>} Throws what the server says.
 */
export async function draft({ app, api, node, path, view }) {
  const { output, workflow } = await app.graphToPrompt()
  const place = Object.keys(output).find(id => id.split(":").pop() === String(node.id))
  const fov = (Math.atan(view.lens.width / 2 / view.lens.fx) * 360) / Math.PI
  const key = { position: view.position, rotation: view.rotation, fov }
  const prompt = place && draftPrompt(output, place, { version: 1, keys: [key], views: 1, sources: path.sources ?? null })
  if (!prompt) return null
  const sent = await api.queuePrompt(0, { output: prompt, workflow })
  return new Promise((resolve, reject) => {
    /** @param {{detail: any}} event */
    const done = ({ detail }) => {
      if (detail.prompt_id !== sent.prompt_id || (detail.node !== SHOWN && detail.display_node !== SHOWN)) return
      end()
      const file = detail.output.images.at(-1)
      resolve(api.apiURL(`/view?${new URLSearchParams(file)}`))
    }
    /** @param {{detail: any}} event */
    const failed = ({ detail }) => {
      if (detail.prompt_id !== sent.prompt_id) return
      end()
      reject(new Error(detail.exception_message ?? ""))
    }
    const end = () => {
      api.removeEventListener("executed", done)
      for (const kind of ["execution_error", "execution_interrupted"]) api.removeEventListener(kind, failed)
    }
    api.addEventListener("executed", done)
    for (const kind of ["execution_error", "execution_interrupted"]) api.addEventListener(kind, failed)
  })
}
