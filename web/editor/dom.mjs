// Small parts that the editor's panels are made of.

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} name @param {Record<string, any>} [properties] @param {(Node | string | null)[]} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name)
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value)
    else if (key.startsWith("data-") || key.startsWith("aria-") || key === "role") element.setAttribute(key, value)
    else /** @type {any} */ (element)[key] = value
  }
  element.append(...children.filter(child => child !== null))
  return element
}

/** @param {string} path of an icon of 16 x 16 */
export function icon(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg")
  svg.setAttribute("viewBox", "0 0 16 16")
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path")
  line.setAttribute("d", path)
  svg.append(line)
  return svg
}

export const ICONS = {
  add: "M8 3v10M3 8h10",
  motion: "M2 11c3-8 9-8 12 0M11.5 9.5 14 11l1-3",
  undo: "M6 3 3 6l3 3M3 6h6a4 4 0 0 1 0 8H6",
  redo: "m10 3 3 3-3 3M13 6H7a4 4 0 0 0 0 8h3",
  move: "M8 1v14M1 8h14M8 1 6 3m2-2 2 2M8 15l-2-2m2 2 2-2M1 8l2-2M1 8l2 2m12-2-2-2m2 2-2 2",
  turn: "M13 8a5 5 0 1 1-2-4M11 1v3H8",
  pin: "M8 15V9M8 9a4 4 0 1 0 0-8 4 4 0 0 0 0 8",
  views: "M2 3h12v10H2zM8 3v10",
  large: "M9 2h5v5M7 14H2V9M14 2 9.5 6.5M2 14l4.5-4.5",
  small: "M14 7H9V2M2 9h5v5M9 7l5-5M7 9l-5 5",
  help: "M6 6a2 2 0 1 1 3 1.8c-.8.5-1 .9-1 1.7M8 12.5v.3",
  play: "M5 3v10l8-5z",
  pause: "M5 3v10M11 3v10",
  loop: "M3 8a4 4 0 0 1 4-4h5M10 2l2 2-2 2M13 8a4 4 0 0 1-4 4H4M6 14l-2-2 2-2",
  more: "M3 8h.01M8 8h.01M13 8h.01",
  up: "M8 13V3M4 7l4-4 4 4",
  down: "M8 3v10M4 9l4 4 4-4",
  copy: "M5 5h8v8H5zM3 11V3h8",
  remove: "M3 4h10M6 4V2h4v2M5 4l.5 10h5L11 4",
  draft: "M8 1.5 9.5 6 14 7.5 9.5 9 8 13.5 6.5 9 2 7.5 6.5 6z",
  home: "M2 8l6-5 6 5M4 7v6h8V7",
  eye: "M1 8s2.5-4.5 7-4.5S15 8 15 8s-2.5 4.5-7 4.5S1 8 1 8M8 10a2 2 0 1 0 0-4 2 2 0 0 0 0 4",
}

/** @param {keyof typeof ICONS} name @param {string} title @param {() => void} press @param {string} [text] */
export const button = (name, title, press, text) =>
  make("button", { type: "button", title, onclick: press, "aria-label": title, "data-action": name }, icon(ICONS[name]), text ?? null)

/**
 * A number to type, to step with the arrow keys, or to drag sideways on its name. It says what it changes while that
 * goes on, and when it is done.
 * @param {string} name @param {string} title
 * @param {{step: number, digits: number, low?: number, high?: number, edit: (value: number) => void, done: () => void}} how
 */
export function number(name, title, { step, digits, low = -Infinity, high = Infinity, edit, done }) {
  const input = make("input", { type: "text", inputMode: "decimal", autocomplete: "off", spellcheck: false, title, "aria-label": title })
  const label = make("label", { title, className: "gld-number" }, make("span", {}, name), input)
  let shown = 0
  /** @param {number} value */
  const show = value => {
    shown = value
    if (document.activeElement !== input || input.readOnly) input.value = String(Number(value.toFixed(digits)))
  }
  /** @param {number} value */
  const give = value => {
    edit(Math.min(high, Math.max(low, value)))
  }
  input.addEventListener("change", () => {
    const value = Number(input.value.replace(",", "."))
    if (input.value.trim() && Number.isFinite(value)) {
      give(value)
      done()
    }
    input.value = String(Number(shown.toFixed(digits)))
  })
  input.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === "Escape") input.blur()
    if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return
    event.preventDefault()
    give(shown + (event.key === "ArrowUp" ? 1 : -1) * step * (event.shiftKey ? 10 : 1))
    input.value = String(Number(shown.toFixed(digits)))
    done()
  })
  const text = /** @type {HTMLElement} */ (label.firstChild)
  text.addEventListener("pointerdown", event => {
    event.preventDefault()
    text.setPointerCapture(event.pointerId)
    const from = shown
    let moved = 0
    const drag = (/** @type {PointerEvent} */ to) => {
      moved += to.movementX
      give(from + Math.round(moved) * step * (to.shiftKey ? 10 : 1))
    }
    text.addEventListener("pointermove", drag)
    text.addEventListener("lostpointercapture", () => {
      text.removeEventListener("pointermove", drag)
      done()
    }, { once: true })
  })
  return { element: label, show, input }
}

/** @param {string} title @param {[string, string][]} options value and text @param {(value: string) => void} chosen */
export function choice(title, options, chosen) {
  const select = make("select", { title, "aria-label": title }, ...options.map(([value, text]) => make("option", { value }, text)))
  select.addEventListener("change", () => chosen(select.value))
  return select
}
