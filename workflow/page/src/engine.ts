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

/** Products of shares and kernels, update by update; kept: each array is new, else the same is filled again. */
function* productsOf(of: Kernels, task: Task, shares: Shares, kept: boolean): Generator<Products> {
  const { momenta, train, columns, values } = of;
  const width = task.to - task.from;
  const steps = shares.start.length - 1;
  const inForce = checkpointsInForce(of.checkpoints, steps);
  const recent = momenta.map(() => new Float64Array(train));
  const add = (row: Float64Array, kernel: number, t: number, example: number, share: number): void => {
    const base = ((kernel * of.checkpoints.length + inForce[t]) * train + example) * columns + task.from;
    for (let z = 0; z < width; z++) row[z] += share * values[base + z];
  };
  let now = new Float64Array(of.kernels * width);
  for (let t = 0; t < steps; t++) {
    if (kept) now = new Float64Array(now.length);
    else now.fill(0);
    const past = t > 0 && inForce[t] !== inForce[t - 1] ? new Float64Array(momenta.length * of.kernels * width) : null;
    for (let k = 0; k < of.kernels; k++) {
      const row = now.subarray(k * width, (k + 1) * width);
      for (let e = shares.start[t]; e < shares.start[t + 1]; e++) add(row, k, t, shares.example[e], shares.share[e]);
      for (let m = 0; past && m < momenta.length; m++) {
        const series = past.subarray((m * of.kernels + k) * width, (m * of.kernels + k + 1) * width);
        for (let i = 0; i < train; i++) if (recent[m][i] !== 0) add(series, k, t, i, recent[m][i]);
      }
    }
    recent.forEach((average, m) => {
      if (momenta[m] === 0) return;
      for (let i = 0; i < train; i++) average[i] *= momenta[m];
      for (let e = shares.start[t]; e < shares.start[t + 1]; e++) average[shares.example[e]] += (1 - momenta[m]) * shares.share[e];
    });
    yield { now, past };
  }
}

/**
 * What each update adds to the responses before they decay, [momenta, kernels, columns], until the next one: the
 * learning rate times the average over batches, less that of the mean of the fitting runs.
 */
function* movesOf(of: Kernels, task: Task, shares: Shares, mean: Products[], rates: Float64Array): Generator<Float64Array> {
  const width = task.to - task.from;
  const averages = new Float64Array(of.momenta.length * of.kernels * width);
  const moves = new Float64Array(averages.length);
  let t = 0;
  for (const { now, past } of productsOf(of, task, shares, false)) {
    if (past) for (let x = 0; x < averages.length; x++) averages[x] = past[x] - mean[t].past![x];
    of.momenta.forEach((momentum, m) => {
      const rate = rates[t] / (1 - momentum ** (t + 1));
      for (let x = 0, at = m * now.length; x < now.length; x++, at++) {
        averages[at] = momentum * averages[at] + (1 - momentum) * (now[x] - mean[t].now[x]);
        moves[at] = -rate * averages[at];
      }
    });
    yield moves;
    t++;
  }
}

/** Products of the rows of two arrays, [rows of a, rows of b], two by two: what costs is reading. */
function productsOfRows(a: Float64Array, b: Float64Array, width: number): Float64Array {
  const [rows, others] = [a.length / width, b.length / width];
  const found = new Float64Array(rows * others);
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
  return found;
}

/** Sums of moves that decay, [moves, decays] of them, and their products summed over updates and columns. */
export class Responses {
  /** [responses, columns], after the last update. */
  readonly rows: Float64Array;
  /** [responses, responses]. */
  readonly gram: Float64Array;
  private readonly products: Float64Array; // of the last update alone, [responses, responses]
  private readonly n: number;

  constructor(
    private readonly decays: number[],
    moves: number,
    private readonly width: number,
  ) {
    this.n = moves * decays.length;
    this.rows = new Float64Array(this.n * width);
    this.gram = new Float64Array(this.n * this.n);
    this.products = new Float64Array(this.n * this.n);
  }

  /** Make an update. */
  add(moves: Float64Array): void {
    this.multiply(moves);
    const { rows, decays, width } = this;
    for (let a = 0, at = 0; a < this.n; a++) {
      const decay = decays[a % decays.length];
      const series = Math.floor(a / decays.length) * width;
      for (let z = series; z < series + width; z++, at++) rows[at] = decay * rows[at] + moves[z];
    }
  }

  /** Add the responses of the first columns, weighed. */
  weigh(weights: Float64Array, into: Float64Array): void {
    const { rows, n, width } = this;
    for (let a = 0; a < n; a++)
      for (let z = 0, at = a * width; z < into.length; z++, at++) into[z] += weights[a] * rows[at];
  }

  /** (c a + x)(d b + y) = cd ab + c ay + d bx + xy: few products are new, as there are fewer moves than responses. */
  private multiply(moves: Float64Array): void {
    const { n, decays, gram, products } = this;
    const count = n / decays.length;
    const crossed = productsOfRows(this.rows, moves, this.width);
    const added = productsOfRows(moves, moves, this.width);
    for (let a = 0, at = 0; a < n; a++) {
      const [c, x] = [decays[a % decays.length], Math.floor(a / decays.length)];
      for (let y = 0, b = 0; y < count; y++) {
        const known = added[x * count + y] + c * crossed[a * count + y];
        for (const d of decays) {
          products[at] = known + d * (c * products[at] + crossed[b++ * count + x]);
          gram[at] += products[at++];
        }
      }
    }
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
  private means = new Map<number, Products[]>(); // by task: of the mean shares
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

  private meanProducts(task: number): Products[] {
    let found = this.means.get(task);
    if (!found) {
      found = [...productsOf(this.kernels, this.kernels.tasks[task], this.known, true)];
      this.means.set(task, found);
    }
    return found;
  }

  /** Responses less their mean over the fitting runs, after the last update; `each` looks at them after every one. */
  departures(task: number, shares: Shares, rate: number, each: (found: Responses) => void): Responses {
    const { momenta, decays, kernels, tasks } = this.kernels;
    const found = new Responses(decays, momenta.length * kernels, tasks[task].to - tasks[task].from);
    for (const moves of movesOf(this.kernels, tasks[task], shares, this.meanProducts(task), this.rates(rate))) {
      found.add(moves);
      each(found);
    }
    return found;
  }

  /** first: measured values before the first update, [shown tests of the metric's tasks]. */
  predict(fit: Fit, shares: Shares, rate: number, first: Float64Array): Prediction {
    const { steps, kernels } = this;
    const n = countResponses(kernels);
    const tests = first.length;
    const values = Float64Array.from(fit.curve);
    const belief = new Float64Array(fit.tasks.length);
    const known = !fit.spread.some(Number.isNaN);
    let distance = 0;
    let offset = 0;
    fit.tasks.forEach((number, own) => {
      const task = kernels.tasks[number];
      const weights = fit.weights.subarray(own * n, (own + 1) * n);
      const moved = new Float64Array(steps * task.shown);
      let from = 0;
      const { gram } = this.departures(number, shares, rate, (responses) =>
        responses.weigh(weights, moved.subarray(from, (from += task.shown))),
      );
      const size = fit.replicas.length / fit.tasks.length;
      belief[own] = beliefIn(gram, weights, fit.replicas.subarray(own * size, (own + 1) * size), n);
      for (let t = 0; t < steps; t++)
        for (let z = 0; z < task.shown; z++) values[(t + 1) * tests + offset + z] += belief[own] * moved[t * task.shown + z];
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
