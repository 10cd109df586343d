import { render } from "preact";
import { App } from "./app";
import { readIndex } from "./data";
import "./page.css";

const root = document.getElementById("app");
if (root) {
  root.textContent = "";
  render(<App index={readIndex()} />, root);
}
