export * from "camera-controls"; export { default } from "camera-controls"
