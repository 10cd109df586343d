import { useMemo, useState } from "preact/hooks";
import { clipped } from "./app";
import type { Example, Group, Metric } from "./data";
import { EMPTY } from "./engine";

const DRAGGED = "application/x-gptfluence";
const LISTED = 30;
const SHADES = 8;

/** A number with its sign, and in words whether it helps. */
function Effect({ value, metric }: { value: number; metric: Metric }) {
  const text = Math.abs(value).toFixed(metric.digits);
  if (Number(text) === 0) return <span class="effect">{text}</span>;
  const helps = metric.lower === value < 0;
  return (
    <span class={`effect ${helps ? "helps" : "hurts"}`}>
      <span aria-hidden="true">{value < 0 ? "▼" : "▲"}</span> {value < 0 ? "−" : "+"}{text}<span class="unseen">, {helps ? "helps" : "hurts"}</span>
    </span>
  );
}

function Snippet({ example }: { example: Example }) {
  return (
    <span class="snippet">
      <b>{example.label}</b>{example.unseen ? " (unseen pool)" : ""} <bdi>{clipped(example.prompt, 110)}</bdi> <span aria-hidden="true">→</span> <bdi class="target">{clipped(example.target, 50)}</bdi>
    </span>
  );
}

function Whole({ example }: { example: Example }) {
  return (
    <div class="whole">
      <p class="what">prompt</p>
      <pre dir="auto" tabIndex={0} aria-label={`Prompt of ${example.label}`}>{example.prompt}</pre>
      <p class="what">target</p>
      <pre dir="auto" tabIndex={0} aria-label={`Target of ${example.label}`} class="target">{example.target}</pre>
    </div>
  );
}

export function TestText({ example }: { example: Example }) {
  return <Whole example={example} />;
}

interface StripProps {
  slots: Int32Array;
  effects: Float64Array;
  steps: number;
  batch: number;
  step: number;
  slot: number;
  edits: ReadonlyMap<number, number>;
  onPick: (step: number, slot: number) => void;
}

/** All slots at once, coloured by effect: for the eye and the pointer; the list below says the same in words. */
export function Strip({ slots, effects, steps, batch, step, slot, edits, onPick }: StripProps) {
  // A few paths, not thousands of rectangles: cells of like colour are one.
  const paths = useMemo(() => {
    const most = effects.reduce((max, effect) => Math.max(max, Math.abs(effect)), 0) || 1;
    const found = new Map<string, string>();
    const add = (kind: string, at: number): void => {
      const [t, j] = [Math.floor(at / batch), at % batch];
      found.set(kind, `${found.get(kind) ?? ""}M${t + 0.06},${j + 0.06}h.88v.88h-.88z`);
    };
    slots.forEach((example, at) => {
      if (example === EMPTY) return add("empty", at);
      const shade = Math.round(SHADES * Math.sqrt(Math.min(Math.abs(effects[at]) / most, 1)));
      add(`${effects[at] < 0 ? "lowers" : "raises"} ${shade}`, at);
    });
    for (const at of edits.keys()) add("edited", at);
    return [...found];
  }, [slots, effects, batch, edits]);
  const pick = (event: MouseEvent): void => {
    const at = (event.currentTarget as Element).getBoundingClientRect();
    const t = Math.floor(((event.clientX - at.left) / at.width) * steps);
    const j = Math.floor(((event.clientY - at.top) / at.height) * batch);
    onPick(Math.min(Math.max(t, 0), steps - 1), Math.min(Math.max(j, 0), batch - 1));
  };
  return (
    <figure class="strip">
      <svg viewBox={`0 0 ${steps} ${batch}`} preserveAspectRatio="none" aria-hidden="true" onClick={pick} style={{ height: `${Math.min(batch * 18, 180)}px` }}>
        {paths.map(([kind, d]) => {
          const [name, shade] = kind.split(" ");
          return <path key={kind} class={`cell ${name}`} d={d} fill-opacity={shade ? 0.08 + (0.92 * Number(shade)) / SHADES : undefined} />;
        })}
        <rect class="chosen" x={step} y="0" width="1" height={batch} />
        <rect class="chosen slot" x={step} y={slot} width="1" height="1" />
      </svg>
      <figcaption>Updates from left to right, slots below each other. <span class="swatch lowers" /> lowers, <span class="swatch raises" /> raises the predicted value; outlined: changed. Click one to pick it.</figcaption>
    </figure>
  );
}

interface BatchProps {
  data: Group;
  metric: Metric;
  update: number;
  slots: Int32Array;
  effects: Float64Array;
  slot: number;
  onSlot: (slot: number) => void;
  onPut: (slot: number, example: number) => void;
  onSwap: (from: number, to: number) => void;
}

/** The slots of one update's batch. */
export function Batch({ data, metric, update, slots, effects, slot, onSlot, onPut, onSwap }: BatchProps) {
  const drop = (to: number) => (event: DragEvent): void => {
    event.preventDefault();
    (event.currentTarget as Element).classList.remove("over");
    const [kind, number] = (event.dataTransfer?.getData(DRAGGED) ?? "").split(" ");
    if (kind === "example") onPut(to, Number(number));
    if (kind === "slot" && Number(number) !== to) onSwap(Number(number), to);
  };
  return (
    <div>
      <h3 id="batch">Batch of update {update + 1}</h3>
      <ol class="batch" aria-labelledby="batch">
        {Array.from({ length: data.batch }, (_, j) => {
          const at = update * data.batch + j;
          const example = slots[at];
          return (
            <li class={j === slot ? "picked" : ""} draggable={example !== EMPTY}
              onDragStart={(event) => event.dataTransfer?.setData(DRAGGED, `slot ${j}`)}
              onDragOver={(event) => { event.preventDefault(); event.currentTarget.classList.add("over"); }}
              onDragLeave={(event) => event.currentTarget.classList.remove("over")}
              onDrop={drop(j)}>
              <button type="button" class="slot" id={`slot-${j}`} aria-pressed={j === slot} onClick={() => onSlot(j)}
                onKeyDown={(event) => { if (event.key === "Delete" || event.key === "Backspace") { event.preventDefault(); onPut(j, EMPTY); } }}>
                <span class="number">Slot {j + 1}</span> {example === EMPTY ? <em>empty</em> : <Snippet example={data.train[example]} />} {example !== EMPTY && <Effect value={effects[at]} metric={metric} />}
              </button>
              {example !== EMPTY && <button type="button" class="out" aria-label={`Take ${data.train[example].label} out of slot ${j + 1}`} onClick={() => onPut(j, EMPTY)}>Out</button>}
            </li>
          );
        })}
      </ol>
    </div>
  );
}

interface PaletteProps {
  data: Group;
  metric: Metric;
  update: number;
  slots: Int32Array;
  slot: number;
  influence: (update: number, example: number) => number;
  belief: number;
  until: number;
  onPut: (slot: number, example: number) => void;
}

/** All training examples, by what each would do in the picked slot. */
export function Palette({ data, metric, update, slots, slot, influence, belief, until, onPut }: PaletteProps) {
  const [words, setWords] = useState("");
  const [order, setOrder] = useState("helps");
  const [more, setMore] = useState(LISTED);
  const moves = useMemo(() => {
    const { tokens, train } = data.simulator.kernels;
    const found = new Float64Array(train);
    if (update >= until) return found;
    const others: number[] = [];
    for (let j = 0; j < data.batch; j++) {
      const example = slots[update * data.batch + j];
      if (j !== slot && example !== EMPTY) others.push(example);
    }
    const there = slots[update * data.batch + slot];
    const per = Float64Array.from({ length: train }, (_, i) => influence(update, i));
    const mix = (all: number[]): number => {
      const sum = all.reduce((total, i) => total + tokens[i], 0);
      return sum ? all.reduce((total, i) => total + tokens[i] * per[i], 0) / sum : 0;
    };
    const before = mix(there === EMPTY ? others : [...others, there]);
    for (let i = 0; i < train; i++) found[i] = belief * (mix([...others, i]) - before);
    return found;
  }, [data, update, slot, slots, influence, belief, until]);
  const listed = useMemo(() => {
    const wanted = words.trim().toLowerCase();
    const found = [...data.train.keys()].filter((i) => {
      const { label, prompt, target } = data.train[i];
      return !wanted || `${label} ${prompt} ${target}`.toLowerCase().includes(wanted);
    });
    const sign = (metric.lower ? 1 : -1) * (order === "helps" ? 1 : -1);
    return order === "number" ? found : found.sort((i, j) => sign * (moves[i] - moves[j]));
  }, [data, words, order, moves, metric]);
  return (
    <div>
      <p>Put into update {update + 1}, slot {slot + 1}: click an example, or drag it into a slot. Beside each stands about how far it would move the value after update {until}.</p>
      <p class="buttons">
        <label>Find <input type="search" id="find" value={words} onInput={(event) => setWords(event.currentTarget.value)} /></label>
        <label>Order
          <select value={order} onChange={(event) => setOrder(event.currentTarget.value)}>
            <option value="helps">most helpful first</option>
            <option value="hurts">most harmful first</option>
            <option value="number">by number</option>
          </select>
        </label>
      </p>
      <ul class="palette" aria-label="Training examples">
        {listed.slice(0, more).map((i) => (
          <li key={i} draggable onDragStart={(event) => event.dataTransfer?.setData(DRAGGED, `example ${i}`)}>
            <button type="button" data-example={i} onClick={() => onPut(slot, i)}>
              <Snippet example={data.train[i]} /> <Effect value={moves[i]} metric={metric} />
            </button>
          </li>
        ))}
      </ul>
      {listed.length > more && <p><button type="button" onClick={() => setMore(more + 100)}>Show more ({listed.length - more} left)</button></p>}
      {!listed.length && <p>No example holds these words.</p>}
    </div>
  );
}

interface RankingProps {
  data: Group;
  metric: Metric;
  slots: Int32Array;
  effects: Float64Array;
  until: number;
  onTakeOut: (example: number) => void;
}

/** Which examples of the curriculum help and hurt the test example most. */
export function Ranking({ data, metric, slots, effects, until, onTakeOut }: RankingProps) {
  const ranked = useMemo(() => {
    const sums = new Map<number, { effect: number; times: number }>();
    slots.forEach((example, at) => {
      if (example === EMPTY) return;
      const sum = sums.get(example) ?? { effect: 0, times: 0 };
      sums.set(example, { effect: sum.effect + effects[at], times: sum.times + 1 });
    });
    const sign = metric.lower ? 1 : -1;
    return [...sums].map(([example, sum]) => ({ example, ...sum })).sort((x, y) => sign * (x.effect - y.effect));
  }, [slots, effects, metric]);
  const helps = (effect: number): boolean => (metric.lower ? effect < 0 : effect > 0);
  const list = (title: string, id: string, rows: typeof ranked) => (
    <div>
      <h3 id={id}>{title}</h3>
      {rows.length ? (
        <ol class="ranking" aria-labelledby={id}>
          {rows.map(({ example, effect, times }) => (
            <li key={example}>
              <details>
                <summary><Snippet example={data.train[example]} /> <Effect value={effect} metric={metric} /> <span class="times">{times}×</span></summary>
                <Whole example={data.train[example]} />
              </details>
              <button type="button" class="out" aria-label={`Take ${data.train[example].label} out of all updates`} onClick={() => onTakeOut(example)}>Out of all</button>
            </li>
          ))}
        </ol>
      ) : <p>none</p>}
    </div>
  );
  return (
    <div class="rankings">
      {list(`Proponents: ${metric.lower ? "lower" : "raise"} it most, up to update ${until}`, "proponents", ranked.filter((one) => helps(one.effect)).slice(0, 5))}
      {list(`Opponents: ${metric.lower ? "raise" : "lower"} it most`, "opponents", ranked.filter((one) => !helps(one.effect)).reverse().slice(0, 5))}
    </div>
  );
}
