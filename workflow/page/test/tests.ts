import assert from "node:assert/strict";
import test from "node:test";
import type { Group, Index } from "../src/data";
import { EMPTY, type Fit, type Kernels, Responses, type Shares, Simulator, meanShares, sharesOf } from "../src/engine";
import { edited, fromHash, groupOf, initialView, slotsOf, toHash } from "../src/state";

/** Numbers that look random, the same every time. */
function numbers(count: number, seed = 1): Float64Array {
  let state = seed;
  return Float64Array.from({ length: count }, () => (state = (state * 16807) % 2147483647) / 2147483647 - 0.5);
}

const steps = 7;
const batch = 3;
const kernels: Kernels = {
  values: Float32Array.from(numbers(2 * 2 * 5 * 4)),
  kernels: 2,
  checkpoints: Int32Array.of(0, 3),
  train: 5,
  columns: 4,
  tokens: Float64Array.of(1, 2, 3, 4, 5),
  momenta: [0, 0.9],
  decays: [1, 0.5],
  tasks: [{ name: "one", from: 0, shown: 4, to: 4, tests: 4 }],
};
const slots = Int32Array.from(numbers(steps * batch, 5), (x) => Math.floor((x + 0.5) * 5));
slots[4] = EMPTY;

/** Each response after each update, [steps][responses x columns]: weighed with one weight of 1 at a time. */
function rowsOf(simulator: Simulator, shares: Shares): number[][] {
  const found = Array.from({ length: steps }, (): number[] => []);
  for (let a = 0; a < 8; a++) {
    const into = new Float64Array(steps * 4);
    simulator.departures(0, shares, 0.1, Float64Array.from({ length: 8 }, (_, b) => Number(a === b)), (t) => into.subarray(t * 4, (t + 1) * 4));
    found.forEach((rows, t) => rows.push(...into.subarray(t * 4, (t + 1) * 4)));
  }
  return found;
}

test("shares are of tokens, and those of an empty batch are none", () => {
  const shares = sharesOf(Int32Array.of(0, 3, EMPTY, EMPTY, EMPTY, EMPTY), 3, kernels.tokens);
  assert.deepEqual([...shares.share], [0.2, 0.8]);
  assert.deepEqual([...shares.start], [0, 2, 2]);
});

test("responses are those of the definition", () => {
  const shares = sharesOf(slots, batch, kernels.tokens);
  const dense = meanShares([shares], steps, 5);
  const rates = Float64Array.from({ length: steps }, (_, t) => 0.1 * (1 - t / steps));
  const simulator = new Simulator(kernels, steps, new Float64Array(steps * 5));
  const found = rowsOf(simulator, shares);
  kernels.momenta.forEach((momentum, m) => {
    for (let k = 0; k < 2; k++)
      kernels.decays.forEach((decay, d) => {
        for (let z = 0; z < 4; z++) {
          let now = 0;
          for (let t = 0; t < steps; t++) {
            let move = 0;
            for (let s = 0; s <= t; s++)
              for (let i = 0; i < 5; i++) {
                const kernel = kernels.values[((k * 2 + (t >= 3 ? 1 : 0)) * 5 + i) * 4 + z];
                move += (momentum ** (t - s) * (1 - momentum) * dense[s * 5 + i] * kernel) / (1 - momentum ** (t + 1));
              }
            now = decay * now - rates[t] * move;
            assert.ok(Math.abs(found[t][((m * 2 + k) * 2 + d) * 4 + z] - now) < 1e-12);
          }
        }
      });
  });
});

test("an edited curriculum is met as if it were the first", () => {
  const mean = meanShares([sharesOf(slots, batch, kernels.tokens)], steps, 5);
  const simulator = new Simulator(kernels, steps, mean);
  for (const [place, example] of [[0, 3], [13, EMPTY], [13, 2], [0, 1], [20, 4]]) {
    const changed = slots.slice();
    changed[place] = example;
    const shares = sharesOf(changed, batch, kernels.tokens);
    assert.deepEqual(rowsOf(simulator, shares), rowsOf(new Simulator(kernels, steps, mean), shares));
  }
});

test("influences of all shares add up to the departure from the mean curve", () => {
  const shares = sharesOf(slots, batch, kernels.tokens);
  const simulator = new Simulator(kernels, steps, new Float64Array(steps * 5));
  const weights = numbers(8, 3);
  const fit = { tasks: [0], weights } as unknown as Fit;
  const rows = rowsOf(simulator, shares);
  for (const until of [2, steps])
    for (let z = 0; z < 4; z++) {
      const influence = simulator.influence(fit, 0, z, until, 0.1);
      let sum = 0;
      for (let t = 0; t < until; t++)
        for (let e = shares.start[t]; e < shares.start[t + 1]; e++) sum += shares.share[e] * influence(t, shares.example[e]);
      const expected = weights.reduce((total, weight, a) => total + weight * rows[until - 1][a * 4 + z], 0);
      assert.ok(Math.abs(sum - expected) < 1e-12);
    }
});

test("responses to the mean are none", () => {
  const shares = sharesOf(slots, batch, kernels.tokens);
  const simulator = new Simulator(kernels, steps, meanShares([shares], steps, 5));
  for (const row of rowsOf(simulator, shares)) for (const x of row) assert.ok(Math.abs(x) < 1e-12);
});

test("products are sums over all updates and columns, and rows are weighed", () => {
  const shapes: [number[], number[], number, number][] = [
    [[0, 0.9], [1, 0.5], 2, 4],
    [[0.5], [0.9], 1, 5],
    [[0], [1, 0.3, 0], 1, 1],
    [[0, 0.9], [1, 0.95, 0.9, 0.8, 0.6, 0.3], 2, 7],
    [[0.9, 0], [1, 0.3, 0], 2, 6],
  ];
  for (const [momenta, decays, count, width] of shapes) {
    const n = momenta.length * count * decays.length;
    const weights = numbers(n, 7);
    const responses = new Responses(momenta, decays, count, width, weights);
    const gram = new Float64Array(n * n);
    const averages = new Float64Array(momenta.length * count * width);
    const rows = new Float64Array(n * width);
    for (let t = 0; t < 9; t++) {
      const now = numbers(count * width, t + 1);
      const past = t === 4 || t === 5 ? numbers(averages.length, t + 20) : null;
      const into = numbers(Math.ceil(width / 2), 3);
      const expected = into.slice();
      responses.add(now, past, 0.1 + t, into);
      if (past) averages.set(past);
      momenta.forEach((momentum, m) =>
        now.forEach((x, at) => {
          const average = m * now.length + at;
          averages[average] = momentum * averages[average] + (1 - momentum) * x;
          const [k, z] = [Math.floor(at / width), at % width];
          decays.forEach((decay, d) => {
            const a = (m * count + k) * decays.length + d;
            rows[a * width + z] = decay * rows[a * width + z] - ((0.1 + t) / (1 - momentum ** (t + 1))) * averages[average];
            if (z < into.length) expected[z] += weights[a] * rows[a * width + z];
          });
        }),
      );
      for (let a = 0; a < n; a++) for (let b = 0; b < n; b++) for (let z = 0; z < width; z++) gram[a * n + b] += rows[a * width + z] * rows[b * width + z];
      rows.forEach((row, at) => assert.ok(Math.abs(responses.rows[at] - row) < 1e-12 * (1 + Math.abs(row))));
      into.forEach((found, z) => assert.ok(Math.abs(found - expected[z]) < 1e-11));
    }
    gram.forEach((product, at) => assert.ok(Math.abs(responses.gram[at] - product) < 1e-10 * (1 + Math.abs(product))));
  }
});

const data = {
  steps,
  batch,
  train: Array.from({ length: 5 }, (_, i) => ({ label: `t ${i}`, prompt: "", target: "" })),
  runs: ["fit", "held_out"].map((split) => ({ id: `run ${split}`, split, slots })),
  metrics: [{ name: "loss", tests: [0, 1, 2, 3] }],
} as unknown as Group;
const index = { groups: [{ name: "a&b=#", label: "" }] } as unknown as Index;

test("an address gives back the view it was made of", () => {
  const view = initialView(0, data);
  const other = slots[6] === 1 ? 2 : 1;
  view.a = edited(data, view.a, [[6, other], [2, EMPTY]]);
  view.b = { run: 0, edits: new Map() };
  view.until = "here";
  const hash = `#${toHash(view, index, data)}`;
  assert.equal(groupOf(hash, index), 0);
  assert.deepEqual(fromHash(hash, 0, data), { view, missing: [] });
  assert.equal(slotsOf(data, view.a)[6], other);
});

test("what is as in the run is no edit", () => {
  const view = initialView(0, data);
  const changed = edited(data, view.a, [[6, EMPTY]]);
  assert.equal(edited(data, changed, [[6, slots[6]]]).edits.size, 0);
});

test("an address that asks in vain says so", () => {
  for (const hash of ["#run=x", "#edits=1.99&run=run fit", "#test=4", "#step=-1", "#edits=&run=run fit", "#b=", "#until=x"])
    assert.equal(fromHash(hash, 0, data).missing.length, 1, hash);
  assert.equal(groupOf("#group=nosuch", index), -1);
  assert.equal(groupOf("", index), null);
});
