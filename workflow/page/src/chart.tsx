import { scaleLinear } from "d3-scale";
import { area, line } from "d3-shape";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Metric } from "./data";

export interface Line {
  kind: "run" | "mean" | "a" | "b" | "measured-a" | "measured-b";
  label: string;
  values: Float64Array;
  widths?: Float64Array[];
  /** Measured of a run whose curriculum is no longer the one shown. */
  unlike?: boolean;
}

const HEIGHT = 300;
const EDGE = { left: 52, right: 10, top: 10, bottom: 34 };

interface Props {
  lines: Line[];
  metric: Metric;
  step: number;
  levels: number[];
  onStep: (step: number) => void;
}

/** The curves. What they show stands in the table of values, too, so the drawing is one image to a screen reader. */
export function Chart({ lines, metric, step, levels, onStep }: Props) {
  const frame = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(640);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(Math.max(Math.round(entry.contentRect.width), 240)));
    if (frame.current) watch.observe(frame.current);
    return () => watch.disconnect();
  }, []);
  const steps = lines[0].values.length - 1;
  let [low, high] = [Infinity, -Infinity];
  const wide = levels.length - 1;
  for (const { values, widths } of lines)
    values.forEach((value, t) => {
      const half = widths?.length ? widths[Math.min(1, wide)][t] : 0;
      low = Math.min(low, value - half);
      high = Math.max(high, value + half);
    });
  const x = scaleLinear([0, steps], [EDGE.left, width - EDGE.right]);
  const y = scaleLinear([low, high], [HEIGHT - EDGE.bottom, EDGE.top]).nice();
  const path = line<number>((_, t) => x(t), (value) => y(value));
  const all = lines.filter((one) => one.kind === "run");
  const runs = useMemo(() => all.map((one) => path(one.values as unknown as number[]) ?? "").join(""), [all[0].values, all.length, width, ...y.domain()]);
  const band = ({ values, widths }: Line, level: number): string =>
    area<number>((_, t) => x(t), (value, t) => y(value - widths![level][t]), (value, t) => y(value + widths![level][t]))(values as unknown as number[]) ?? "";
  const clip = `M${EDGE.left},0H${width}V${HEIGHT - EDGE.bottom}H${EDGE.left}Z`;
  const bands = lines.filter((one) => one.widths?.length);
  const pick = (event: PointerEvent): void => {
    const at = (event.currentTarget as Element).getBoundingClientRect();
    const found = Math.round(x.invert(((event.clientX - at.left) / at.width) * width));
    if (event.type === "pointerdown" || event.buttons) onStep(Math.min(Math.max(found, 0), steps));
  };
  return (
    <div ref={frame} class="frame">
      <svg class="chart" viewBox={`0 0 ${width} ${HEIGHT}`} role="img" aria-label={describe(lines, metric)} onPointerDown={pick} onPointerMove={pick}>
        <clipPath id="plot"><path d={clip} /></clipPath>
        <g class="axis">
          {y.ticks(6).map((tick) => (
            <g>
              <path class="grid" d={`M${EDGE.left},${y(tick)}H${width - EDGE.right}`} />
              <text x={EDGE.left - 6} y={y(tick)} dy="0.32em" text-anchor="end">{y.tickFormat(6)(tick)}</text>
            </g>
          ))}
          {x.ticks(Math.min(steps, Math.floor(width / 70))).filter(Number.isInteger).map((tick) => (
            <text x={x(tick)} y={HEIGHT - EDGE.bottom + 16} text-anchor="middle">{tick}</text>
          ))}
          <text x={(EDGE.left + width) / 2} y={HEIGHT - 2} text-anchor="middle">updates</text>
        </g>
        <g clip-path="url(#plot)">
          <path class="run" d={runs} />
          {bands.map((one) => [...levels.keys()].reverse().map((level) => <path class={`band ${one.kind}`} d={band(one, level)} />))}
          {lines.filter((one) => one.kind !== "run").map((one) => (
            <path class={`line ${one.kind}${one.unlike ? " unlike" : ""}`} data-line={one.kind} d={path(one.values as unknown as number[]) ?? ""} />
          ))}
          <path class="cursor" d={`M${x(step)},${EDGE.top}V${HEIGHT - EDGE.bottom}`} />
        </g>
        {lines.filter((one) => one.kind === "a" || one.kind === "b").map((one) => <circle class={`dot ${one.kind}`} cx={x(step)} cy={y(one.values[step])} r="4" />)}
      </svg>
    </div>
  );
}

function describe(lines: Line[], metric: Metric): string {
  const parts = lines.filter((one) => one.kind !== "run").map(({ label, values }) =>
    `${label}: from ${values[0].toFixed(metric.digits)} to ${values[values.length - 1].toFixed(metric.digits)}`);
  return `${metric.label} by update. ${parts.join("; ")}. Thin lines: all ${lines.filter((one) => one.kind === "run").length} runs, measured. The values stand below.`;
}

/** The legend with the values at the step that is looked at, and the table of all steps. */
export function Values({ lines, metric, step, levels }: { lines: Line[]; metric: Metric; step: number; levels: number[] }) {
  const named = lines.filter((one) => one.kind !== "run").reverse();
  const [open, setOpen] = useState(false);
  const cell = (value: number) => <data value={String(value)}>{value.toFixed(metric.digits)}</data>;
  const a = lines.find((one) => one.kind === "a")!;
  const b = lines.find((one) => one.kind === "b");
  return (
    <div class="values">
      <dl>
        {named.map((one) => (
          <div>
            <dt><Key kind={one.kind} /> {one.label}{one.unlike ? " (as it was, before changes)" : ""}</dt>
            <dd id={`value-${one.kind}`}>
              {cell(one.values[step])}
              {one.widths?.length ? <span class="interval"> ± {one.widths[1][step].toFixed(metric.digits)} ({Math.round(100 * levels[1])}%)</span> : null}
            </dd>
          </div>
        ))}
        {b && <div><dt>A less B, predicted</dt><dd id="value-difference">{cell(a.values[step] - b.values[step])}</dd></div>}
        <div><dt><Key kind="run" /> all runs, measured</dt><dd /></div>
      </dl>
      <details onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary>Table of all values</summary>
        {open && (
          <div class="scroll" tabIndex={0} role="region" aria-label="Table of all values">
            <table id="all-values">
              <thead><tr><th scope="col">updates</th>{named.map((one) => <th scope="col">{one.label}</th>)}<th scope="col">A, {Math.round(100 * levels[1])}% from</th><th scope="col">to</th></tr></thead>
              <tbody>
                {Array.from(a.values, (_, t) => (
                  <tr>
                    <th scope="row">{t}</th>
                    {named.map((one) => <td>{cell(one.values[t])}</td>)}
                    <td>{a.widths?.length ? cell(a.values[t] - a.widths[1][t]) : ""}</td>
                    <td>{a.widths?.length ? cell(a.values[t] + a.widths[1][t]) : ""}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
      </details>
    </div>
  );
}

function Key({ kind }: { kind: Line["kind"] }) {
  return <svg class="key" viewBox="0 0 24 8" aria-hidden="true"><path class={kind === "run" ? "run" : `line ${kind}`} d="M0,4H24" /></svg>;
}
