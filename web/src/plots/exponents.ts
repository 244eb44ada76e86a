// Exponents of all fits with their 95 % intervals, the paper's values beside them.
import * as Plot from '@observablehq/plot';
import type { Fit } from '../data';
import { compose, draw, plotStyle, textWidth, type Drawing, type LegendItem } from '../figure';
import { parameterName, range, significant } from '../format';
import { parameterInterval } from '../law';
import type { Theme } from '../theme';

export const kExponents = ['beta', 'alpha', 'gamma'] as const;

interface Line {
  label: string;
  value: number;
  low: number | null;
  high: number | null;
  paper: number | null;
}

// Names made distinct, in the order of the fits.
function labels(fits: readonly Fit[]): string[] {
  const seen = new Map<string, number>();
  return fits.map((fit) => {
    const times = (seen.get(fit.name) ?? 0) + 1;
    seen.set(fit.name, times);
    return times > 1 ? `${fit.name} (${times})` : fit.name;
  });
}

const kRow = 26;
const kNarrow = 620;
const kWidestLabel = 260;
const kLabelGap = 16;

function shorten(text: string, width: number): string {
  let short = text;
  while (short.length > 1 && textWidth(short) > width) short = `${short.slice(0, -2)}…`;
  return short;
}

export function drawExponents(fits: readonly Fit[], selected: Fit | null, width: number, theme: Theme): Drawing | string {
  const names = labels(fits);
  const panels = kExponents.flatMap((name) => {
    const lines = fits.flatMap((fit, i): Line[] => {
      const p = fit.params.find((q) => q.name === name);
      if (!p || !Number.isFinite(p.value)) return [];
      const [low, high] = parameterInterval(p);
      return [{ label: names[i]!, value: p.value, low, high, paper: fit.paper[name] ?? null }];
    });
    return lines.length > 0 ? [{ name, lines }] : [];
  });
  if (panels.length === 0) return 'No law was fitted, so there are no exponents to show.';

  const isNarrow = width < kNarrow;
  const longest = Math.max(...names.map(textWidth));
  const labelWidth = Math.min(isNarrow ? width * 0.42 : kWidestLabel, longest + kLabelGap);
  const columns = isNarrow ? 1 : panels.length;
  const inner = (width - labelWidth) / columns;
  const height = names.length * kRow + 62;
  const selectedLabel = selected ? names[fits.indexOf(selected)] : undefined;
  const parts = panels.map(({ name, lines }, i) => {
    const column = i % columns;
    const showsY = column === 0;
    const svg = draw({
      ...plotStyle(theme),
      width: Math.floor(inner + (showsY ? labelWidth : 0)),
      height,
      marginLeft: showsY ? labelWidth : 22,
      marginRight: 14,
      marginTop: 30,
      marginBottom: 32,
      x: { label: null, nice: true, axis: null, domain: extent(lines) },
      y: { type: 'band', domain: names, padding: 0.1, label: null, axis: null },
      marks: [
        Plot.ruleX([0], { stroke: theme.muted }),
        Plot.gridX({ stroke: theme.rule, strokeOpacity: 1, ticks: 4 }),
        selectedLabel === undefined ? null : Plot.ruleY([selectedLabel], { stroke: theme.accent, strokeOpacity: 0.1, strokeWidth: kRow - 4 }),
        Plot.ruleY(lines.filter((l) => l.low !== null), { y: 'label', x1: 'low', x2: 'high', stroke: theme.accent, strokeWidth: 2.2, strokeOpacity: 0.75 }),
        Plot.tickX(lines.filter((l) => l.paper !== null), { x: 'paper', y: 'label', stroke: theme.categories[1]!, strokeWidth: 2.4, inset: 4 }),
        Plot.dot(lines, { x: 'value', y: 'label', fill: theme.accent, r: 4.2, stroke: theme.paper, strokeWidth: 1 }),
        Plot.axisX({ ticks: 4, stroke: theme.muted, fill: theme.muted, label: null, tickSize: 4 }),
        showsY ? Plot.axisY({ stroke: 'none', fill: theme.ink, label: null, tickSize: 0, tickFormat: (n: string) => shorten(n, labelWidth - kLabelGap + 1) }) : null,
        Plot.text([parameterName(name)], { frameAnchor: 'top-left', dy: -22, fontWeight: 600, fontSize: 14, fontStyle: 'italic' }),
        Plot.tip(lines, Plot.pointerY({
          x: 'value', y: 'label', fill: theme.paper, stroke: theme.muted, lineHeight: 1.25,
          title: (l: Line) => [l.label, `${parameterName(name)} ${significant(l.value)}`, `95%: ${range(l.low, l.high)}`,
            l.paper === null ? '' : `paper ${significant(l.paper, 4)}`].filter(Boolean).join('\n'),
        })),
      ],
    });
    return { svg, x: showsY ? 0 : Math.floor(labelWidth + column * inner), y: Math.floor(i / columns) * height };
  });
  const legend: LegendItem[] = [
    { text: 'fitted', mark: 'dot', color: theme.accent },
    { text: '95% interval', mark: 'line', color: theme.accent },
    ...(panels.some((p) => p.lines.some((l) => l.paper !== null))
      ? [{ text: 'paper', mark: 'tick', color: theme.categories[1]! } as LegendItem] : []),
  ];
  return {
    svg: compose(parts, { width, height: height * Math.ceil(panels.length / columns) }, theme, legend),
    description: panels
      .map(({ name, lines }) => `${name}: ${lines.map((l) => `${l.label} ${significant(l.value)}`).join(', ')}`)
      .join('. '),
  };
}

// Zero, every estimate, interval and paper's value: an interval that runs far out is cut rather
// than allowed to squeeze the others.
function extent(lines: readonly Line[]): [number, number] {
  const centres = lines.flatMap((l) => [l.value, ...(l.paper === null ? [] : [l.paper])]);
  const reach = 3 * Math.max(...centres.map(Math.abs), 1e-3);
  const ends = lines.flatMap((l) => [l.low, l.high]).filter((x): x is number => x !== null && Math.abs(x) <= reach);
  const low = Math.min(0, ...centres, ...ends);
  const high = Math.max(0, ...centres, ...ends);
  const pad = 0.05 * (high - low);
  return [low < 0 ? low - pad : low, high + pad];
}
