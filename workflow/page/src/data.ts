// Reads what the pipeline put into the page: an index, and for each group a deflated block of named arrays.
import { type Fit, type Kernels, type Shares, Simulator, type Task, meanShares, sharesOf } from "./engine";

export interface Skill {
  task: string;
  setting: string;
  measure: string;
  value: number;
  low: number | null;
  high: number | null;
}

export interface Index {
  scale: string;
  levels: number[];
  groups: { name: string; label: string }[];
  notes: string[];
}

export interface Example {
  label: string;
  prompt: string;
  target: string;
  unseen?: boolean;
}

export interface Run {
  id: string;
  split: string;
  rate: number;
  slots: Int32Array;
  shares: Shares;
}

export interface Metric {
  name: string;
  label: string;
  /** Lower values are better. */
  lower: boolean;
  digits: number;
  fit: Fit;
  /** Shown tests, by number in `Group.tests`. */
  tests: number[];
  /** Of each test its task, by number in `fit.tasks`, and its place there. */
  places: { own: number; place: number }[];
  /** [runs, steps + 1, tests]. */
  measured: Float64Array;
  skills: Skill[];
}

export interface Group {
  name: string;
  train: Example[];
  tests: (Example & { task: string })[];
  runs: Run[];
  metrics: Metric[];
  steps: number;
  batch: number;
  simulator: Simulator;
  notes: string[];
}

type Bytes = Float32Array | Float64Array | Int32Array | Uint16Array;
interface Place {
  type: "f32" | "f64" | "i32" | "u16";
  shape: number[];
  offset: number;
}

/** Read the index. */
export function readIndex(): Index {
  return JSON.parse(element("index").textContent ?? "");
}

/** Read, inflate and set up one group. */
export async function readGroup(number: number): Promise<Group> {
  const text = element(`group-${number}`).textContent ?? "";
  const stream = new Blob([fromText(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return makeGroup(new Uint8Array(await new Response(stream).arrayBuffer()));
}

/** Bytes from text: two characters stand for 13 bits, see gptfluence/page/blocks.py. */
export function fromText(text: string): Uint8Array<ArrayBuffer> {
  const values = new Uint8Array(128);
  for (let code = 33, value = 0; code < 127; code++) if (!"&<>".includes(String.fromCharCode(code))) values[code] = value++;
  const end = text.indexOf(" ");
  const bytes = new Uint8Array(Number(text.slice(0, end)));
  for (let at = end + 1, byte = 0, bits = 0, held = 0; byte < bytes.length; at += 2) {
    held = (held << 13) | (values[text.charCodeAt(at)] * 91 + values[text.charCodeAt(at + 1)]);
    for (bits += 13; bits >= 8 && byte < bytes.length; bits -= 8) bytes[byte++] = held >> (bits - 8);
    held &= (1 << bits) - 1;
  }
  return bytes;
}

function element(id: string): HTMLElement {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page lacks its part '${id}'`);
  return found;
}

/** Set up a group from an inflated block: 4 bytes with the header's length, the header as JSON, arrays. */
export function makeGroup(bytes: Uint8Array): Group {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const body = bytes.subarray(4 + length);
  const arrays = (name: string): Bytes => unpack(body, header.arrays[name]);
  const f64 = (name: string): Float64Array => Float64Array.from(arrays(name));
  const [, steps, batch] = header.arrays.examples.shape;
  const slots = Int32Array.from(arrays("examples"));
  const tokens = f64("tokens");
  const tasks: Task[] = header.tasks;
  const [count, , train, columns] = header.arrays.kernels.shape;
  const kernels: Kernels = {
    values: scaled(arrays("kernels"), f64("kernels.steps"), train, columns, tasks),
    kernels: count,
    checkpoints: Int32Array.from(arrays("checkpoints")),
    train,
    columns,
    tokens,
    momenta: header.momenta,
    decays: header.decays,
    tasks,
  };
  const rates = f64("rates");
  const all: Run[] = header.runs.map((run: { id: string; split: string }, r: number) => {
    const own = slots.slice(r * steps * batch, (r + 1) * steps * batch);
    return { ...run, rate: rates[r], slots: own, shares: sharesOf(own, batch, tokens) };
  });
  const fitting = all.filter((run) => run.split === "fit").map((run) => run.shares);
  const simulator = new Simulator(kernels, steps, meanShares(fitting, steps, train));
  const metrics: Metric[] = header.metrics.map((metric: Metric & { tasks: number[]; unit: number }) => {
    const fit = Object.fromEntries(FITTED.map((name) => [name, f64(`${metric.name}.${name}`)])) as unknown as Fit;
    fit.tasks = metric.tasks;
    fit.ownShare = header.ownShare;
    const tests: number[] = [];
    const places: { own: number; place: number }[] = [];
    metric.tasks.forEach((number, own) => {
      const first = tasks.slice(0, number).reduce((sum, task) => sum + task.shown, 0);
      for (let place = 0; place < tasks[number].shown; place++) {
        tests.push(first + place);
        places.push({ own, place });
      }
    });
    const measured = f64(`${metric.name}.measured`).map((value) => value * metric.unit);
    return { ...metric, fit, tests, places, measured };
  });
  return { ...header, steps, batch, runs: all, metrics, simulator };
}

const FITTED = ["curve", "weights", "replicas", "metrics", "reach", "quantiles", "spread", "apart", "extent"];

/** Numbers of an array whose bytes stand plane by plane: all first ones, all second ones, ... */
function unpack(body: Uint8Array, { type, shape, offset }: Place): Bytes {
  const size = shape.reduce((product, length) => product * length, 1);
  const width = { f32: 4, f64: 8, i32: 4, u16: 2 }[type];
  const bytes = new Uint8Array(size * width);
  for (let b = 0; b < width; b++)
    for (let x = 0, from = offset + b * size; x < size; x++) bytes[x * width + b] = body[from + x];
  const { buffer } = bytes;
  if (type === "f32") return new Float32Array(buffer);
  if (type === "f64") return new Float64Array(buffer);
  return type === "i32" ? new Int32Array(buffer) : new Uint16Array(buffer);
}

/** Kernels from whole numbers of steps; steps: [kernels, checkpoints, tasks]. */
function scaled(whole: Bytes, steps: Float64Array, train: number, columns: number, tasks: Task[]): Float32Array {
  const found = new Float32Array(whole.length);
  for (let row = 0; row * columns < whole.length; row++)
    tasks.forEach(({ from, to }, task) => {
      const step = steps[Math.floor(row / train) * tasks.length + task];
      for (let x = row * columns + from; x < row * columns + to; x++) found[x] = whole[x] * step;
    });
  return found;
}
