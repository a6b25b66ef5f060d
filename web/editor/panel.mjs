// The numbers: the keys of the path, and all that there is to set of the chosen one. It works without a picture.
import { button, choice, make, number } from "./dom.mjs"
import { DEFAULT_VIEWS, MAX_VIEWS, fovOf, lensOf } from "./path.mjs"

/**
 * @typedef {import("./state.mjs").State} State
 * @typedef {import("./timeline.mjs").Translate} Translate
 * @typedef {import("./curve.mjs").Point} Point
 */

export class Panel {
  /** @param {State} state @param {Translate} t @param {{holdPin: () => void, pin: () => void}} actions */
  constructor(state, t, actions) {
    this.state = state
    this.t = t
    const done = () => state.commit()
    const key = (/** @type {Partial<import("./path.mjs").Key>} */ change) => {
      if (state.chosen >= 0) state.editKey(state.chosen, change)
    }
    this.list = make("ol", { className: "gld-keys-list" })
    this.list.addEventListener("click", event => {
      const row = /** @type {HTMLElement} */ (event.target).closest("li")
      if (row) state.choose(Number(row.dataset.key))
    })
    this.position = ["X", "Y", "Z"].map((name, axis) =>
      number(name, t("positionTip"), {
        step: 0.01, digits: 4, done,
        edit: value => key({ position: /** @type {Point} */ (state.path.keys[state.chosen]?.position.map((old, i) => (i === axis ? value : old))) }),
      })
    )
    this.angles = ["yaw", "pitch", "roll"].map((name, axis) =>
      number(t(name), t("rotationTip"), {
        step: 1, digits: 2, done,
        edit: value => {
          const angles = state.space.angles(state.path.keys[state.chosen].rotation)
          angles[axis] = value
          key({ rotation: state.space.fromAngles(angles) })
        },
      })
    )
    this.fov = number(t("fov"), t("fovTip"), { step: 0.5, digits: 2, low: 1, high: 170, done, edit: fov => key({ fov }) })
    this.lens = button("eye", t("ownLens"), () => {
      key({ fov: null })
      done()
    })
    this.hold = number(t("hold"), t("holdTip"), { step: 1, digits: 0, low: 0, high: MAX_VIEWS, done, edit: value => key({ hold: Math.round(value) }) })
    this.views = number(t("segment"), t("segmentTip"), { step: 1, digits: 0, low: 1, high: MAX_VIEWS, done, edit: value => key({ views: Math.round(value) }) })
    const eases = /** @type {[string, string][]} */ (["none", "in", "out", "in_out"].map(ease => [ease, t(`ease_${ease}`)]))
    this.ease = choice(t("segmentEaseTip"), eases, ease => {
      key({ ease })
      done()
    })
    this.point = ["X", "Y", "Z"].map((name, axis) =>
      number(name, t("lookAtTip"), {
        step: 0.01, digits: 4, done,
        edit: value => state.edit({ look_at: /** @type {Point} */ ((state.path.look_at ?? [0, 0, 0]).map((old, i) => (i === axis ? value : old))) }),
      })
    )
    this.pinned = make("input", { type: "checkbox", title: t("pinTip"), onchange: actions.pin })
    this.pinRow = make("div", { className: "gld-fields" }, ...this.point.map(part => part.element), button("move", t("pinMove"), actions.holdPin))
    this.title = make("h4")
    this.own = make(
      "div",
      { className: "gld-own" },
      make("div", { className: "gld-head" }, this.title,
        button("copy", t("duplicate"), () => state.duplicate()),
        button("up", t("earlier"), () => state.move(state.chosen, state.chosen - 1)),
        button("down", t("later"), () => state.move(state.chosen, state.chosen + 1)),
        button("remove", t("delete"), () => state.remove())),
      make("div", { className: "gld-fields" }, ...this.position.map(part => part.element)),
      make("div", { className: "gld-fields" }, ...this.angles.map(part => part.element)),
      make("div", { className: "gld-fields gld-two" }, this.fov.element, this.lens, this.hold.element),
      make("div", { className: "gld-fields gld-two" }, this.ease, this.views.element)
    )
    this.element = make(
      "div",
      { className: "gld-panel" },
      make("h4", {}, t("keys")), this.list, this.own,
      make("label", { className: "gld-check", title: t("pinTip") }, this.pinned, t("pinned")), this.pinRow
    )
    for (const what of ["path", "scene"]) state.addEventListener(what, () => this.refresh())
    this.refresh()
  }

  refresh() {
    const { state, t } = this
    const { path, chosen } = state
    this.list.replaceChildren(
      ...path.keys.map((key, i) =>
        make("li", { className: i === chosen ? "gld-on" : "", "data-key": String(i) },
          make("b", {}, String(i)),
          make("span", {}, key.position.map(value => value.toFixed(2)).join("  ")),
          make("i", {}, `${fovOf(lensOf(key, state.stage.lens)).toFixed(0)}°`))
      )
    )
    if (!path.keys.length) this.list.replaceChildren(make("li", { className: "gld-none" }, t("noKeys")))
    this.own.hidden = chosen < 0
    this.pinned.checked = Boolean(path.look_at)
    this.pinRow.hidden = !path.look_at
    path.look_at?.forEach((value, i) => this.point[i].show(value))
    if (chosen < 0) return
    const key = path.keys[chosen]
    this.title.textContent = t("keyNumber", { number: chosen })
    key.position.forEach((value, i) => this.position[i].show(value))
    state.space.angles(state.layout.keys[chosen].rotation).forEach((value, i) => this.angles[i].show(value))
    this.fov.show(fovOf(lensOf(key, state.stage.lens)))
    this.lens.disabled = key.fov == null
    this.hold.show(key.hold ?? 0)
    this.views.element.hidden = path.views != null
    this.views.show(key.views ?? DEFAULT_VIEWS)
    this.ease.value = key.ease ?? "none"
    this.list.children[chosen]?.scrollIntoView?.({ block: "nearest" })
  }
}
