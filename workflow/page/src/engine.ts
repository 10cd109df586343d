// The simulator "gradient response" (see gptfluence/simulators/gradient_response.py and responses.py) on the kernels of
// the page. What is the mean of the fitting runs is taken away after the responses, which are linear in shares, so that
// a curriculum costs what its batches cost.

/** Shares of examples in batches, update by update: update t has entries start[t] up to start[t + 1]. */
export interface Shares {
  start: Int32Array;
  example: Int32Array;
  share: Float64Array;
}

/** Columns of the kernels that are of one task: tests that are shown, then what stands for the others together. */
export interface Task {
  name: string;
  from: number;
  shown: number;
  to: number;
  /** How many tests the task has, shown or not. */
  tests: number;
}

/** Gradient kernels of a group, and the responses that are made of them. */
export interface Kernels {
  /** [kernels, checkpoints, train, columns]. */
  values: Float32Array;
  /** How many: one or two. */
  kernels: number;
  checkpoints: Int32Array;
  train: number;
  columns: number;
  tokens: Float64Array;
  momenta: number[];
  decays: number[];
  tasks: Task[];
}

/** What is fitted of one metric; tasks are those of `Kernels` that `tasks` names by number. */
export interface Fit {
  tasks: number[];
  /** [steps + 1, shown tests of these tasks]. */
  curve: Float64Array;
  /** [tasks, responses]. */
  weights: Float64Array;
  /** [tasks, replicas, responses]. */
  replicas: Float64Array;
  /** [tasks, responses, responses]. */
  metrics: Float64Array;
  reach: Float64Array;
  /** [tasks, levels]. */
  quantiles: Float64Array;
  /** [steps, shown tests]. */
  spread: Float64Array;
  /** [steps]. */
  apart: Float64Array;
  /** Share of the variance of errors that is examples' own: it grows with what is trained on; the rest does not. */
  ownShare: number;
  extent: Float64Array;
}

/** Empty slot of a batch. */
export const EMPTY = -1;

/** Shares of the slots of each batch, by their target tokens; `slots`: [steps x batch], examples or EMPTY. */
export function sharesOf(slots: Int32Array, batch: number, tokens: Float64Array): Shares {
  const steps = slots.length / batch;
  const start = new Int32Array(steps + 1);
  const example: number[] = [];
  const share: number[] = [];
  for (let t = 0; t < steps; t++) {
    let sum = 0;
    for (let j = 0; j < batch; j++) {
      const i = slots[t * batch + j];
      if (i !== EMPTY) sum += tokens[i];
    }
    for (let j = 0; j < batch; j++) {
      const i = slots[t * batch + j];
      if (i !== EMPTY) {
        example.push(i);
        share.push(tokens[i] / sum);
      }
    }
    start[t + 1] = example.length;
  }
  return { start, example: Int32Array.from(example), share: Float64Array.from(share) };
}

/** Mean of the shares of several runs, [steps, train]. */
export function meanShares(runs: Shares[], steps: number, train: number): Float64Array {
  const mean = new Float64Array(steps * train);
  for (const { start, example, share } of runs)
    for (let t = 0; t < steps; t++)
      for (let e = start[t]; e < start[t + 1]; e++) mean[t * train + example[e]] += share[e] / runs.length;
  return mean;
}

/** The other form of dense shares, [steps, train]. */
export function sparse(dense: Float64Array, steps: number, train: number): Shares {
  const start = new Int32Array(steps + 1);
  const example: number[] = [];
  const share: number[] = [];
  for (let t = 0; t < steps; t++) {
    for (let i = 0; i < train; i++)
      if (dense[t * train + i] !== 0) {
        example.push(i);
        share.push(dense[t * train + i]);
      }
    start[t + 1] = example.length;
  }
  return { start, example: Int32Array.from(example), share: Float64Array.from(share) };
}

/** Number of responses of a test. */
export function countResponses(of: Kernels): number {
  return of.kernels * of.momenta.length * of.decays.length;
}

/** Which checkpoint is in force before each update, [steps]. */
function checkpointsInForce(checkpoints: Int32Array, steps: number): Int32Array {
  const found = new Int32Array(steps);
  for (let t = 0, c = 0; t < steps; t++) {
    while (c + 1 < checkpoints.length && checkpoints[c + 1] <= t) c++;
    found[t] = c;
  }
  return found;
}

/** What one update's batch, and the batches before it, give a task's columns. */
interface Products {
  /** Of this batch, [kernels, columns]. */
  now: Float64Array;
  /** Averages of the batches before it, where its checkpoint is a new one, whose kernels they meet: [momenta, kernels, columns]. */
  past: Float64Array | null;
}

/** Add to a row the rows of a table that `which` names, weighed, four by four: what costs is reading and writing. */
function addRows(row: Float64Array, table: Float32Array, stride: number, which: Int32Array, weights: Float64Array): void {
  for (let e = 0; e < which.length; e += 4) {
    const [a, b, c, d] = [0, 1, 2, 3].map((i) => which[Math.min(e + i, which.length - 1)] * stride);
    const [s, t, u, v] = [0, 1, 2, 3].map((i) => (e + i < which.length ? weights[e + i] : 0));
    for (let z = 0; z < row.length; z++) row[z] += s * table[a + z] + t * table[b + z] + u * table[c + z] + v * table[d + z];
  }
}

/** A curriculum and its products, update by update. */
interface Course {
  shares: Shares;
  products: Products[];
}

function isSameBatch(a: Shares, b: Shares, t: number): boolean {
  const [from, other, count] = [a.start[t], b.start[t], a.start[t + 1] - a.start[t]];
  if (b.start[t + 1] - other !== count) return false;
  for (let e = 0; e < count; e++)
    if (a.example[from + e] !== b.example[other + e] || a.share[from + e] !== b.share[other + e]) return false;
  return true;
}

function subtract(from: Float64Array, what: Float64Array): void {
  for (let x = 0; x < from.length; x++) from[x] -= what[x];
}

/**
 * Products of shares and kernels, less others; `before` is a curriculum that was met before, less the same: what its
 * batches gave is not made again for batches that are the same.
 */
function courseOf(of: Kernels, task: Task, shares: Shares, less: Course | null, before: Course | null): Course {
  const { momenta, train, columns, values } = of;
  const width = task.to - task.from;
  const steps = shares.start.length - 1;
  const inForce = checkpointsInForce(of.checkpoints, steps);
  const recent = momenta.map(() => new Float64Array(train));
  const table = (kernel: number, t: number) => values.subarray((kernel * of.checkpoints.length + inForce[t]) * train * columns + task.from);
  const products: Products[] = [];
  for (let t = 0; t < steps; t++) {
    const batch = shares.example.subarray(shares.start[t], shares.start[t + 1]);
    const parts = shares.share.subarray(shares.start[t], shares.start[t + 1]);
    let now = before && isSameBatch(shares, before.shares, t) ? before.products[t].now : null;
    if (!now) {
      now = new Float64Array(of.kernels * width);
      for (let k = 0; k < of.kernels; k++) addRows(now.subarray(k * width, (k + 1) * width), table(k, t), columns, batch, parts);
      if (less) subtract(now, less.products[t].now);
    }
    let past: Float64Array | null = null;
    if (t > 0 && inForce[t] !== inForce[t - 1]) {
      past = new Float64Array(momenta.length * of.kernels * width);
      for (let m = 0, at = 0; m < momenta.length; m++) {
        const seen = Int32Array.from(recent[m].keys()).filter((i) => recent[m][i] !== 0);
        const left = Float64Array.from(seen, (i) => recent[m][i]);
        for (let k = 0; k < of.kernels; k++) addRows(past.subarray(at, (at += width)), table(k, t), columns, seen, left);
      }
      if (less) subtract(past, less.products[t].past!);
    }
    recent.forEach((average, m) => {
      if (momenta[m] === 0) return;
      for (let i = 0; i < train; i++) average[i] *= momenta[m];
      for (let e = 0; e < batch.length; e++) average[batch[e]] += (1 - momenta[m]) * parts[e];
    });
    products.push({ now, past });
  }
  return { shares, products };
}

/** Products of the rows of two arrays, [rows of a, rows of b], two by two: what costs is reading. They are put into `found`. */
function multiplyRows(a: Float64Array, b: Float64Array, width: number, found: Float64Array): void {
  const [rows, others] = [a.length / width, b.length / width];
  for (let i = 0; i < rows; i += 2) {
    const j = Math.min(i + 1, rows - 1);
    const [u, v] = [i * width, j * width];
    for (let k = 0; k < others; k += 2) {
      const l = Math.min(k + 1, others - 1);
      const [x, y] = [k * width, l * width];
      let ik = 0;
      let il = 0;
      let jk = 0;
      let jl = 0;
      for (let z = 0; z < width; z++) {
        const one = a[u + z];
        const two = a[v + z];
        const first = b[x + z];
        const second = b[y + z];
        ik += one * first;
        il += one * second;
        jk += two * first;
        jl += two * second;
      }
      found[i * others + k] = ik;
      found[i * others + l] = il;
      found[j * others + k] = jk;
      found[j * others + l] = jl;
    }
  }
}

/** A row of the state of `Responses`: an update makes it decay x itself + turn x its average + part x its kernel's new row. */
interface Row {
  momentum: number;
  kernel: number;
  /** Where its average is in the state. */
  average: number;
  decay: number;
  turn: number;
  part: number;
}

/**
 * Averages of what updates bring, [momenta, kernels], and sums of them that decay, the responses, [averages, decays];
 * with the responses' products, summed over updates and columns.
 *
 * Products of the state follow from those before, as its rows do: only products with new rows are sums over columns.
 */
export class Responses {
  /** [responses, columns], after the last update. */
  readonly rows: Float64Array;
  /** [responses, responses]. */
  readonly gram: Float64Array;
  private readonly n: number;
  private readonly of: Row[]; // responses, then averages
  private readonly state: Float64Array; // [rows + 1, columns]; the last one is for a response that has no neighbour
  private readonly averages: Float64Array; // [averages, columns], of the state
  private readonly move: Float64Array; // [columns]
  private readonly products: Float64Array; // of the state, [rows, rows]
  private readonly crossed: Float64Array; // of the state and the one before, [rows, rows]
  private readonly met: Float64Array; // of the state and new rows, [rows + 1, kernels]
  private readonly brought: Float64Array; // of new rows, [kernels, kernels]
  private updates = 0;

  /** kernels: how many, one or two; weights: of the responses, for `add`. */
  constructor(
    momenta: number[],
    private readonly decays: number[],
    private readonly kernels: number,
    private readonly width: number,
    private readonly weights: Float64Array,
  ) {
    const n = (this.n = momenta.length * kernels * decays.length);
    const averages = momenta.flatMap((momentum, m) =>
      Array.from({ length: kernels }, (_, kernel) => {
        const average = n + m * kernels + kernel;
        return { momentum, kernel, average, decay: momentum, turn: 0, part: 1 - momentum };
      }),
    );
    this.of = [...averages.flatMap((average) => decays.map((decay) => ({ ...average, decay }))), ...averages];
    const rows = this.of.length;
    this.state = new Float64Array((rows + 1) * width);
    this.rows = this.state.subarray(0, n * width);
    this.averages = this.state.subarray(n * width, rows * width);
    this.move = new Float64Array(width);
    this.gram = new Float64Array(n * n);
    this.products = new Float64Array(rows * rows);
    this.crossed = new Float64Array(rows * rows);
    this.met = new Float64Array((rows + 1) * kernels);
    this.brought = new Float64Array(kernels * kernels);
  }

  /**
   * Make an update that brings `now`, [kernels, columns], to the averages, or to `past` in their place, [momenta,
   * kernels, columns]. Add the weighed responses of the first columns to `into`.
   */
  add(now: Float64Array, past: Float64Array | null, rate: number, into: Float64Array): void {
    if (past) this.replaceAverages(past);
    this.updates++;
    for (let a = 0; a < this.n; a++) {
      const row = this.of[a];
      const scale = -rate / (1 - row.momentum ** this.updates);
      row.turn = scale * row.momentum;
      row.part = scale * (1 - row.momentum);
    }
    this.advanceResponses(now, into);
    this.advanceAverages(now);
    this.advanceProducts(now);
  }

  private replaceAverages(past: Float64Array): void {
    const { of, n, state, averages, products, width } = this;
    const rows = of.length;
    averages.set(past);
    const found = new Float64Array(rows * (rows - n));
    multiplyRows(state.subarray(0, rows * width), averages, width, found);
    for (let a = 0, at = 0; a < rows; a++) for (let b = n; b < rows; b++) products[a * rows + b] = products[b * rows + a] = found[at++];
  }

  /** All that is done with a response is done in one pass, two by two: what costs is reading and writing. */
  private advanceResponses(now: Float64Array, into: Float64Array): void {
    const { of, n, state, averages, move, met, weights, kernels, width } = this;
    const each = this.decays.length;
    const last = (kernels - 1) * width;
    const shown = into.length;
    for (let from = 0; from < n; from += each) {
      const { turn, part, kernel, average } = of[from];
      for (let z = 0; z < width; z++) move[z] = turn * averages[(average - n) * width + z] + part * now[kernel * width + z];
      for (let a = from; a < from + each; a += 2) {
        const alone = a + 1 === from + each;
        const b = alone ? of.length : a + 1;
        const [decay, other] = [of[a].decay, alone ? 0 : of[b].decay];
        const [weight, otherWeight] = [weights[a], alone ? 0 : weights[b]];
        const [x, y] = [a * width, b * width];
        let aFirst = 0;
        let aLast = 0;
        let bFirst = 0;
        let bLast = 0;
        for (let z = 0; z < width; z++) {
          const one = state[x + z];
          const two = state[y + z];
          const newFirst = now[z];
          const newLast = now[last + z];
          aFirst += one * newFirst;
          aLast += one * newLast;
          bFirst += two * newFirst;
          bLast += two * newLast;
          const moved = (state[x + z] = decay * one + move[z]);
          const otherMoved = (state[y + z] = other * two + move[z]);
          if (z < shown) into[z] += weight * moved + otherWeight * otherMoved;
        }
        met[a * kernels] = aFirst;
        met[a * kernels + kernels - 1] = aLast;
        met[b * kernels] = bFirst;
        met[b * kernels + kernels - 1] = bLast;
      }
    }
  }

  private advanceAverages(now: Float64Array): void {
    const { of, n, averages, met, kernels, width } = this;
    multiplyRows(averages, now, width, met.subarray(n * kernels, of.length * kernels));
    for (let a = n, at = 0; a < of.length; a++) {
      const { decay, part, kernel } = of[a];
      for (let z = kernel * width; z < (kernel + 1) * width; z++, at++) averages[at] = decay * averages[at] + part * now[z];
    }
  }

  /** From the products of the old state, and its products with new rows, to those of the new state. */
  private advanceProducts(now: Float64Array): void {
    const { of, n, kernels, gram, products, crossed, met, brought } = this;
    const rows = of.length;
    multiplyRows(now, now, this.width, brought);
    for (let a = 0, at = 0; a < rows; a++) {
      const { decay, turn, part, average, kernel } = of[a];
      for (let b = 0; b < rows; b++, at++)
        crossed[at] = decay * products[at] + turn * products[average * rows + b] + part * met[b * kernels + kernel];
    }
    for (let a = 0, at = 0; a < rows; a++) {
      const { decay, turn, part, average, kernel } = of[a];
      for (let k = 0; k < kernels; k++, at++)
        met[at] = decay * met[at] + turn * met[average * kernels + k] + part * brought[kernel * kernels + k];
    }
    for (let b = 0; b < rows; b++) {
      const { decay, turn, part, average, kernel } = of[b];
      for (let a = 0; a <= b; a++) {
        const product = decay * crossed[a * rows + b] + turn * crossed[a * rows + average] + part * met[a * kernels + kernel];
        products[a * rows + b] = products[b * rows + a] = product;
      }
    }
    for (let a = 0, at = 0; a < n; a++) for (let b = 0; b < n; b++) gram[at++] += products[a * rows + b];
  }
}

function quadratic(gram: Float64Array, x: Float64Array, n: number): number {
  let sum = 0;
  for (let a = 0; a < n; a++) {
    let part = 0;
    for (let b = 0; b < n; b++) part += gram[a * n + b] * x[b];
    sum += x[a] * part;
  }
  return sum;
}

/** Share of a prediction that is believed, in [0, 1]. */
function beliefIn(gram: Float64Array, weights: Float64Array, replicas: Float64Array, n: number): number {
  const count = replicas.length / n;
  if (count === 0) return 1;
  const mean = new Float64Array(n);
  for (let r = 0; r < count; r++) for (let a = 0; a < n; a++) mean[a] += replicas[r * n + a] / count;
  const apart = new Float64Array(n);
  let variance = 0;
  for (let r = 0; r < count; r++) {
    for (let a = 0; a < n; a++) apart[a] = replicas[r * n + a] - mean[a];
    variance += quadratic(gram, apart, n);
  }
  variance *= (count - 1) / count;
  const square = quadratic(gram, weights, n);
  return square > 0 ? square / (square + variance) : 0;
}

/** A simulated curriculum: arrays are [steps + 1, shown tests of the metric's tasks]. */
export interface Prediction {
  values: Float64Array;
  tests: number;
  /** [steps], how much wider intervals are than at the fitting runs' distance; null: there are none. */
  wider: Float64Array | null;
  /** By task of the metric. */
  belief: Float64Array;
  /** In units of the farthest fitting run; null: not known. */
  distance: number | null;
}

/** Simulates curricula of one group. */
export class Simulator {
  private means = new Map<number, Course>(); // by task: of the mean shares
  private last = new Map<number, Course>(); // by task: of the last curriculum, less the mean
  private cumulated: Float64Array; // [steps, train], of mean shares times rates that begin with 1
  private known: Shares;

  /** mean: shares of the fitting runs, [steps, train]. */
  constructor(
    readonly kernels: Kernels,
    readonly steps: number,
    mean: Float64Array,
  ) {
    this.known = sparse(mean, steps, kernels.train);
    this.cumulated = new Float64Array(steps * kernels.train);
    const unit = this.rates(1);
    for (let t = 0; t < steps; t++)
      for (let i = 0; i < kernels.train; i++) {
        const at = t * kernels.train + i;
        this.cumulated[at] = (t ? this.cumulated[at - kernels.train] : 0) + unit[t] * mean[at];
      }
  }

  /** Learning rates fall linearly, to 0 after the last update. */
  rates(first: number): Float64Array {
    return Float64Array.from({ length: this.steps }, (_, t) => first * (1 - t / this.steps));
  }

  private courseOf(task: number, shares: Shares): Course {
    const { kernels, means, last } = this;
    if (!means.has(task)) means.set(task, courseOf(kernels, kernels.tasks[task], this.known, null, null));
    const found = courseOf(kernels, kernels.tasks[task], shares, means.get(task)!, last.get(task) ?? null);
    last.set(task, found);
    return found;
  }

  /**
   * Responses less their mean over the fitting runs, after the last update; those after every update are added, weighed,
   * to what `into` gives for it, [shown tests].
   */
  departures(task: number, shares: Shares, rate: number, weights: Float64Array, into: (update: number) => Float64Array): Responses {
    const { momenta, decays, kernels, tasks } = this.kernels;
    const { from, to } = tasks[task];
    const found = new Responses(momenta, decays, kernels, to - from, weights);
    const rates = this.rates(rate);
    this.courseOf(task, shares).products.forEach(({ now, past }, t) => found.add(now, past, rates[t], into(t)));
    return found;
  }

  /** first: measured values before the first update, [shown tests of the metric's tasks]. */
  predict(fit: Fit, shares: Shares, rate: number, first: Float64Array): Prediction {
    const { steps, kernels } = this;
    const n = countResponses(kernels);
    const tests = first.length;
    const values = new Float64Array(fit.curve.length);
    const belief = new Float64Array(fit.tasks.length);
    const known = !fit.spread.some(Number.isNaN);
    let distance = 0;
    let offset = 0;
    fit.tasks.forEach((number, own) => {
      const task = kernels.tasks[number];
      const weights = fit.weights.subarray(own * n, (own + 1) * n);
      const moved = (update: number): Float64Array => {
        const at = (update + 1) * tests + offset;
        return values.subarray(at, at + task.shown);
      };
      const { gram } = this.departures(number, shares, rate, weights, moved);
      const size = fit.replicas.length / fit.tasks.length;
      belief[own] = beliefIn(gram, weights, fit.replicas.subarray(own * size, (own + 1) * size), n);
      for (let t = 0; t < steps; t++) {
        const from = (t + 1) * tests + offset;
        for (let at = from; at < from + task.shown; at++) values[at] = fit.curve[at] + belief[own] * values[at];
      }
      if (known) {
        let trace = 0;
        for (let a = 0; a < n * n; a++) trace += gram[a] * fit.metrics[own * n * n + a];
        const far = Math.sqrt(Math.max(trace / (steps * task.tests), 0));
        distance = Math.max(distance, fit.reach[own] ? far / fit.reach[own] : Number(far > 0));
      }
      offset += task.shown;
    });
    values.set(first);
    this.confine(values, fit.extent, first);
    return { values, tests, wider: known ? this.wider(fit, shares, rate) : null, belief, distance: known ? distance : null };
  }

  private confine(values: Float64Array, extent: Float64Array, first: Float64Array): void {
    const [low, high] = extent;
    const reach = high - low || 1;
    const top = first.map((given) => Math.max(given, high) + reach);
    const floor = first.map((given) => {
      const least = Math.min(given, low);
      return least < 0 ? least - reach : Math.max(least - reach, 0);
    });
    for (let x = first.length; x < values.length; )
      for (let z = 0; z < first.length; z++, x++) values[x] = Math.min(Math.max(values[x], floor[z]), top[z]);
  }

  private wider(fit: Fit, shares: Shares, rate: number): Float64Array {
    const { train } = this.kernels;
    const sums = new Float64Array(train);
    const rates = this.rates(rate);
    return Float64Array.from({ length: this.steps }, (_, t) => {
      for (let e = shares.start[t]; e < shares.start[t + 1]; e++) sums[shares.example[e]] += rates[t] * shares.share[e];
      let apart = 0;
      for (let i = 0; i < train; i++) apart += (sums[i] - rate * this.cumulated[t * train + i]) ** 2;
      return Math.sqrt(1 - fit.ownShare + fit.ownShare * (fit.apart[t] > 0 ? apart / fit.apart[t] : 1));
    });
  }

  /** Half the widths of a test's intervals, one array [steps + 1] a level; none where they are not known. */
  halfWidths(fit: Fit, { wider, tests }: Prediction, test: number): Float64Array[] {
    if (!wider) return [];
    const levels = fit.quantiles.length / fit.tasks.length;
    let own = 0;
    for (let end = this.kernels.tasks[fit.tasks[0]].shown; end <= test; end += this.kernels.tasks[fit.tasks[own]].shown) own++;
    return Array.from({ length: levels }, (_, level) =>
      Float64Array.from({ length: this.steps + 1 }, (_, t) =>
        t ? fit.quantiles[own * levels + level] * wider[t - 1] * fit.spread[(t - 1) * tests + test] : 0,
      ),
    );
  }

  /**
   * What one share of an example in each update adds to a test's predicted value after `until` updates, if all of it
   * is believed: a function of update (from 0) and example.
   */
  influence(fit: Fit, own: number, z: number, until: number, rate: number): (update: number, example: number) => number {
    const { kernels, steps } = this;
    const { momenta, decays, train, columns, values } = kernels;
    const task = kernels.tasks[fit.tasks[own]];
    const n = countResponses(kernels);
    const spans = kernels.checkpoints.length;
    const inForce = checkpointsInForce(kernels.checkpoints, steps);
    const rates = this.rates(rate);
    const factors = new Float64Array(steps * kernels.kernels * spans);
    for (let k = 0; k < kernels.kernels; k++)
      for (let m = 0; m < momenta.length; m++) {
        const sums = new Float64Array(spans);
        const column = own * n + (m * kernels.kernels + k) * decays.length;
        for (let s = until - 1; s >= 0; s--) {
          for (let c = 0; c < spans; c++) sums[c] *= momenta[m];
          let weight = 0;
          for (let d = 0; d < decays.length; d++) weight += fit.weights[column + d] * decays[d] ** (until - 1 - s);
          sums[inForce[s]] += (weight * rates[s] * (1 - momenta[m])) / (1 - momenta[m] ** (s + 1));
          for (let c = 0; c < spans; c++) factors[(s * kernels.kernels + k) * spans + c] -= sums[c];
        }
      }
    return (update, example) => {
      let sum = 0;
      for (let k = 0; k < kernels.kernels; k++)
        for (let c = 0; c < spans; c++)
          sum +=
            factors[(update * kernels.kernels + k) * spans + c] *
            values[((k * spans + c) * train + example) * columns + task.from + z];
      return sum;
    };
  }
}
