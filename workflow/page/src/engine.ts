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

/** Responses of a task's columns to shares, [steps, columns of the task, responses]; rates: [steps]; into: an array of that size. */
export function respond(of: Kernels, task: Task, shares: Shares, rates: Float64Array, into?: Float64Array): Float64Array {
  const steps = rates.length;
  const width = task.to - task.from;
  const n = countResponses(of);
  const { momenta, decays, train, columns, values } = of;
  const found = into ?? new Float64Array(steps * width * n);
  const inForce = checkpointsInForce(of.checkpoints, steps);
  const now = new Float64Array(width);
  const average = new Float64Array(width);
  const recent = new Float64Array(train);
  const sums = new Float64Array(decays.length * width);
  for (let k = 0; k < of.kernels; k++)
    for (let m = 0; m < momenta.length; m++) {
      const momentum = momenta[m];
      const column = (m * of.kernels + k) * decays.length;
      sums.fill(0);
      recent.fill(0);
      let power = 1;
      for (let t = 0; t < steps; t++) {
        const base = (k * of.checkpoints.length + inForce[t]) * train * columns + task.from;
        if (momentum > 0 && (t === 0 || inForce[t] !== inForce[t - 1])) {
          // Past batches meet the new checkpoint's kernel.
          average.fill(0);
          for (let i = 0; i < train; i++)
            if (recent[i] !== 0)
              for (let z = 0, at = base + i * columns; z < width; z++, at++) average[z] += recent[i] * values[at];
        }
        now.fill(0);
        for (let e = shares.start[t]; e < shares.start[t + 1]; e++) {
          const share = shares.share[e];
          for (let z = 0, at = base + shares.example[e] * columns; z < width; z++, at++) now[z] += share * values[at];
        }
        power *= momentum;
        if (momentum > 0) {
          for (let i = 0; i < train; i++) recent[i] *= momentum;
          for (let e = shares.start[t]; e < shares.start[t + 1]; e++)
            recent[shares.example[e]] += (1 - momentum) * shares.share[e];
        }
        const rate = rates[t] / (1 - power);
        for (let z = 0; z < width; z++) {
          average[z] = momentum * average[z] + (1 - momentum) * now[z];
          const move = rate * average[z];
          const at = (t * width + z) * n + column;
          for (let d = 0; d < decays.length; d++) {
            const sum = decays[d] * sums[d * width + z] - move;
            sums[d * width + z] = sum;
            found[at + d] = sum;
          }
        }
      }
    }
  return found;
}

/** Products of responses, summed over steps and tests, [responses, responses]; rows: [any, responses]. */
export function gramOf(rows: Float64Array, n: number): Float64Array {
  const gram = new Float64Array(n * n);
  const whole = rows.length - (rows.length % (4 * n));
  // Four rows and two sums at once: what costs is reading and writing.
  for (let row = 0; row < whole; row += 4 * n) {
    const [one, two, three] = [row + n, row + 2 * n, row + 3 * n];
    let a = 0;
    for (; a + 1 < n; a += 2) {
      const x0 = rows[row + a];
      const x1 = rows[one + a];
      const x2 = rows[two + a];
      const x3 = rows[three + a];
      const y0 = rows[row + a + 1];
      const y1 = rows[one + a + 1];
      const y2 = rows[two + a + 1];
      const y3 = rows[three + a + 1];
      for (let b = a, at = a * n + a; b < n; b++, at++) {
        const r0 = rows[row + b];
        const r1 = rows[one + b];
        const r2 = rows[two + b];
        const r3 = rows[three + b];
        gram[at] += x0 * r0 + x1 * r1 + x2 * r2 + x3 * r3;
        gram[at + n] += y0 * r0 + y1 * r1 + y2 * r2 + y3 * r3;
      }
    }
    for (; a < n; a++) for (let q = row; q < row + 4 * n; q += n) gram[a * n + a] += rows[q + a] * rows[q + a];
  }
  for (let row = whole; row < rows.length; row += n)
    for (let a = 0; a < n; a++)
      for (let b = a; b < n; b++) gram[a * n + b] += rows[row + a] * rows[row + b];
  for (let a = 0; a < n; a++) for (let b = 0; b < a; b++) gram[a * n + b] = gram[b * n + a];
  return gram;
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
  /** Half the widths of the intervals, one array a level; none where they are not known. */
  halfWidths: Float64Array[];
  /** By task of the metric. */
  belief: Float64Array;
  /** In units of the farthest fitting run; null: not known. */
  distance: number | null;
}

/** Simulates curricula of one group. */
export class Simulator {
  private means = new Map<number, Float64Array>(); // by task, at rates that begin with 1
  private cumulated: Float64Array; // [steps, train], of mean shares times rates that begin with 1
  private known: Shares;
  private scratch = new Map<number, Float64Array>(); // by task: megabytes that an edit need not ask for anew

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

  private meanResponses(task: number): Float64Array {
    let found = this.means.get(task);
    if (!found) {
      found = respond(this.kernels, this.kernels.tasks[task], this.known, this.rates(1));
      this.means.set(task, found);
    }
    return found;
  }

  /** Responses less their mean over the fitting runs, [steps, columns of the task, responses], until the next call. */
  responses(task: number, shares: Shares, rate: number): Float64Array {
    const found = respond(this.kernels, this.kernels.tasks[task], shares, this.rates(rate), this.scratch.get(task));
    this.scratch.set(task, found);
    const mean = this.meanResponses(task);
    for (let x = 0; x < found.length; x++) found[x] -= rate * mean[x];
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
      const width = task.to - task.from;
      const rows = this.responses(number, shares, rate);
      const gram = gramOf(rows, n);
      const weights = fit.weights.subarray(own * n, (own + 1) * n);
      const size = fit.replicas.length / fit.tasks.length;
      belief[own] = beliefIn(gram, weights, fit.replicas.subarray(own * size, (own + 1) * size), n);
      for (let t = 0; t < steps; t++)
        for (let z = 0; z < task.shown; z++) {
          let sum = 0;
          for (let a = 0, at = (t * width + z) * n; a < n; a++, at++) sum += rows[at] * weights[a];
          values[(t + 1) * tests + offset + z] += belief[own] * sum;
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
    const halfWidths = known ? this.halfWidths(fit, shares, rate, tests) : [];
    return { values, tests, halfWidths, belief, distance: known ? distance : null };
  }

  private confine(values: Float64Array, extent: Float64Array, first: Float64Array): void {
    const [low, high] = extent;
    const reach = high - low || 1;
    for (let x = first.length; x < values.length; x++) {
      const given = first[x % first.length];
      values[x] = Math.min(Math.max(values[x], Math.min(given, low) - reach), Math.max(given, high) + reach);
    }
  }

  private halfWidths(fit: Fit, shares: Shares, rate: number, tests: number): Float64Array[] {
    const { steps, kernels } = this;
    const { train } = kernels;
    const levels = fit.quantiles.length / fit.tasks.length;
    const found = Array.from({ length: levels }, () => new Float64Array((steps + 1) * tests));
    const sums = new Float64Array(train);
    const rates = this.rates(rate);
    for (let t = 0; t < steps; t++) {
      for (let e = shares.start[t]; e < shares.start[t + 1]; e++) sums[shares.example[e]] += rates[t] * shares.share[e];
      let apart = 0;
      for (let i = 0; i < train; i++) apart += (sums[i] - rate * this.cumulated[t * train + i]) ** 2;
      const wider = Math.sqrt(1 - fit.ownShare + fit.ownShare * (fit.apart[t] > 0 ? apart / fit.apart[t] : 1));
      let offset = 0;
      fit.tasks.forEach((number, own) => {
        const { shown } = kernels.tasks[number];
        for (let level = 0; level < levels; level++)
          for (let z = offset; z < offset + shown; z++)
            found[level][(t + 1) * tests + z] = fit.quantiles[own * levels + level] * wider * fit.spread[t * tests + z];
        offset += shown;
      });
    }
    return found;
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
