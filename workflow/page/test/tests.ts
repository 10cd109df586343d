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

/** Responses after each update, [responses x columns]. */
function rowsOf(simulator: Simulator, shares: Shares): number[][] {
  const found: number[][] = [];
  simulator.departures(0, shares, 0.1, (responses) => found.push([...responses.rows]));
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

test("products are sums over all updates and columns", () => {
  for (const [count, decays, width] of [[4, [1, 0.5], 4], [3, [0.9], 5], [1, [1, 0.3, 0], 1], [4, [1, 0.95, 0.9, 0.8, 0.6, 0.3], 7]] as [number, number[], number][]) {
    const n = count * decays.length;
    const responses = new Responses(decays, count, width);
    const gram = new Float64Array(n * n);
    for (let t = 0; t < 9; t++) {
      responses.add(numbers(count * width, t + 1));
      for (let a = 0; a < n; a++)
        for (let b = 0; b < n; b++)
          for (let z = 0; z < width; z++) gram[a * n + b] += responses.rows[a * width + z] * responses.rows[b * width + z];
      const weights = numbers(n, 7);
      const into = new Float64Array(Math.ceil(width / 2));
      responses.weigh(weights, into);
      into.forEach((found, z) => assert.ok(Math.abs(found - weights.reduce((sum, w, a) => sum + w * responses.rows[a * width + z], 0)) < 1e-12));
    }
    gram.forEach((expected, at) => assert.ok(Math.abs(responses.gram[at] - expected) < 1e-12));
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
