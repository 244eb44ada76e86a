// Prediction: the reader sets N, D and P and sees what the fitted laws say, with a warning where
// they speak of something that nobody measured.
import * as Plot from '@observablehq/plot';
import type { Fit, Report } from './data';
import { freshId, h } from './dom';
import { compose, draw, figure, plotStyle, type Drawing, type LegendItem } from './figure';
import { count, fixed, parseQuantity, range, significant } from './format';
import { excessOverHull } from './hull';
import { bestTokens, headroom, predictLoss, predictLoss16, predictQid, referencePoint, tokensForQid } from './law';
import { measuredRows, type Selection } from './plots/degradation';
import { logSpace, logTicks } from './plots/axes';
import type { Theme } from './theme';

type Variable = 'N' | 'D' | 'P';
type Setting = Record<Variable, number>;

const kLabels: Record<Variable, string> = { N: 'Parameters N', D: 'Training tokens D', P: 'Nominal bits P' };
const kSteps = 1000;
const kReach = 100;
const kBitsRange: [number, number] = [1, 16];
const kTrainingLevel = 0.2;

export interface Panel {
  element: HTMLElement;
  update: (selection: Selection, lossFit: Fit | null) => void;
}

const written = (variable: Variable, value: number): string =>
  variable === 'P' ? String(Number(value.toPrecision(3))) : count(value, 4);

// What a hull excess (in ln N, ln D, P) means in words; empty inside the hull.
export function extrapolationText(excess: readonly number[] | null): string {
  if (!excess) return '';
  const [n, d, p] = excess as [number, number, number];
  const far = (name: string, x: number) =>
    Math.abs(x) < 0.005 ? '' : `${name} lies ${fixed(Math.abs(x), 2)} e-folds (a factor of ${significant(Math.exp(Math.abs(x)))}) ${x > 0 ? 'above' : 'below'}`;
  return [
    far('N', n), far('D', d),
    Math.abs(p) < 0.005 ? '' : `P lies ${fixed(Math.abs(p), 2)} bits ${p > 0 ? 'above' : 'below'}`,
  ].filter(Boolean).join(', ');
}

function hullPoints(report: Report, selection: Selection): number[][] {
  const fitted = selection.fit?.points.map((p) => report.rows[p.row]!) ?? [];
  const rows = fitted.length > 0 ? fitted : measuredRows(report, selection);
  return rows
    .filter((row) => row.N > 0 && row.D > 0 && row.bits > 0)
    .map((row) => [Math.log(row.N), Math.log(row.D), row.bits]);
}

export function buildPanel(report: Report): Panel {
  let selection: Selection = { method: null, dataset: null, group_size: null, schedule: null, fit: null };
  let lossFit: Fit | null = null;
  let hull: number[][] = [];
  const usable = report.rows.filter((row) => row.N > 0 && row.D > 0);
  const around = (values: number[]): [number, number] =>
    values.length > 0 ? [Math.min(...values) / kReach, Math.max(...values) * kReach] : [1e6, 1e12];
  const ranges: Record<Variable, [number, number]> = {
    N: around(usable.map((row) => row.N)),
    D: around(usable.map((row) => row.D)),
    P: kBitsRange,
  };
  const centre = referencePoint(report.rows.filter((row) => row.bits < 16));
  const rounded = (value: number, digits = 3) => Number(value.toPrecision(digits));
  const setting: Setting = {
    N: rounded(centre?.N ?? 1e9), D: rounded(centre?.D ?? 1e11), P: centre?.P ?? 3,
  };

  const sliders = {} as Record<Variable, HTMLInputElement>;
  const boxes = {} as Record<Variable, HTMLInputElement>;
  const toStep = (variable: Variable, value: number) => {
    const [low, high] = ranges[variable];
    return Math.round((kSteps * Math.log(value / low)) / Math.log(high / low));
  };
  const fromStep = (variable: Variable, step: number) => {
    const [low, high] = ranges[variable];
    const value = low * (high / low) ** (step / kSteps);
    return variable === 'P' ? Math.round(value * 10) / 10 : rounded(value);
  };
  const place = (variable: Variable) => {
    const step = Math.min(kSteps, Math.max(0, toStep(variable, setting[variable])));
    sliders[variable].value = String(step);
    sliders[variable].setAttribute('aria-valuetext', written(variable, setting[variable]));
  };

  const inputs = (['N', 'D', 'P'] as const).map((variable) => {
    const sliderId = freshId('slider');
    const boxId = freshId('box');
    const hintId = freshId('hint');
    const slider = h('input', { type: 'range', id: sliderId, min: 0, max: kSteps, step: 1, 'data-variable': variable, 'aria-label': `${kLabels[variable]}, logarithmic slider` });
    const box = h('input', { type: 'text', inputmode: 'decimal', id: boxId, value: written(variable, setting[variable]), autocomplete: 'off', spellcheck: 'false', 'data-variable': variable, 'aria-describedby': hintId });
    const hint = h('span', { class: 'hint', id: hintId });
    sliders[variable] = slider;
    boxes[variable] = box;
    slider.addEventListener('input', () => {
      setting[variable] = fromStep(variable, Number(slider.value));
      box.value = written(variable, setting[variable]);
      box.setAttribute('aria-invalid', 'false');
      hint.textContent = '';
      slider.setAttribute('aria-valuetext', box.value);
      render();
    });
    box.addEventListener('input', () => {
      const value = parseQuantity(box.value);
      const isValid = value !== null && (variable !== 'P' || value <= kBitsRange[1]);
      box.setAttribute('aria-invalid', String(!isValid));
      hint.textContent = isValid ? '' : variable === 'P' ? `a number up to ${kBitsRange[1]}` : 'a positive number: 7B, 350M, 1.2e9';
      if (!isValid) return;
      setting[variable] = value;
      place(variable);
      render();
    });
    return h('div', { class: 'dial' }, h('label', { for: boxId }, kLabels[variable]), box, slider, hint);
  });
  for (const variable of ['N', 'D', 'P'] as const) place(variable);

  const results = h('dl', { class: 'results' });
  const warnings = h('div', { class: 'warnings', role: 'status', 'aria-live': 'polite' });
  const chart = figure({
    id: 'plot-prediction',
    title: 'Loss against tokens at this N and P',
    draw: (width, theme) => drawPrediction(width, theme),
  });

  function drawPrediction(width: number, theme: Theme): Drawing | string {
    const { N, D, P } = setting;
    if (!selection.fit || !lossFit || !predictLoss(selection.fit, lossFit, N, D, P)) {
      return 'Needs a degradation law and a law of the 16-bit loss.';
    }
    const qidFit = selection.fit;
    const loss = lossFit;
    const domain: [number, number] = [Math.min(ranges.D[0], D), Math.max(ranges.D[1], D)];
    const measured = hull.map((p) => Math.exp(p[1]!));
    const points = logSpace(...domain, 72).map((tokens) => ({
      D: tokens,
      original: predictLoss16(loss, N, tokens)!.value,
      ...predictLoss(qidFit, loss, N, tokens, P)!,
    }));
    const ceiling = report.vocab_size === null ? null : Math.log(report.vocab_size);
    const here = predictLoss(qidFit, loss, N, D, P)!;
    const lowest = Math.min(...points.map((p) => p.original));
    const natural = Math.max(...points.map((p) => p.original), here.value);
    const top = ceiling === null ? natural * 1.3 : Math.max(ceiling * 1.08, Math.min(natural, ceiling * 1.3));
    const best = bestTokens(qidFit, loss, N, P, ...domain);
    const bestLoss = best === null ? null : predictLoss(qidFit, loss, N, best, P)!.value;
    const height = 280;
    const svg = draw({
      ...plotStyle(theme),
      width,
      height,
      marginLeft: 40, marginRight: 14, marginTop: 26, marginBottom: 42,
      x: { type: 'log', domain, axis: null, label: null },
      y: { domain: [Math.max(0, lowest * 0.92), top], axis: null, label: null },
      marks: [
        Plot.gridY({ stroke: theme.rule, strokeOpacity: 1, ticks: 5 }),
        measured.length > 0 ? Plot.rect([0], { x1: Math.min(...measured), x2: Math.max(...measured), fill: theme.muted, fillOpacity: 0.08 }) : null,
        ceiling === null ? null : Plot.rect([0], { y1: ceiling, y2: top, fill: theme.danger, fillOpacity: 0.1, clip: true }),
        Plot.areaY(points.filter((p) => p.low !== null), { x: 'D', y1: 'low', y2: 'high', fill: theme.accent, fillOpacity: 0.16, clip: true }),
        Plot.line(points, { x: 'D', y: 'original', stroke: theme.muted, strokeWidth: 1.6, strokeDasharray: '4,3', clip: true }),
        Plot.line(points, { x: 'D', y: 'value', stroke: theme.accent, strokeWidth: 2, clip: true }),
        Plot.ruleX([D], { stroke: theme.ink, strokeOpacity: 0.35 }),
        here.value <= top ? Plot.dot([here.value], { x: D, y: here.value, r: 4.5, fill: theme.accent, stroke: theme.paper, strokeWidth: 1.4 }) : null,
        best === null || bestLoss === null || bestLoss > top ? null
          : Plot.dot([best], { x: best, y: bestLoss, r: 4.5, fill: theme.paper, stroke: theme.accent, strokeWidth: 1.6 }),
        Plot.axisX(logTicks(...domain, Math.floor(width / 62)), { text: (v: number) => count(v), stroke: theme.muted, fill: theme.muted, tickSize: 4, label: null }),
        Plot.axisY({ ticks: 5, stroke: 'none', fill: theme.muted, label: null, tickPadding: 4 }),
        Plot.text(['loss, nats per token'], { frameAnchor: 'top-left', dy: -20, dx: -40, fill: theme.muted }),
        Plot.text(['training tokens D'], { frameAnchor: 'bottom-right', dy: 36, fill: theme.muted }),
      ],
    });
    const legend: LegendItem[] = [
      { text: 'quantized', mark: 'line', color: theme.accent },
      { text: '16-bit', mark: 'dash' },
      ...(best !== null ? [{ text: 'lowest', mark: 'ring', color: theme.accent } as LegendItem] : []),
      ...(measured.length > 0 ? [{ text: 'measured D', mark: 'band' } as LegendItem] : []),
      ...(ceiling !== null ? [{ text: 'worse than random', mark: 'band', color: theme.danger } as LegendItem] : []),
    ];
    return {
      svg: compose([{ svg, x: 0, y: 0 }], { width, height }, theme, legend),
      description: `At N ${count(N)} and P ${written('P', P)} the predicted loss is ${fixed(here.value, 3)}.`,
    };
  }

  const line = (key: string, label: string, value: string, note: string, raw: number | null, isMain = false) =>
    h('div', { class: isMain ? 'result main' : 'result', 'data-result': key, 'data-value': raw },
      h('dt', {}, label), h('dd', {}, h('strong', {}, value), note ? h('span', {}, note) : null));

  function render() {
    const { N, D, P } = setting;
    const fit = selection.fit;
    const qid = fit ? predictQid(fit, N, D, P) : null;
    chart.redraw();
    if (!fit || !qid) {
      results.replaceChildren();
      warnings.replaceChildren(h('p', { class: 'empty' },
        fit ? `The page cannot evaluate the form "${fit.form}".` : 'There is no fitted law to predict with.'));
      return;
    }
    const loss16 = lossFit ? predictLoss16(lossFit, N, D) : null;
    const loss = lossFit ? predictLoss(fit, lossFit, N, D, P) : null;
    const room = headroom(report.vocab_size, loss16?.value ?? null);
    const isRandom = room !== null && qid.value > room;
    const tokens = tokensForQid(fit, kTrainingLevel, N, P);
    const best = lossFit ? bestTokens(fit, lossFit, N, P, ...ranges.D) : null;
    const interval = (low: number | null, high: number | null, digits = 3) => low === null ? '' : `95%: ${range(low, high, digits)}`;
    const capped = loss && report.vocab_size !== null ? Math.min(loss.value, Math.log(report.vocab_size)) : loss?.value;
    results.replaceChildren(
      line('qid', 'QiD', significant(qid.value), interval(qid.low, qid.high), qid.value, true),
      ...(loss && loss16 ? [
        line('loss', 'Loss after quantization', `${isRandom ? '≥ ' : ''}${significant(capped, 4)}`, isRandom ? 'no better than a uniform guess' : interval(loss.low, loss.high, 4), loss.value),
        line('loss16', 'Loss before', significant(loss16.value, 4), interval(loss16.low, loss16.high, 4), loss16.value),
        line('perplexity', 'Perplexity after', significant(Math.exp(capped!), 4), `before ${significant(Math.exp(loss16.value), 4)}`, Math.exp(capped!)),
      ] : []),
      ...(tokens !== null ? [line('level', `Tokens until QiD is ${kTrainingLevel}`, count(tokens), 'at this N and P', tokens)] : []),
      ...(best !== null ? [line('best', 'Tokens of lowest loss', count(best), 'more would hurt the quantized model', best)] : []),
    );
    const excess = extrapolationText(excessOverHull(hull, [Math.log(N), Math.log(D), P]));
    warnings.replaceChildren(
      ...(Number.isFinite(qid.value) ? [] : [h('p', { class: 'warning' }, `This law speaks of ${fit.bits} bits only.`)]),
      ...(isRandom ? [h('p', { class: 'warning bad' }, h('b', {}, 'Worse than random. '), `QiD exceeds ln V − L16 = ${significant(room!)}.`)] : []),
      ...(excess ? [h('p', { class: 'warning', 'data-warning': 'extrapolation' }, h('b', {}, 'EXTRAPOLATION. '), `Outside the hull of the fitted data: ${excess} the nearest point of it.`)] : []),
      ...(lossFit ? [] : [h('p', { class: 'hint' }, 'No law of the 16-bit loss was fitted, so only QiD is predicted.')]),
    );
  }

  return {
    element: h('div', { class: 'panel', id: 'prediction' },
      h('div', { class: 'dials' }, ...inputs, warnings),
      h('div', {}, results, chart.element)),
    update: (next, loss) => {
      selection = next;
      lossFit = loss;
      hull = hullPoints(report, selection);
      if (next.fit?.bits) {
        setting.P = next.fit.bits;
        boxes.P.value = written('P', setting.P);
        place('P');
      }
      render();
    },
  };
}
