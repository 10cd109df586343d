// What the page shows, as the part of the address behind # and back.
import type { Group, Index } from "./data";
import { EMPTY } from "./engine";

/** A run, and the slots of its batches that hold something else: by place (update x batch + slot) the example, or EMPTY. */
export interface Curriculum {
  run: number;
  edits: ReadonlyMap<number, number>;
}

export interface View {
  group: number;
  metric: number;
  /** By number among the metric's tests. */
  test: number;
  a: Curriculum;
  b: Curriculum | null;
  /** Updates made, 0 .. steps. */
  step: number;
  slot: number;
  /** What effects are told of: the value after the last update, or after `step`. */
  until: "end" | "here";
}

/** What a group is shown with at first: its first held-out run, early on. */
export function initialView(group: number, data: Group): View {
  const heldOut = data.runs.findIndex((run) => run.split === "held_out");
  const a = { run: Math.max(heldOut, 0), edits: new Map() };
  return { group, metric: 0, test: 0, a, b: null, step: Math.ceil(data.steps / 3), slot: 0, until: "end" };
}

/** The slots of all batches of a curriculum. */
export function slotsOf(data: Group, { run, edits }: Curriculum): Int32Array {
  const slots = data.runs[run].slots.slice();
  for (const [place, example] of edits) slots[place] = example;
  return slots;
}

/** A curriculum with other examples in some places; what is as in the run is no edit. */
export function edited(data: Group, curriculum: Curriculum, changes: Iterable<[number, number]>): Curriculum {
  const edits = new Map(curriculum.edits);
  const original = data.runs[curriculum.run].slots;
  for (const [place, example] of changes)
    if (original[place] === example) edits.delete(place);
    else edits.set(place, example);
  return { run: curriculum.run, edits };
}

export function toHash(view: View, index: Index, data: Group): string {
  const metric = data.metrics[view.metric];
  const words: Record<string, string> = {
    group: index.groups[view.group].name,
    metric: metric.name,
    test: String(view.test),
    run: data.runs[view.a.run].id,
    step: String(view.step),
    slot: String(view.slot),
  };
  if (view.until === "here") words.until = "here";
  if (view.a.edits.size) words.edits = writeEdits(view.a.edits);
  if (view.b) {
    words.b = data.runs[view.b.run].id;
    if (view.b.edits.size) words.bedits = writeEdits(view.b.edits);
  }
  return new URLSearchParams(words).toString();
}

function writeEdits(edits: ReadonlyMap<number, number>): string {
  return [...edits].sort(([a], [b]) => a - b).map(([place, example]) => `${place}.${example === EMPTY ? "x" : example}`).join("_");
}

/** The number of the group that an address asks for, null if it asks for none; -1: there is no such group. */
export function groupOf(hash: string, index: Index): number | null {
  const name = new URLSearchParams(hash.replace(/^#/, "")).get("group");
  return name === null ? null : index.groups.findIndex((group) => group.name === name);
}

/** What an address shows of its group, and what it asks for in vain. */
export function fromHash(hash: string, group: number, data: Group): { view: View; missing: string[] } {
  const words = new URLSearchParams(hash.replace(/^#/, ""));
  const view = initialView(group, data);
  const missing: string[] = [];
  const take = (name: string, set: (text: string) => boolean): void => {
    const text = words.get(name);
    if (text !== null && !set(text)) missing.push(`${name} ${text.slice(0, 40)}`);
  };
  const whole = (text: string, low: number, high: number): number => {
    const number = /^\d{1,9}$/.test(text) ? Number(text) : -1;
    return number >= low && number <= high ? number : -1;
  };
  const number = (name: "test" | "step" | "slot", high: number): void =>
    take(name, (text) => {
      const found = whole(text, 0, high);
      if (found >= 0) view[name] = found;
      return found >= 0;
    });
  const run = (text: string): number => data.runs.findIndex((one) => one.id === text);
  const edits = (text: string): Map<number, number> | null => {
    const found = new Map<number, number>();
    for (const part of text.split("_")) {
      const [place, example] = part.split(".");
      const at = whole(place, 0, data.steps * data.batch - 1);
      const what = example === "x" ? EMPTY : whole(example ?? "", 0, data.train.length - 1);
      if (at < 0 || (what < 0 && example !== "x")) return null;
      found.set(at, what);
    }
    return found;
  };
  const curriculum = (name: string, of: string, set: (found: Curriculum) => void): void => {
    let found: Curriculum | null = null;
    take(name, (text) => {
      const at = run(text);
      if (at >= 0) found = { run: at, edits: new Map() };
      return at >= 0;
    });
    if (!found) return;
    set(found);
    take(of, (text) => {
      const changed = edits(text);
      if (changed) set(edited(data, found!, changed));
      return changed !== null;
    });
  };
  take("metric", (text) => {
    const found = data.metrics.findIndex((metric) => metric.name === text);
    if (found >= 0) view.metric = found;
    return found >= 0;
  });
  number("test", data.metrics[view.metric].tests.length - 1);
  number("step", data.steps);
  number("slot", data.batch - 1);
  take("until", (text) => {
    if (text === "here" || text === "end") view.until = text;
    return text === view.until;
  });
  curriculum("run", "edits", (found) => (view.a = found));
  curriculum("b", "bedits", (found) => (view.b = found));
  return { view, missing };
}
