// Keys of the editor. They are heard by a text field out of sight: the page leaves those to whom types, and undoes
// nothing of its own meanwhile.
import { make } from "./dom.mjs"

/**
 * @typedef {import("./timeline.mjs").Translate} Translate
 * @typedef {{keys: string, text: string, match: (event: KeyboardEvent) => boolean, act: (event: KeyboardEvent) => void}} Binding
 */

/** @param {KeyboardEvent} event */
const held = event => `${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${event.altKey ? "Alt+" : ""}${event.shiftKey ? "Shift+" : ""}`

/** @param {string} combination such as Ctrl+Shift+Z @returns {(event: KeyboardEvent) => boolean} */
const is = combination => event => {
  if (combination === "?") return event.key === "?"
  const key = event.key === " " ? "Space" : event.key.length === 1 ? event.key.toUpperCase() : event.key
  return held(event) + key === combination
}

/**
 * @param {Translate} t @param {Record<string, (event: KeyboardEvent) => void>} actions by name
 * @returns {Binding[]}
 */
export function bindings(t, actions) {
  /** @type {[string, string[]][]} */
  const table = [
    ["add", ["K", "Enter"]], ["addOutside", ["Shift+K"]], ["duplicate", ["Ctrl+D"]], ["remove", ["Delete", "Backspace"]],
    ["previousKey", ["["]], ["nextKey", ["]"]], ["earlier", ["Alt+ArrowLeft"]], ["later", ["Alt+ArrowRight"]],
    ["move", ["G"]], ["turn", ["R"]], ["pin", ["L"]],
    ["play", ["Space"]], ["stepBack", ["ArrowLeft"]], ["stepOn", ["ArrowRight"]], ["first", ["Home"]], ["last", ["End"]],
    ["loop", ["O"]], ["undo", ["Ctrl+Z"]], ["redo", ["Ctrl+Shift+Z", "Ctrl+Y"]],
    ["views", ["V"]], ["large", ["F"]], ["home", ["H"]], ["stand", ["C"]], ["numbers", ["N"]], ["draft", ["T"]],
    ["leave", ["Escape"]], ["help", ["?"]],
  ]
  return table.map(([name, keys]) => ({
    keys: keys.join(" / ").replace("ArrowLeft", "←").replace("ArrowRight", "→"),
    text: t(`do_${name}`),
    match: event => keys.some(key => is(key)(event)),
    act: actions[name],
  }))
}

/** @param {Binding[]} list @param {Translate} t @param {() => void} close */
export function helpPage(list, t, close) {
  const rows = [[t("flyKeys"), t("do_fly")], ["Shift / Alt", t("do_fast")], [t("mouse"), t("do_mouse")], ...list.map(({ keys, text }) => [keys, text])]
  return make(
    "div",
    { className: "gld-help", onclick: close },
    make("div", {}, make("h3", {}, t("keyboard")),
      make("dl", {}, ...rows.flatMap(([keys, text]) => [make("dt", {}, make("kbd", {}, keys)), make("dd", {}, text)])))
  )
}
