// The editor's words in English; the page's language comes from locales/<language>/main.json by way of the server.

/** @type {Record<string, string>} */
const ENGLISH = {
  add: "Key", addTip: "Add a keyframe (K)", addHere: "Here, through the camera", addOutside: "Where the outside view stands",
  atSource: "At source {number}", motion: "Motion", motionTip: "Start from a motion, then edit its keyframes",
  alongSources: "along the sources", apply: "Apply", source: "source", motionSourceTip: "The source that the motion starts from.",
  motionKeysTip: "Keyframes that the motion becomes.", file: "File", fileTip: "Import, export, clear",
  import: "Import a path …", export: "Export the path", exportNerfstudio: "Export for nerfstudio", clear: "Clear the path",
  takeIncoming: "Take the {number} incoming cameras as keyframes",
  undo: "Undo (Ctrl+Z)", redo: "Redo (Ctrl+Shift+Z)", move: "Move the keyframe (G)", turn: "Turn the keyframe (R)",
  pin: "Keep facing a point (L)", viewsButton: "Both views, outside, or through the camera (V)",
  large: "Fill the window (F)", help: "Keys (?)", home: "Show all (H)", draft: "Draft", draftTip: "Make only the view under the playhead: level 1, few steps (T)",
  outside: "outside", through: "through the camera", flying: "in flight – press K to keep a keyframe", editing: "keyframe {number}",
  atView: "target {number}", unseen: "{percent} % unseen", keys: "keyframes", keyNumber: "keyframe {number}",
  noKeys: "None yet: fly in the right view, then press K.", positionTip: "Position in the cameras' world. Drag the name, or type.",
  rotationTip: "Degrees: to the right of the first source, upwards, clockwise.", yaw: "yaw", pitch: "pitch", roll: "roll",
  fov: "lens°", fovTip: "Field of view across, in degrees.", ownLens: "The first source's lens",
  hold: "hold", holdTip: "How many views longer the camera stays here.", segment: "views", segmentTip: "Views from here to the next keyframe.",
  segmentEaseTip: "How the camera goes to the next keyframe.", pinned: "keep facing a point", pinTip: "The camera keeps facing this point, upright.",
  pinMove: "Drag the point", lookAtTip: "The point, in the cameras' world.", duplicate: "Duplicate (Ctrl+D)", earlier: "Earlier (Alt+Left)",
  later: "Later (Alt+Right)", delete: "Delete", timeline: "Timeline", play: "Play (Space)", loop: "Return smoothly to the first keyframe (O)",
  views: "views", viewsTip: "How many views.", spreadTip: "Even speed over all views, or so many views a segment", inAll: "in all",
  perSegment: "a segment", easeTip: "Ease of the whole path", ease_none: "even", ease_in: "slow start", ease_out: "slow end",
  ease_in_out: "slow start and end", fps: "fps", fpsTip: "Views a second that Play shows.",
  showScene: "Show the scene", empty: "Run this node once to see the scene.", running: "Working …", runFirst: "Run this node once first.",
  noWebGL: "This page has no WebGL, so there is no picture; the numbers work.", lostWebGL: "The picture was lost (the graphics driver was reset); the numbers work. Reload the page to see it again.",
  elsewhere: "This path was placed over other sources.", keepHere: "Keep the path here", noPath: "This file is no camera path: give one of this editor or nerfstudio's camera_path.json.",
  noDepth: "Wire 'geometry' to see surfaces.", keyboard: "Keys", mouse: "mouse", flyKeys: "W A S D  Q E",
  do_fly: "fly: forward, left, back, right, down, up", do_fast: "while flying: fast, slow", do_mouse: "right view: turn, wheel forward, Shift aside; left view: orbit, pan, zoom, double click to orbit about a point",
  do_add: "keyframe here", do_addOutside: "keyframe where the outside view stands", do_duplicate: "duplicate the keyframe", do_remove: "delete the keyframe",
  do_previousKey: "previous keyframe", do_nextKey: "next keyframe", do_earlier: "move the keyframe earlier", do_later: "move the keyframe later",
  do_move: "gizmo: move", do_turn: "gizmo: turn", do_pin: "pin what is in the middle of the view, or unpin", do_play: "play, pause",
  do_stepBack: "one view back", do_stepOn: "one view on", do_first: "first view", do_last: "last view", do_loop: "loop",
  do_undo: "undo", do_redo: "redo", do_views: "both views, outside, through", do_large: "fill the window, and back",
  do_home: "outside: show all", do_stand: "outside: stand at the camera", do_numbers: "go to the numbers", do_draft: "draft of the view under the playhead",
  do_leave: "let go, close", do_help: "this page", draftNone: "There is nothing to draft with: wire 'cameras' on to Encode GLD Views and Sample GLD.",
  draftDone: "draft: {name}", drafting: "Drafting {name} …",
}

/**
 * A function from key to text in a language.
 * @param {Record<string, any>} offered what the server has, by language @param {string} language
 * @returns {import("./timeline.mjs").Translate}
 */
export function translator(offered, language) {
  const own = offered[language]?.gldEditor ?? {}
  return (key, values = {}) =>
    (own[key] ?? ENGLISH[key] ?? key).replace(/\{(\w+)\}/g, (/** @type {string} */ _, /** @type {string} */ name) => String(values[name]))
}
