// Loss of the checkpoints before quantization, with the fitted 16-bit law.
import * as Plot from '@observablehq/plot';
import { isNumber, type Fit, type Report } from '../data';
import { compose, draw, plotStyle, type Drawing, type LegendItem } from '../figure';
import { count, fixed } from '../format';
import { predictLoss16 } from '../law';
import { logColors, type Theme } from '../theme';
import { kAspect } from './agreement';
import { logDomain, logSpace, logTicks, spread } from './axes';

interface Original {
  checkpoint: string;
  N: number;
  D: number;
  loss16: number;
}

// Every checkpoint once, however many quantized models were made of it.
export function originals(report: Report, dataset: string | null): Original[] {
  const seen = new Map<string, Original>();
  for (const { checkpoint, run, dataset: rowDataset, N, D, loss16 } of report.rows) {
    if (!isNumber(loss16) || !(N > 0) || !(D > 0) || (dataset !== null && rowDataset !== dataset)) continue;
    seen.set(JSON.stringify([checkpoint, run, rowDataset, D]), { checkpoint: checkpoint || run, N, D, loss16 });
  }
  return [...seen.values()];
}

const kTallest = 480;
const kCurvePoints = 48;
const kMostCurves = 7;

export function drawLoss(report: Report, fit: Fit | null, dataset: string | null, width: number, theme: Theme): Drawing | string {
  const points = originals(report, dataset);
  if (points.length === 0) return 'No row has a loss of the model before quantization.';
  const domain = logDomain(points.map((p) => p.D));
  const sizes = spread(points.map((p) => p.N), kMostCurves);
  const color = logColors(theme, points.map((p) => p.N));
  const curve = fit
    ? sizes.flatMap((N) => logSpace(...domain, kCurvePoints).flatMap((D) => {
        const at = predictLoss16(fit, N, D);
        return at && Number.isFinite(at.value) ? [{ N, D, ...at }] : [];
      }))
    : [];
  const height = Math.min(kTallest, kAspect * width);
  const svg = draw({
    ...plotStyle(theme),
    width,
    height,
    marginLeft: 52,
    marginRight: 18,
    marginTop: 26,
    marginBottom: 44,
    x: { type: 'log', domain, axis: null, label: null },
    y: { nice: true, axis: null, label: null, domain: spanOf(points.map((p) => p.loss16)) },
    color: { type: 'identity' },
    marks: [
      Plot.gridY({ stroke: theme.rule, strokeOpacity: 1, ticks: 6 }),
      Plot.areaY(curve.filter((p) => p.low !== null), { x: 'D', y1: 'low', y2: 'high', z: 'N', fill: (p: { N: number }) => color(p.N), fillOpacity: 0.13, clip: true }),
      Plot.line(curve, { x: 'D', y: 'value', z: 'N', stroke: (p: { N: number }) => color(p.N), strokeWidth: 1.6, clip: true }),
      Plot.dot(points, { x: 'D', y: 'loss16', fill: (p: Original) => color(p.N), r: 3.4, stroke: theme.paper, strokeWidth: 0.8 }),
      Plot.axisX(logTicks(...domain, Math.floor(width / 60)), { text: (v: number) => count(v), stroke: theme.muted, fill: theme.muted, tickSize: 4, label: null }),
      Plot.axisY({ ticks: 6, stroke: 'none', fill: theme.muted, label: null, tickPadding: 6 }),
      Plot.text(['loss, nats per token'], { frameAnchor: 'top-left', dy: -20, dx: -52, fill: theme.muted }),
      Plot.text(['training tokens D'], { frameAnchor: 'bottom-right', dy: 38, fill: theme.muted }),
      Plot.tip(points, Plot.pointer({
        x: 'D', y: 'loss16', fill: theme.paper, stroke: theme.muted, lineHeight: 1.25, maxRadius: 30,
        title: (p: Original) => `${p.checkpoint}\nN ${count(p.N)}   D ${count(p.D)}\nloss ${fixed(p.loss16, 4)}`,
      })),
    ],
  });
  const legend: LegendItem[] = [
    { text: 'N' },
    ...sizes.map((N): LegendItem => ({ text: count(N), color: color(N), mark: 'dot' })),
    ...(curve.length > 0 ? [{ text: fit!.name, mark: 'line' } as LegendItem] : []),
  ];
  return {
    svg: compose([{ svg, x: 0, y: 0 }], { width, height }, theme, legend),
    description: `${points.length} checkpoints of ${sizes.length} sizes.`,
  };
}

function spanOf(values: readonly number[]): [number, number] {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const pad = 0.06 * (high - low) || 0.1;
  return [low - pad, high + pad];
}
