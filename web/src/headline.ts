// The answer first: do the exponents have the signs of the paper, and how large are they?
import type { Fit, Parameter, Report } from './data';
import { h } from './dom';
import { count, fixed, parameterName, range, significant } from './format';
import { judgeSign, parameterInterval, predictQid, referencePoint, type Sign } from './law';
import { bitsText, measuredRows, type Selection } from './plots/degradation';
import { kExponents } from './plots/exponents';

const kMeaning: Record<string, { what: string; effect: (fit: Fit, value: number) => string }> = {
  beta: { what: 'tokens', effect: (_, v) => `doubling D multiplies QiD by ${significant(2 ** v)}` },
  alpha: { what: 'parameters', effect: (_, v) => `doubling N multiplies QiD by ${significant(2 ** -v)}` },
  gamma: {
    what: 'bits',
    effect: (fit, v) =>
      fit.form === 'exponential'
        ? `one more bit multiplies QiD by ${significant(Math.exp(-1 / v))}`
        : `from 3 to 4 bits QiD is multiplied by ${significant((4 / 3) ** -v)}`,
  },
};

const kVerdict: Record<Sign, { text: string; kind: string }> = {
  positive: { text: 'sign as in the paper', kind: 'good' },
  negative: { text: 'opposite sign', kind: 'bad' },
  unresolved: { text: 'sign not resolved', kind: 'open' },
  unknown: { text: 'no interval', kind: 'open' },
};

function besidePaper(p: Parameter, paper: number | undefined): string {
  if (paper === undefined) return 'no value in the paper';
  const [low, high] = parameterInterval(p);
  const value = `paper ${significant(paper, 4)}`;
  if (low === null || high === null) return value;
  if (paper < low) return `${value}, below the interval`;
  if (paper > high) return `${value}, above the interval`;
  return `${value}, inside the interval`;
}

function exponentCard(fit: Fit, p: Parameter): HTMLElement {
  const meaning = kMeaning[p.name]!;
  const verdict = kVerdict[judgeSign(p)];
  const [low, high] = parameterInterval(p);
  return h('div', { class: 'card', 'data-parameter': p.name },
    h('div', { class: 'card-name' }, h('i', {}, parameterName(p.name)), ` ${meaning.what}`),
    h('div', { class: 'card-value' }, significant(p.value)),
    h('div', { class: 'card-range' }, low === null ? 'no interval' : `95%: ${range(low, high)}`),
    h('div', { class: `verdict ${verdict.kind}` }, verdict.text),
    h('div', { class: 'card-note' }, besidePaper(p, fit.paper[p.name])),
    h('div', { class: 'card-note' }, meaning.effect(fit, p.value)),
  );
}

// k belongs to one token, one parameter and one bit, and means nothing alone; the law's value in
// the middle of the data stands in its place.
function referenceCard(report: Report, selection: Selection, fit: Fit): HTMLElement | null {
  const used = fit.points.map((p) => report.rows[p.row]!);
  const at = referencePoint(used.length > 0 ? used : measuredRows(report, selection));
  const P = fit.bits ?? at?.P;
  const qid = at && P !== undefined ? predictQid(fit, at.N, at.D, P) : null;
  if (!at || P === undefined || !qid || !Number.isFinite(qid.value)) return null;
  return h('div', { class: 'card' },
    h('div', { class: 'card-name' }, 'QiD at the centre'),
    h('div', { class: 'card-value' }, significant(qid.value)),
    h('div', { class: 'card-range' }, qid.low === null ? 'no interval' : `95%: ${range(qid.low, qid.high)}`),
    h('div', { class: 'card-note' }, `N ${count(at.N)}, D ${count(at.D)}, ${bitsText(P)}`),
    h('div', { class: 'card-note' }, 'nats per token; stands in for k, which alone means nothing'),
  );
}

function sentence(exponents: readonly Parameter[]): string {
  const signs = exponents.map((p) => judgeSign(p));
  const names = exponents.map((p) => parameterName(p.name));
  const list = (chosen: string[]) => chosen.length > 1 ? `${chosen.slice(0, -1).join(', ')} and ${chosen.at(-1)}` : chosen[0]!;
  const of = (sign: Sign) => names.filter((_, i) => signs[i] === sign);
  if (signs.every((sign) => sign === 'positive')) {
    const claims = exponents.map((p) => ({
      beta: 'grows with training tokens', alpha: 'shrinks with model size', gamma: 'shrinks with bits',
    })[p.name]!);
    return `The loss added by quantization ${list(claims)}; ${exponents.length > 1 ? 'every interval excludes' : 'the interval excludes'} zero.`;
  }
  return [
    of('positive').length ? `${list(of('positive'))} ${of('positive').length > 1 ? 'have' : 'has'} the sign of the paper.` : '',
    of('negative').length ? `${list(of('negative'))} ${of('negative').length > 1 ? 'have' : 'has'} the opposite sign.` : '',
    of('unresolved').length ? `The sign of ${list(of('unresolved'))} is not resolved: the interval holds zero.` : '',
    of('unknown').length ? `${list(of('unknown'))} came without an interval.` : '',
  ].filter(Boolean).join(' ');
}

function quality(fit: Fit): string {
  return [
    fit.n_rows === null ? '' : `${fit.n_rows} rows`,
    fit.dropped === null ? '' : `${fit.dropped} left out`,
    fit.r2 === null ? '' : `R² ${fixed(fit.r2, 3)}`,
    fit.rms_log_error === null ? '' : `rms log error ${fixed(fit.rms_log_error, 3)}`,
    fit.objective === null ? '' : `objective ${fit.objective}`,
    fit.draws.length === 0 ? 'no bootstrap draws' : `${fit.draws.length} bootstrap draws`,
  ].filter(Boolean).join(' · ');
}

export const kFormula: Record<string, string> = {
  unified: 'QiD = k · D^β / (N^α · P^γ)',
  exponential: 'QiD = k · D^β / N^α · exp(−P / γ)',
  per_bits: 'QiD = k · D^β / N^α',
  kaplan: 'L = [ (Nc / N)^(α_N / α_D) + Dc / D ]^α_D',
  chinchilla: 'L = E + A / N^α + B / D^β',
};

// "D^β / (N^α · P^γ)" with raised and lowered letters.
export function formula(text: string): HTMLElement {
  const parts = text.split(/(\^\([^)]*\)|\^α_D|\^[αβγ]|α_[ND]|[ND]c)/);
  return h('span', { class: 'formula' }, ...parts.map((part) => {
    if (part.startsWith('^')) return h('sup', {}, part.slice(1).replace(/^\(|\)$/g, '').replaceAll('_', ''));
    if (/^(α_[ND]|[ND]c)$/.test(part)) return h('span', {}, part[0]!, h('sub', {}, part.at(-1)!));
    return part;
  }));
}

export function buildHeadline(report: Report, selection: Selection): HTMLElement {
  const fit = selection.fit;
  const block = h('div', { id: 'headline' });
  if (!fit) {
    block.append(h('p', { class: 'empty' }, 'No law was fitted to these measurements.'));
    return block;
  }
  const exponents = kExponents
    .map((name) => fit.params.find((p) => p.name === name))
    .filter((p): p is Parameter => p !== undefined && Number.isFinite(p.value));
  if (exponents.length > 0) block.append(h('p', { class: 'lead' }, sentence(exponents)));
  block.append(h('p', { class: 'law-line' },
    kFormula[fit.form] ? formula(kFormula[fit.form]!) : `form ${fit.form}`,
    h('span', { class: 'quality' }, quality(fit))));
  block.append(h('div', { class: 'cards' },
    ...exponents.map((p) => exponentCard(fit, p)), referenceCard(report, selection, fit)));
  return block;
}
