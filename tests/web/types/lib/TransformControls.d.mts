export * from "three/addons/controls/TransformControls.js"
