// Predicted against measured QiD of one fit.
import * as Plot from '@observablehq/plot';
import { distinctNumbers, isNumber, type Fit, type Report, type Row } from '../data';
import { compose, draw, plotStyle, type Drawing, type LegendItem } from '../figure';
import { count, significant } from '../format';
import { fittedParams, qidLaw, standardErrorsOf95 } from '../law';
import { logColors, type Theme } from '../theme';
import { flooredAxis, logTicks } from './axes';
import { bitsText, measuredRows, type Selection } from './degradation';

interface Pair {
  row: Row;
  measured: number;
  predicted: number;
  isUsed: boolean;
}

// The rows of the fit, then the law's word on the other rows of the selection, so that what was
// left out of the fit (saturated, within noise, not positive) is seen as well.
function pairsOf(report: Report, selection: Selection, fit: Fit): Pair[] {
  const pairs = fit.points.map((p): Pair => {
    const row = report.rows[p.row]!;
    return { row, measured: row.qid ?? NaN, predicted: p.predicted, isUsed: true };
  });
  const used = new Set(fit.points.map((p) => p.row));
  const law = qidLaw(fit);
  if (law && used.size > 0) {
    for (const row of measuredRows(report, selection)) {
      if (used.has(row.index)) continue;
      pairs.push({ row, measured: row.qid, predicted: law(fittedParams(fit), row.N, row.D, row.bits), isUsed: false });
    }
  }
  return pairs.filter((p) => isNumber(p.measured) && isNumber(p.predicted) && p.predicted > 0);
}

const kWidest = 560;
const kLeft = 62;
const kFactor = 2;
export const kAspect = 0.86;

export function drawAgreement(report: Report, selection: Selection, width: number, theme: Theme): Drawing | string {
  const fit = selection.fit;
  if (!fit) return 'No law was fitted to these measurements.';
  const pairs = pairsOf(report, selection, fit);
  if (pairs.length === 0) return 'The fit came without predictions of its rows.';
  const size = Math.min(width, kWidest);
  const predictedRange = pairs.map((p) => p.predicted);
  const axis = flooredAxis(pairs.map((p) => p.measured), predictedRange);
  const low = Math.min(axis.edge, Math.min(...predictedRange) / 1.4);
  const high = axis.domain[1];
  const color = logColors(theme, pairs.map((p) => p.row.bits));
  const ticks = logTicks(low, high, Math.floor(size / 75));
  const halfBar = (p: Pair) => standardErrorsOf95 * (p.row.qid_se ?? 0);
  const shown = (p: Pair) => (p.measured > 0 ? Math.max(p.measured, axis.edge) : axis.floor!);
  const fillOf = (p: Pair) => color(p.row.bits);
  const diagonal = [low, high];
  const svg = draw({
    ...plotStyle(theme),
    width: size,
    height: kAspect * size,
    marginLeft: kLeft,
    marginRight: 14,
    marginTop: 26,
    marginBottom: 44,
    x: { type: 'log', domain: [axis.floor === null ? low : axis.domain[0] * (low / axis.edge), high], axis: null, label: null },
    y: { type: 'log', domain: [low, high], axis: null, label: null },
    color: { type: 'identity' },
    marks: [
      Plot.ruleX(ticks, { stroke: theme.rule }),
      Plot.ruleY(ticks, { stroke: theme.rule }),
      Plot.areaY(diagonal, { x: (v: number) => v, y1: (v: number) => v / kFactor, y2: (v: number) => v * kFactor, fill: theme.muted, fillOpacity: 0.09, clip: true }),
      Plot.line(diagonal, { x: (v: number) => v, y: (v: number) => v, stroke: theme.muted, clip: true }),
      axis.floor === null ? null : Plot.ruleX([axis.edge], { stroke: theme.muted, strokeDasharray: '1,3' }),
      Plot.ruleY(pairs.filter((p) => p.row.qid_se !== null && p.measured + halfBar(p) > axis.edge), {
        y: 'predicted', x1: (p: Pair) => Math.max(p.measured - halfBar(p), axis.domain[0]), x2: (p: Pair) => p.measured + halfBar(p),
        stroke: fillOf, strokeOpacity: 0.4, clip: true,
      }),
      Plot.dot(pairs.filter((p) => p.measured > 0 && p.isUsed), { x: shown, y: 'predicted', fill: fillOf, r: 3.6, stroke: theme.paper, strokeWidth: 0.8 }),
      Plot.dot(pairs.filter((p) => p.measured > 0 && !p.isUsed), { x: shown, y: 'predicted', stroke: fillOf, fill: theme.paper, r: 3, strokeWidth: 1.3 }),
      Plot.dot(pairs.filter((p) => p.measured <= 0), { x: shown, y: 'predicted', stroke: fillOf, fill: theme.paper, r: 3.2, strokeWidth: 1.3, symbol: 'triangle', rotate: -90 }),
      Plot.axisX(ticks, { text: (v: number) => significant(v, 1), stroke: theme.muted, fill: theme.muted, tickSize: 4, label: null }),
      Plot.axisY(ticks, { text: (v: number) => significant(v, 1), stroke: 'none', fill: theme.muted, tickPadding: 6, label: null }),
      axis.floor === null ? null : Plot.text(['≤ 0'], { x: axis.floor, y: low, dy: 14, fill: theme.muted }),
      Plot.text(['predicted QiD'], { frameAnchor: 'top-left', dy: -20, dx: -kLeft, fill: theme.muted }),
      Plot.text(['measured QiD'], { frameAnchor: 'bottom-right', dy: 38, fill: theme.muted }),
      Plot.tip(pairs, Plot.pointer({
        x: shown, y: 'predicted', fill: theme.paper, stroke: theme.muted, lineHeight: 1.25, maxRadius: 30,
        title: (p: Pair) => [p.row.checkpoint || p.row.run, `${p.row.method}, ${bitsText(p.row.bits)}`,
          `N ${count(p.row.N)}   D ${count(p.row.D)}`, `measured ${significant(p.measured)}`, `law ${significant(p.predicted)}`].join('\n'),
      })),
    ],
  });
  const legend: LegendItem[] = [
    ...distinctNumbers(pairs.map((p) => p.row.bits)).map((bits): LegendItem => ({ text: bitsText(bits), color: color(bits), mark: 'dot' })),
    ...(pairs.some((p) => !p.isUsed && p.measured > 0) ? [{ text: 'not used in the fit', mark: 'ring' } as LegendItem] : []),
    ...(axis.floor !== null ? [{ text: 'not positive', mark: 'below' } as LegendItem] : []),
    { text: `within a factor of ${kFactor}`, mark: 'band' },
  ];
  return {
    svg: compose([{ svg, x: 0, y: 0 }], { width: size, height: kAspect * size }, theme, legend),
    description: `${pairs.length} measurements of ${fit.name}; points on the diagonal are predicted exactly.`,
  };
}
