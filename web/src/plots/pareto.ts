// Loss against the true stored size of the model, and the frontier no other model beats on both.
import * as Plot from '@observablehq/plot';
import { distinct, isNumber, isOriginal, type Report, type Row } from '../data';
import { compose, draw, plotStyle, type Drawing, type LegendItem } from '../figure';
import { bytes, count, fixed, significant } from '../format';
import { categoryColor, type Theme } from '../theme';
import { logDomain } from './axes';
import { bitsText } from './degradation';

export type Sized = Row & { model_bytes: number; loss: number };

// Rows in ascending size such that each has a lower loss than every smaller one.
export function paretoFrontier<T extends { model_bytes: number; loss: number }>(rows: readonly T[]): T[] {
  const ordered = [...rows].sort((a, b) => a.model_bytes - b.model_bytes || a.loss - b.loss);
  const frontier: T[] = [];
  for (const row of ordered) {
    if (frontier.length === 0 || row.loss < frontier.at(-1)!.loss) frontier.push(row);
  }
  return frontier;
}

export function sizedRows(report: Report, dataset: string | null, lastOnly: boolean): Sized[] {
  const rows = report.rows.flatMap((row): Sized[] => {
    const loss = row.loss ?? (isOriginal(row) ? row.loss16 : null);
    if (!isNumber(row.model_bytes) || row.model_bytes <= 0 || !isNumber(loss)) return [];
    return dataset === null || row.dataset === dataset ? [{ ...row, model_bytes: row.model_bytes, loss }] : [];
  });
  if (!lastOnly) return rows;
  const last = new Map<string, number>();
  for (const row of rows) last.set(row.run, Math.max(last.get(row.run) ?? 0, row.D));
  return rows.filter((row) => row.D === last.get(row.run));
}

function byteTicks(low: number, high: number, most: number): number[] {
  const first = Math.ceil(Math.log2(low));
  const last = Math.floor(Math.log2(high));
  const stride = Math.max(1, Math.ceil((last - first + 1) / most));
  const ticks: number[] = [];
  for (let power = Math.ceil(first / stride) * stride; power <= last; power += stride) ticks.push(2 ** power);
  return ticks;
}

const kHeight = 400;
const kCeiling = 1.25;
const kLeastSpan = 0.5;
const kOriginalName = '16-bit original';

export function drawPareto(report: Report, dataset: string | null, lastOnly: boolean, width: number, theme: Theme): Drawing | string {
  const rows = sizedRows(report, dataset, lastOnly);
  if (rows.length === 0) return 'No row has both a stored size and a loss.';
  const methodOf = (row: Row) => (isOriginal(row) ? kOriginalName : row.method);
  const methods = distinct(rows.filter((row) => !isOriginal(row)).map((row) => row.method)).sort();
  const colorOf = (row: Row) => (isOriginal(row) ? theme.muted : categoryColor(theme, methods.indexOf(row.method)));
  const frontier = paretoFrontier(rows);
  const onFrontier = new Set(frontier);
  const [low, high] = logDomain(rows.map((row) => row.model_bytes), 0.04);
  const losses = rows.map((row) => row.loss).sort((a, b) => a - b);
  // A few ruined models must not press all others against the axis; they are drawn at the top edge.
  const frontierTop = frontier[0]!.loss;
  const bottom = losses[0]!;
  const ceiling = Math.min(losses.at(-1)!, bottom + kCeiling * Math.max(frontierTop - bottom, 0.25 * Math.abs(bottom), 0.05));
  const cut = rows.filter((row) => row.loss > ceiling);
  const pad = 0.06 * Math.max(ceiling - bottom, kLeastSpan * Math.abs(bottom), 1e-3);
  const text = (row: Sized) => [row.checkpoint || row.run, `${methodOf(row)}${isOriginal(row) ? '' : `, ${bitsText(row.bits)}`}`,
    `N ${count(row.N)}   D ${count(row.D)}`, `${bytes(row.model_bytes)}${row.bpw === null ? '' : `, ${significant(row.bpw)} bits per weight`}`,
    `loss ${fixed(row.loss, 4)}`].join('\n');
  const svg = draw({
    ...plotStyle(theme),
    width,
    height: kHeight,
    marginLeft: 52,
    marginRight: 18,
    marginTop: 26,
    marginBottom: 44,
    x: { type: 'log', base: 2, domain: [low, high], axis: null, label: null },
    y: { domain: [bottom - pad, ceiling + pad], axis: null, label: null },
    color: { type: 'identity' },
    marks: [
      Plot.gridY({ stroke: theme.rule, strokeOpacity: 1, ticks: 6 }),
      Plot.dot(rows.filter((row) => !onFrontier.has(row) && row.loss <= ceiling), { x: 'model_bytes', y: 'loss', fill: colorOf, fillOpacity: 0.45, r: 3.2 }),
      Plot.dot(cut, { x: 'model_bytes', y: ceiling + pad * 0.6, stroke: colorOf, symbol: 'triangle', r: 2.6, strokeWidth: 1.2 }),
      Plot.line([...frontier, { ...frontier.at(-1)!, model_bytes: high }], { x: 'model_bytes', y: 'loss', curve: 'step-after', stroke: theme.ink, strokeOpacity: 0.75, strokeWidth: 1.4 }),
      Plot.dot(frontier, { x: 'model_bytes', y: 'loss', fill: colorOf, r: 5, stroke: theme.paper, strokeWidth: 1.4 }),
      Plot.text(frontier.filter((row) => !isOriginal(row)), { x: 'model_bytes', y: 'loss', text: (row: Sized) => count(row.bits), dy: 14, dx: -1, fontSize: 11, fill: theme.ink, stroke: theme.paper, strokeWidth: 4 }),
      Plot.axisX(byteTicks(low, high, Math.floor(width / 80)), { text: (v: number) => bytes(v), stroke: theme.muted, fill: theme.muted, tickSize: 4, label: null }),
      Plot.axisY({ ticks: 6, stroke: 'none', fill: theme.muted, label: null, tickPadding: 6 }),
      Plot.text(['loss, nats per token'], { frameAnchor: 'top-left', dy: -20, dx: -52, fill: theme.muted }),
      Plot.text(['stored size of the whole model'], { frameAnchor: 'bottom-right', dy: 38, fill: theme.muted }),
      Plot.tip(rows, Plot.pointer({
        x: 'model_bytes', y: (row: Sized) => Math.min(row.loss, ceiling + pad * 0.6), title: text, fill: theme.paper,
        stroke: theme.muted, lineHeight: 1.25, maxRadius: 30,
      })),
    ],
  });
  const legend: (LegendItem | 'break')[] = [
    ...methods.map((method, i): LegendItem => ({ text: method, color: categoryColor(theme, i), mark: 'dot' })),
    ...(rows.some(isOriginal) ? [{ text: kOriginalName, color: theme.muted, mark: 'dot' } as LegendItem] : []),
    { text: 'frontier, with nominal bits', color: theme.ink, mark: 'line' },
    ...(cut.length > 0 ? [{ text: 'loss above the plot', mark: 'above' } as LegendItem] : []),
  ];
  return {
    svg: compose([{ svg, x: 0, y: 0 }], { width, height: kHeight }, theme, legend),
    description: `${rows.length} models, ${frontier.length} on the frontier: ` +
      frontier.map((row) => `${bytes(row.model_bytes)} ${methodOf(row)} ${bitsText(row.bits)} loss ${fixed(row.loss, 3)}`).join('; '),
  };
}
