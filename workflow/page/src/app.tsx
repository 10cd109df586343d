import type { VNode } from "preact";
import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { Batch, Palette, Ranking, Strip, TestText } from "./curriculum";
import { Chart, type Line, Values } from "./chart";
import { type Group, type Index, type Metric, readGroup } from "./data";
import { EMPTY, type Prediction, type Shares, sharesOf } from "./engine";
import { type Curriculum, type View, edited, fromHash, groupOf, initialView, slotsOf, toHash } from "./state";

/** A group's name and its content once it is read. */
interface Loaded {
  number: number;
  data: Group;
}

export function App({ index }: { index: Index }) {
  const [loaded, setLoaded] = useState<Loaded | null>(null);
  const [view, setView] = useState<View | null>(null);
  const [said, say] = useState("");
  const groups = useRef(new Map<number, Promise<Group>>());

  // A browser compiles a script as it is used: without this, the first edits would take twice as long as later ones.
  const [rehearsal, setRehearsal] = useState(0);
  const drawn = loaded !== null && view !== null;
  useLayoutEffect(() => {
    if (!drawn || rehearsal === REHEARSALS) return;
    void document.body.offsetHeight;  // so that it is laid out, too
    setRehearsal(rehearsal + 1);
  }, [drawn, rehearsal]);

  const open = useCallback((number: number, hash: string | null) => {
    let reading = groups.current.get(number);
    if (!reading) groups.current.set(number, (reading = readGroup(number)));
    reading.then(
      (data) => {
        setLoaded({ number, data });
        if (hash === null) return setView(initialView(number, data));
        const found = fromHash(hash, number, data);
        setView(found.view);
        if (found.missing.length) say(`The link asks for what this page does not have: ${found.missing.join(", ")}.`);
      },
      (error: unknown) => say(`This group cannot be read: ${error instanceof Error ? error.message : error}.`),
    );
  }, []);

  useEffect(() => {
    if (!index.groups.length) return;
    const follow = (): void => {
      const group = groupOf(location.hash, index);
      if (group === -1) say("The link asks for a group that this page does not have.");
      open(Math.max(group ?? 0, 0), group === -1 ? null : location.hash);
    };
    follow();
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, [index, open]);

  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById("main")?.focus(); }}>
        Skip to the curves
      </a>
      <header>
        <h1>What if it had trained on something else?</h1>
        <p>
          Change what a GPT trains on, and see how the metric of a test example would have moved. Scale {index.scale};
          made by GPTfluence. Everything is computed here, in this page.
        </p>
        {index.notes.map((note) => <p class="warning">{note}</p>)}
      </header>
      <p role="status" aria-live="polite" class="status">{said}</p>
      {loaded && view && view.group === loaded.number
        ? <Shown key={loaded.number} index={index} data={loaded.data} view={rehearsed(loaded.data, view, rehearsal)} usable={rehearsal === REHEARSALS}
            setView={(next) => setView((now) => now && next(now))} open={(number) => open(number, null)} say={say} />
        : <main id="main" tabIndex={-1}><p>{index.groups.length ? "Loading …" : ""}</p></main>}
    </>
  );
}

/** Edits made and undone, in turns, before the page is first painted. */
const REHEARSALS = 6;

/** What is drawn at one of the rehearsals: at the even ones, and after them, the view itself. */
function rehearsed(data: Group, view: View, rehearsal: number): View {
  if (rehearsal % 2 === 0) return view;
  const picked = (Math.max(view.step, 1) - 1) * data.batch + view.slot;
  return { ...view, a: edited(data, view.a, [[picked, rehearsal % data.train.length]]) };
}

interface Props {
  index: Index;
  data: Group;
  view: View;
  /** Whether what is drawn stays until the user acts. */
  usable: boolean;
  setView: (next: (now: View) => View) => void;
  open: (group: number) => void;
  say: (text: string) => void;
}

/** Simulate one curriculum. */
function useSimulated(data: Group, metric: Metric, curriculum: Curriculum | null): Simulated | null {
  return useMemo(() => {
    if (!curriculum) return null;
    const slots = slotsOf(data, curriculum);
    const shares = sharesOf(slots, data.batch, data.simulator.kernels.tokens);
    const run = data.runs[curriculum.run];
    const tests = metric.tests.length;
    const from = curriculum.run * (data.steps + 1) * tests;
    const first = metric.measured.slice(from, from + tests);
    return { slots, shares, rate: run.rate, prediction: data.simulator.predict(metric.fit, shares, run.rate, first) };
  }, [data, metric, curriculum]);
}

export interface Simulated {
  slots: Int32Array;
  shares: Shares;
  rate: number;
  prediction: Prediction;
}

function Shown({ index, data, view, usable, setView, open, say }: Props) {
  const metric = data.metrics[view.metric];
  const a = useSimulated(data, metric, view.a)!;
  const b = useSimulated(data, metric, view.b);
  const test = data.tests[metric.tests[view.test]];
  const place = metric.places[view.test];
  const change = (part: Partial<View>): void => setView((now) => ({ ...now, ...part }));

  useEffect(() => {
    const later = setTimeout(() => {
      const hash = `#${toHash(view, index, data)}`;
      if (hash !== location.hash) history.replaceState(null, "", hash);
    }, 200);
    return () => clearTimeout(later);
  }, [view, index, data]);

  // For benchmarks: when the page could first be used, and which group it shows.
  useEffect(() => {
    if (!usable) return;
    if (!performance.getEntriesByName("usable").length) performance.mark("usable");
    const root = document.getElementById("app");
    if (root) root.dataset.group = String(view.group);
  }, [view.group, usable]);

  const value = (simulated: Simulated, step: number): number =>
    simulated.prediction.values[step * metric.tests.length + view.test];
  const shown = (number: number): string => number.toFixed(metric.digits);

  // What an edit did is said once its prediction is there.
  const pending = useRef<{ what: string; before: number } | null>(null);
  const edit = (what: string, next: (now: Curriculum) => Curriculum): void => {
    pending.current = { what, before: value(a, data.steps) };
    setView((now) => ({ ...now, a: next(now.a) }));
  };
  useEffect(() => {
    const done = pending.current;
    pending.current = null;
    if (done) say(`${done.what}. Predicted ${metric.label} after the last update: ${shown(value(a, data.steps))}, before ${shown(done.before)}.`);
  }, [a]);

  const measuredRuns: Line[] = useMemo(() => data.runs.map((run, r) => ({ kind: "run", label: run.id, values: measuredOf(data, metric, r, view.test) })), [data, metric, view.test]);
  const lines: Line[] = useMemo(() => {
    const tests = metric.tests.length;
    const length = data.steps + 1;
    const column = (values: Float64Array): Float64Array => Float64Array.from({ length }, (_, t) => values[t * tests + view.test]);
    const found: Line[] = [...measuredRuns];
    found.push({ kind: "mean", label: "mean of the fitting runs", values: column(metric.fit.curve) });
    const add = (kind: "a" | "b", curriculum: Curriculum, simulated: Simulated): void => {
      found.push({ kind: `measured-${kind}`, label: `${kind.toUpperCase()}, measured`, values: measuredOf(data, metric, curriculum.run, view.test), unlike: curriculum.edits.size > 0 });
      found.push({
        kind,
        label: `${kind.toUpperCase()}, predicted`,
        values: column(simulated.prediction.values),
        widths: data.simulator.halfWidths(metric.fit, simulated.prediction, view.test),
      });
    };
    if (view.b && b) add("b", view.b, b);
    add("a", view.a, a);
    return found;
  }, [data, metric, measuredRuns, view.test, view.a, view.b, a, b]);

  return (
    <>
      <section aria-label="What is shown" class="controls">
        <label>Model and runs
          <select id="group" value={view.group} onChange={(event) => open(Number(event.currentTarget.value))}>
            {index.groups.map((group, number) => <option value={number}>{group.label}</option>)}
          </select>
        </label>
        <label>Metric
          <select id="metric" value={view.metric} onChange={(event) => change({ metric: Number(event.currentTarget.value), test: 0 })}>
            {data.metrics.map((one, number) => <option value={number}>{one.label}</option>)}
          </select>
        </label>
        <label>Task
          <select id="task" value={place.own} onChange={(event) => change({ test: metric.places.findIndex((one) => one.own === Number(event.currentTarget.value)) })}>
            {metric.fit.tasks.map((number, own) => <option value={own}>{data.simulator.kernels.tasks[number].name}</option>)}
          </select>
        </label>
        <label>Test example
          <select id="test" value={view.test} onChange={(event) => change({ test: Number(event.currentTarget.value) })}>
            {useMemo(() => metric.places.map((one, number) => one.own === place.own && <option value={number}>{clipped(`${data.tests[metric.tests[number]].label}: ${data.tests[metric.tests[number]].prompt}`, 60)}</option>), [data, metric, place.own])}
          </select>
        </label>
        <label>Curriculum A starts as the run
          <select id="run" value={view.a.run} onChange={(event) => { change({ a: { run: Number(event.currentTarget.value), edits: new Map() } }); }}>
            <RunOptions data={data} />
          </select>
        </label>
      </section>
      <main id="main" tabIndex={-1}>
        <section aria-labelledby="curves" class="curves">
          <h2 id="curves">Measured and predicted {metric.label} of {test.label}</h2>
          <Chart lines={lines} metric={metric} step={view.step} levels={index.levels} onStep={(step) => change({ step })} />
          <label class="scrub">Updates made: {view.step} of {data.steps}
            <input id="step" type="range" aria-valuetext={`${view.step} of ${data.steps} updates: predicted ${shown(value(a, view.step))}`} min={0} max={data.steps} value={view.step} onInput={(event) => change({ step: Number(event.currentTarget.value) })} />
          </label>
          <Values lines={lines} metric={metric} step={view.step} levels={index.levels} />
          <Standing data={data} metric={metric} own={place.own} view={view} a={a} />
        </section>
        <Later>
          <Examples index={index} data={data} view={view} a={a} edit={edit} change={change} say={say} />
        </Later>
      </main>
      <Notes data={data} index={index} />
    </>
  );
}

/** Draws what it holds one painted frame late, so that what stands beside it is seen at once. */
function Later({ children }: { children: VNode }) {
  const [drawn, draw] = useState(children);
  useEffect(() => draw(children), [children]);
  return drawn;
}

function RunOptions({ data }: { data: Group }) {
  return useMemo(() => (
    <>
      {Object.keys(SPLITS).map((split) => {
        const runs = data.runs.map((run, number) => ({ ...run, number })).filter((run) => run.split === split);
        return runs.length ? <optgroup label={SPLITS[split]}>{runs.map((run) => <option value={run.number}>{run.id}</option>)}</optgroup> : null;
      })}
    </>
  ), [data]);
}

interface ExamplesProps {
  index: Index;
  data: Group;
  view: View;
  a: Simulated;
  /** Change curriculum A, and say what was done. */
  edit: (what: string, next: (now: Curriculum) => Curriculum) => void;
  change: (part: Partial<View>) => void;
  say: (text: string) => void;
}

/** The curriculum, the training examples that may be put into it, and which of them move the test example. */
function Examples({ index, data, view, a, edit, change, say }: ExamplesProps) {
  const metric = data.metrics[view.metric];
  const test = data.tests[metric.tests[view.test]];
  const place = metric.places[view.test];
  const belief = a.prediction.belief[place.own];
  const update = Math.max(view.step, 1) - 1;
  const until = view.until === "end" ? data.steps : update + 1;

  const influence = useMemo(
    () => data.simulator.influence(metric.fit, place.own, place.place, until, a.rate),
    [data, metric, place, until, a.rate],
  );
  const effects = useMemo(() => {
    const found = new Float64Array(a.slots.length);
    for (let t = 0, e = 0; t < data.steps; t++)
      for (let j = 0; j < data.batch; j++) {
        const example = a.slots[t * data.batch + j];
        if (example === EMPTY) continue;
        if (t < until) found[t * data.batch + j] = belief * a.shares.share[e] * influence(t, example);
        e++;
      }
    return found;
  }, [data, a, influence, belief, until]);

  const name = (example: number): string => (example === EMPTY ? "nothing" : data.train[example].label);
  const put = (slot: number, example: number): void =>
    edit(`Update ${update + 1}, slot ${slot + 1}: ${name(example)}`, (now) => edited(data, now, [[update * data.batch + slot, example]]));
  const swap = (from: number, to: number): void => {
    const [x, y] = [update * data.batch + from, update * data.batch + to];
    edit(`Slots ${from + 1} and ${to + 1} swapped`, (now) => edited(data, now, [[x, a.slots[y]], [y, a.slots[x]]]));
  };
  const takeOut = (example: number): void => {
    const places = [...a.slots.keys()].filter((at) => a.slots[at] === example);
    edit(`${name(example)} taken out of all updates`, (now) => edited(data, now, places.map((at) => [at, EMPTY])));
  };

  return (
    <>
      <div class="column">
        <section aria-labelledby="curriculum" class="curriculum">
          <h2 id="curriculum">Curriculum A{view.a.edits.size ? `: ${view.a.edits.size} of ${a.slots.length} slots changed` : ""}</h2>
          <Strip slots={a.slots} effects={effects} steps={data.steps} batch={data.batch} step={update} slot={view.slot} edits={view.a.edits}
            onPick={(step, slot) => change({ step: step + 1, slot })} />
          <p class="buttons">
            <button type="button" disabled={!view.a.edits.size} onClick={() => edit("All changes undone", (now) => ({ run: now.run, edits: new Map() }))}>Undo all changes</button>
            <button type="button" onClick={() => { change({ b: view.a }); say("Kept as curriculum B."); }}>Keep as B, to compare</button>
            {view.b && <button type="button" onClick={() => { change({ a: view.b!, b: view.a }); say("A and B swapped."); }}>Swap A and B</button>}
            <button type="button" onClick={() => copyLink(`#${toHash(view, index, data)}`, say)}>Copy link</button>
            <label>Compare with (B)
              <select id="b" value={view.b ? (view.b.edits.size ? "own" : view.b.run) : ""} onChange={(event) => {
                const chosen = event.currentTarget.value;
                if (chosen !== "own") change({ b: chosen === "" ? null : { run: Number(chosen), edits: new Map() } });
              }}>
                <option value="">nothing</option>
                {view.b && view.b.edits.size > 0 && <option value="own">{data.runs[view.b.run].id}, {view.b.edits.size} slots changed</option>}
                <RunOptions data={data} />
              </select>
            </label>
          </p>
          <label class="until">Effects on the value
            <select id="until" value={view.until} onChange={(event) => change({ until: event.currentTarget.value as View["until"] })}>
              <option value="end">after the last update</option>
              <option value="here">after update {update + 1}</option>
            </select>
          </label>
          <Batch data={data} metric={metric} update={update} slots={a.slots} effects={effects} slot={view.slot} onSlot={(slot) => change({ slot })} onPut={put} onSwap={swap} />
        </section>
        <section aria-labelledby="pool" class="pool">
          <h2 id="pool">Training examples</h2>
          <Palette data={data} metric={metric} update={update} slots={a.slots} slot={view.slot} influence={influence} belief={belief} until={until} onPut={put} />
        </section>
      </div>
      <section aria-labelledby="about-test" class="test">
        <h2 id="about-test">The test example</h2>
        <TestText example={test} />
        <Ranking data={data} metric={metric} slots={a.slots} effects={effects} until={until} onTakeOut={takeOut} />
      </section>
    </>
  );
}

/** The measured values of a test in a run, [steps + 1]. */
function measuredOf(data: Group, metric: Metric, run: number, test: number): Float64Array {
  const length = data.steps + 1;
  return Float64Array.from({ length }, (_, t) => metric.measured[(run * length + t) * metric.tests.length + test]);
}

const SPLITS: Record<string, string> = {
  held_out: "held-out runs (no fit has seen them)",
  unseen: "runs on unseen examples",
  validate: "validation runs (settings were chosen on them)",
  fit: "fitting runs",
};
const SETTINGS: Record<string, string> = { seen: "held-out runs", unseen_train: "runs on unseen examples" };

/** How well the simulator did where it can be checked, and whether this curriculum is like those. */
function Standing({ data, metric, own, view, a }: { data: Group; metric: Metric; own: number; view: View; a: Simulated }) {
  const task = data.simulator.kernels.tasks[metric.fit.tasks[own]] as { id?: string; name: string };
  const of = (setting: string, measure: string) =>
    metric.skills.find((one) => one.task === task.id && one.setting === setting && one.measure === measure);
  const { distance } = a.prediction;
  const belief = a.prediction.belief[own];
  const split = data.runs[view.a.run].split;
  return (
    <div class="standing">
      {distance !== null && distance > 1 && (
        <p class="warning" id="far">
          This curriculum is {distance.toFixed(1)} times as far from the fitted ones as any of them was from the others
          {distance > 2 ? ": what is predicted may be far off." : "."}
        </p>
      )}
      <ul>
        {Object.entries(SETTINGS).map(([setting, words]) => {
          const skill = of(setting, "skill");
          const r = of(setting, "across_run_correlation");
          const coverage = of(setting, "coverage_80");
          return skill && (
            <li>
              On {words}, {task.name}: skill {skill.value.toFixed(2)}
              {skill.low !== null && skill.high !== null && ` [${skill.low.toFixed(2)}, ${skill.high.toFixed(2)}]`} (1: without error, 0: no
              better than the mean curve){r && `, correlation across runs ${r.value.toFixed(2)}`}
              {coverage && `; ${Math.round(100 * coverage.value)}% of the measured values lie in the 80% band`}.
            </li>
          );
        })}
        <li>
          {Math.round(100 * belief)}% of the predicted departure from the mean curve is believed
          {distance !== null && `; distance from the fitted curricula ${distance.toFixed(2)} (above 1: farther than any of them)`}.
        </li>
        {split === "fit" && <li>The simulator was fitted on this run: that it is near the measured curve says little.</li>}
      </ul>
    </div>
  );
}

function Notes({ data, index }: { data: Group; index: Index }) {
  return (
    <footer>
      <h2>What the numbers are</h2>
      <p>
        The curve is predicted by the group's simulator, gradient response: the mean curve of the fitting runs, and what
        products of the gradients of training and test examples say that this curriculum adds. It was fitted on the
        fitting runs alone. The bands hold, one value at a time, {index.levels.map((level) => `${Math.round(100 * level)}%`).join(", ")} of
        the errors in fitting runs that were left out; they widen for curricula unlike those. The effect of an example is
        its part of the prediction: what its shares of batches add, over all updates up to the one that is shown.
      </p>
      {data.notes.map((note) => <p class="note">{note}</p>)}
      <p>
        By keyboard: Tab moves between parts, arrow keys scrub; pick a slot, then a training example to put there; Delete
        empties a slot.
      </p>
    </footer>
  );
}

export function clipped(text: string, length: number): string {
  const letters = [...text.slice(0, 4 * length).replace(/\s+/g, " ")];
  return letters.length > length ? `${letters.slice(0, length - 1).join("")}…` : letters.join("");
}

function copyLink(hash: string, say: (text: string) => void): void {
  history.replaceState(null, "", hash);
  const done = navigator.clipboard?.writeText(location.href);
  if (!done) return say("The address bar holds the link.");
  done.then(() => say("Link copied."), () => say("The address bar holds the link."));
}
