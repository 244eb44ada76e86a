// QiD against D, N and P: measurements with their errors, the fitted law with its bootstrap band,
// and the region where the quantized model is worse than a uniform guess.
import * as Plot from '@observablehq/plot';
import { distinctNumbers, isNumber, isOriginal, type Fit, type Report, type Row } from '../data';
import { compose, draw, plotStyle, type Drawing, type LegendItem } from '../figure';
import { count, significant } from '../format';
import { fittedParams, headroom, qidLaw, standardErrorsOf95, withInterval } from '../law';
import { logColors, type Theme } from '../theme';
import { flooredAxis, logDomain, logSpace, logTicks, spread, type FlooredAxis } from './axes';

export interface Selection {
  method: string | null;
  dataset: string | null;
  group_size: number | null;
  schedule: string | null;
  fit: Fit | null;
}

export type Measured = Row & { qid: number; index: number };

// Rows that bear a degradation and match the selection; null in the selection matches everything.
export function measuredRows(report: Report, selection: Omit<Selection, 'fit'>): Measured[] {
  const rows: Measured[] = [];
  report.rows.forEach((row, index) => {
    if (isOriginal(row) || !isNumber(row.qid)) return;
    if (!(row.N > 0) || !(row.D > 0) || !(row.bits > 0)) return;
    for (const key of ['method', 'dataset', 'group_size', 'schedule'] as const) {
      if (selection[key] !== null && row[key] !== selection[key]) return;
    }
    rows.push({ ...row, qid: row.qid, index });
  });
  return rows;
}

export type Variable = 'D' | 'N' | 'bits';

interface View {
  x: Variable;
  series: Variable;
  facet: Variable;
}

export const kViews: Record<Variable, View> = {
  D: { x: 'D', series: 'N', facet: 'bits' },
  N: { x: 'N', series: 'D', facet: 'bits' },
  bits: { x: 'bits', series: 'D', facet: 'N' },
};

const kAxisLabel: Record<Variable, string> = {
  D: 'training tokens D',
  N: 'parameters N',
  bits: 'nominal bits P',
};
const kMostCurves = 6;
const kMostFacets = 6;
const kCurvePoints = 48;
const kNarrowestFacet = 210;
const kFacetHeight = 270;
const kStackedFacetHeight = 220;
const kFacetGap = 6;
const kFlooredStep = 7;
const kLeft = 58;
const kInnerLeft = 14;

const show = (variable: Variable, value: number): string =>
  variable === 'bits' ? `${significant(value, 2).replace(/\.0$/, '')}` : count(value);
export const bitsText = (bits: number): string => `${Number(bits.toPrecision(3))} bit${bits === 1 ? '' : 's'}`;
const facetTitle = (variable: Variable, value: number): string =>
  variable === 'bits' ? bitsText(value) : `${variable} = ${count(value)}`;

interface CurvePoint {
  x: number;
  value: number;
  low: number | null;
  high: number | null;
  series: number;
}

function curves(fit: Fit, view: View, facet: number, series: readonly number[], domain: [number, number]): CurvePoint[] {
  const law = qidLaw(fit);
  if (!law) return [];
  const params = fittedParams(fit);
  return series.flatMap((value) =>
    logSpace(...domain, kCurvePoints).flatMap((x) => {
      const at = { D: NaN, N: NaN, bits: NaN, [view.x]: x, [view.series]: value, [view.facet]: facet };
      const fitted = law(params, at.N, at.D, at.bits);
      if (!Number.isFinite(fitted)) return [];
      const draws = fit.draws.map((draw) => law(draw, at.N, at.D, at.bits));
      return [{ x, series: value, ...withInterval(fitted, draws) }];
    }),
  );
}

interface RegionPoint {
  x: number;
  some: number;
  every: number;
}

// Measured headroom ln V - L16 at each x: its least (worse than random for some model here) and
// its greatest (for every model).
function randomRegion(report: Report, rows: readonly Measured[], x: Variable, domain: [number, number]): RegionPoint[] {
  const rooms = rows.flatMap((row) => {
    const room = headroom(report.vocab_size, row.loss16);
    return room !== null && room > 0 ? [{ x: row[x], room }] : [];
  });
  if (rooms.length === 0) return [];
  const groups = x === 'bits' ? [NaN] : distinctNumbers(rooms.map((r) => r.x));
  const points = groups.map((at) => {
    const here = rooms.filter((r) => x === 'bits' || r.x === at).map((r) => r.room);
    return { x: at, some: Math.min(...here), every: Math.max(...here) };
  });
  return [{ ...points[0]!, x: domain[0] }, ...(x === 'bits' ? [] : points), { ...points.at(-1)!, x: domain[1] }];
}

function rowTitle(row: Measured, predicted: number | undefined): string {
  const error = row.qid_se === null ? '' : ` ± ${significant(standardErrorsOf95 * row.qid_se, 2)}`;
  return [
    row.checkpoint || row.run,
    `${row.method}, ${bitsText(row.bits)}${row.group_size ? `, group ${row.group_size}` : ''}`,
    `N ${count(row.N)}   D ${count(row.D)}`,
    `QiD ${significant(row.qid)}${error}`,
    predicted === undefined ? '' : `law ${significant(predicted)}`,
  ].filter(Boolean).join('\n');
}

// Values that are not positive share one height: those that share x too stand side by side.
// Returns the first of every x, the second of every x, and so on.
function byPlaceInQueue(rows: readonly Measured[], x: Variable): Measured[][] {
  const queues: Measured[][] = [];
  const taken = new Map<number, number>();
  for (const row of rows) {
    const place = taken.get(row[x]) ?? 0;
    taken.set(row[x], place + 1);
    (queues[place] ??= []).push(row);
  }
  return queues;
}

interface Facet {
  rows: Measured[];
  title: string;
  curvePoints: CurvePoint[];
  region: RegionPoint[];
}

function facetPlot(
  facet: Facet, view: View, axis: FlooredAxis, xDomain: [number, number], bitTicks: number[],
  color: (value: number) => string, used: ReadonlyMap<number, number>, fitHasPoints: boolean,
  theme: Theme, size: { width: number; height: number }, showsY: boolean,
): SVGSVGElement {
  const left = showsY ? kLeft : kInnerLeft;
  const plotWidth = size.width - left - 10;
  const positive = facet.rows.filter((row) => row.qid > 0);
  const floored = facet.rows.filter((row) => row.qid <= 0);
  const at = (row: Measured) => Math.max(row.qid, axis.edge);
  const halfBar = (row: Measured) => standardErrorsOf95 * (row.qid_se ?? 0);
  const isUsed = (row: Measured) => !fitHasPoints || used.has(row.index);
  const stroke = (row: Measured) => color(row[view.series]);
  const top = axis.domain[1];
  const xTicks = view.x === 'bits' ? bitTicks : logTicks(...xDomain, Math.max(2, Math.floor(plotWidth / 48)));
  const withBars = facet.rows.filter((row) => row.qid_se !== null && row.qid + halfBar(row) > axis.edge);
  return draw({
    ...plotStyle(theme),
    width: size.width,
    height: size.height,
    marginLeft: left,
    marginRight: 10,
    marginTop: 30,
    marginBottom: 40,
    x: { type: 'log', domain: xDomain, label: null, axis: null },
    y: { type: 'log', domain: axis.domain, label: null, axis: null },
    color: { type: 'identity' },
    marks: [
      Plot.areaY(facet.region, { x: 'x', y1: 'some', y2: top, fill: theme.danger, fillOpacity: 0.06, clip: true }),
      Plot.areaY(facet.region, { x: 'x', y1: 'every', y2: top, fill: theme.danger, fillOpacity: 0.09, clip: true }),
      Plot.lineY(facet.region, { x: 'x', y: 'every', stroke: theme.danger, strokeOpacity: 0.6, strokeDasharray: '4,3', clip: true }),
      Plot.ruleY(axis.ticks, { stroke: theme.rule }),
      axis.floor === null ? null : Plot.ruleY([axis.edge], { stroke: theme.muted, strokeDasharray: '1,3' }),
      Plot.areaY(facet.curvePoints.filter((p) => p.low !== null), {
        x: 'x', y1: 'low', y2: 'high', z: 'series', fill: (p: CurvePoint) => color(p.series), fillOpacity: 0.13, clip: true,
      }),
      Plot.line(facet.curvePoints, {
        x: 'x', y: 'value', z: 'series', stroke: (p: CurvePoint) => color(p.series), strokeWidth: 1.6, clip: true,
      }),
      Plot.ruleX(withBars, {
        x: view.x,
        y1: (row: Measured) => Math.max(row.qid - halfBar(row), axis.domain[0]),
        y2: (row: Measured) => row.qid + halfBar(row),
        stroke, strokeOpacity: 0.55, strokeWidth: 1.1, clip: true,
      }),
      Plot.dot(positive.filter(isUsed), {
        x: view.x, y: at, fill: stroke, r: 3.4, stroke: theme.paper, strokeWidth: 0.8,
      }),
      Plot.dot(positive.filter((row) => !isUsed(row)), {
        x: view.x, y: at, fill: theme.paper, stroke, strokeWidth: 1.3, r: 3,
      }),
      ...byPlaceInQueue(floored, view.x).map((queue, place, all) => Plot.dot(queue, {
        x: view.x, y: () => axis.floor, dx: kFlooredStep * (place - (all.length - 1) / 2),
        stroke, fill: theme.paper, strokeWidth: 1.3, r: 3.2, symbol: 'triangle', rotate: 180,
      })),
      Plot.axisX(xTicks, {
        text: (x: number) => show(view.x, x), stroke: theme.muted, fill: theme.muted, tickSize: 4, label: null,
      }),
      showsY ? Plot.axisY(axis.ticks, { text: (y: number) => significant(y, 1), stroke: 'none', fill: theme.muted, label: null, tickPadding: 6 }) : null,
      showsY && axis.floor !== null ? Plot.text(['≤ 0'], { x: xDomain[0], y: axis.floor, textAnchor: 'end', dx: -9, fill: theme.muted }) : null,
      Plot.text([facet.title], { frameAnchor: 'top-left', dy: -22, fontWeight: 600, fill: theme.ink }),
      Plot.text([kAxisLabel[view.x]], { frameAnchor: 'bottom-right', dy: 35, fill: theme.muted }),
      Plot.tip(facet.rows, Plot.pointer({
        x: view.x, y: (row: Measured) => (row.qid > 0 ? at(row) : axis.floor),
        title: (row: Measured) => rowTitle(row, used.get(row.index)),
        fill: theme.paper, stroke: theme.muted, lineHeight: 1.25, maxRadius: 30,
      })),
    ],
  });
}

export function drawDegradation(
  report: Report, selection: Selection, x: Variable, onlyBits: number | null, width: number, theme: Theme,
): Drawing | string {
  const view = kViews[x];
  const rows = measuredRows(report, selection).filter((row) => x === 'bits' || onlyBits === null || row.bits === onlyBits);
  if (rows.length === 0) return 'No measurement of a quantized model matches the selection.';
  const fit = selection.fit;
  const facetValues = spread(rows.map((row) => row[view.facet]), kMostFacets);
  const shown = rows.filter((row) => facetValues.includes(row[view.facet]));
  const seriesValues = spread(shown.map((row) => row[view.series]), kMostCurves);
  const color = logColors(theme, shown.map((row) => row[view.series]));
  const xDomain = logDomain(shown.map((row) => row[view.x]), x === 'bits' ? 0.12 : 0.05);
  const rooms = shown.map((row) => headroom(report.vocab_size, row.loss16) ?? NaN);
  const bars = shown.map((row) => row.qid + standardErrorsOf95 * (row.qid_se ?? 0));
  const axis = flooredAxis(shown.map((row) => row.qid), [...rooms, ...bars]);
  const used = new Map(fit?.points.map((p) => [p.row, p.predicted]) ?? []);

  const columns = Math.max(1, Math.min(facetValues.length, Math.floor(width / kNarrowestFacet)));
  const inner = (width - kLeft + kInnerLeft) / columns;
  const facetHeight = columns === 1 && facetValues.length > 1 ? kStackedFacetHeight : kFacetHeight;
  const parts = facetValues.map((value, i) => {
    const column = i % columns;
    const facetRows = shown.filter((row) => row[view.facet] === value);
    const facet: Facet = {
      rows: facetRows,
      title: facetTitle(view.facet, value),
      curvePoints: fit ? curves(fit, view, value, seriesValues, xDomain) : [],
      region: randomRegion(report, facetRows, x, xDomain),
    };
    const size = { width: Math.floor(column === 0 ? inner + kLeft - kInnerLeft : inner), height: facetHeight };
    return {
      svg: facetPlot(facet, view, axis, xDomain, distinctNumbers(rows.map((r) => r.bits)), color, used,
        used.size > 0, theme, size, column === 0),
      x: column === 0 ? 0 : Math.floor(kLeft - kInnerLeft + column * inner),
      y: Math.floor(i / columns) * (facetHeight + kFacetGap),
    };
  });

  const hasCurves = fit !== null && qidLaw(fit) !== null;
  const seriesName = view.series === 'bits' ? 'bits' : view.series;
  const legend: (LegendItem | 'break')[] = [
    { text: seriesName },
    ...seriesValues.map((value): LegendItem => ({ text: show(view.series, value), color: color(value), mark: 'dot' })),
    'break',
    ...(hasCurves ? [{ text: 'law', mark: 'line' } as LegendItem] : []),
    ...(hasCurves && fit.draws.length > 0 ? [{ text: '95% band', mark: 'band' } as LegendItem] : []),
    ...(used.size > 0 && shown.some((row) => row.qid > 0 && !used.has(row.index))
      ? [{ text: 'not used in the fit', mark: 'ring' } as LegendItem] : []),
    ...(axis.floor !== null ? [{ text: 'not positive', mark: 'below' } as LegendItem] : []),
    ...(rooms.some((room) => room > 0) ? [{ text: 'worse than random', mark: 'band', color: theme.danger } as LegendItem] : []),
  ];
  const height = Math.ceil(facetValues.length / columns) * (facetHeight + kFacetGap);
  const positive = shown.filter((row) => row.qid > 0).length;
  return {
    svg: compose(parts, { width, height }, theme, legend),
    description:
      `${shown.length} measurements, ${shown.length - positive} of them not positive, in ${facetValues.length} panels ` +
      `(${facetValues.map((v) => facetTitle(view.facet, v)).join(', ')}), logarithmic axes.`,
  };
}
