import { describe, expect, it } from 'vitest';
import type { Fit } from '../src/data';
import {
  bestTokens, headroom, judgeSign, lossLaw, predictLoss, predictQid, qidLaw, quantile, referencePoint, tokensForQid,
  withInterval,
} from '../src/law';

function fit(form: string, values: Record<string, number>, draws: number[][] = [], bits: number | null = null): Fit {
  return {
    name: form, form, method: null, dataset: null, objective: null, bits, paper: {}, n_rows: null, dropped: null, r2: null,
    rms_log_error: null, draws, points: [],
    params: Object.entries(values).map(([name, value]) => ({ name, value, se: null, low: null, high: null })),
  };
}

const values = (f: Fit) => f.params.map((p) => p.value);
// The published constants of the unified law (arXiv 2411.17691, Figure 6).
const paper = fit('unified', { 'ln k': Math.log(0.017), beta: 0.5251, alpha: 0.2261, gamma: 5.4967 });
// The published Kaplan constants of Pythia (the same paper, Figure 7).
const pythia = fit('kaplan', { Nc: 4.74e19, alpha_N: 0.045, Dc: 7.63e10, alpha_D: 0.399 });

describe('QiD laws', () => {
  it('give k D^beta / (N^alpha P^gamma)', () => {
    const expected = (0.017 * 1e12 ** 0.5251) / (7e9 ** 0.2261 * 3 ** 5.4967);
    expect(qidLaw(paper)!(values(paper), 7e9, 1e12, 3)).toBeCloseTo(expected, 12);
  });
  it('take k or ln k, in any order of parameters', () => {
    const other = fit('unified', { gamma: 5.4967, k: 0.017, alpha: 0.2261, beta: 0.5251 });
    expect(qidLaw(other)!(values(other), 1e8, 1e10, 2)).toBeCloseTo(qidLaw(paper)!(values(paper), 1e8, 1e10, 2), 12);
  });
  it('have the sensitivities of the paper: doubling D 1.44, doubling N 0.855, 3 to 4 bits 1/4.86', () => {
    const law = qidLaw(paper)!;
    const at = (N: number, D: number, P: number) => law(values(paper), N, D, P);
    expect(at(1e9, 2e11, 3) / at(1e9, 1e11, 3)).toBeCloseTo(1.44, 2);
    expect(at(2e9, 1e11, 3) / at(1e9, 1e11, 3)).toBeCloseTo(0.855, 3);
    expect(at(1e9, 1e11, 3) / at(1e9, 1e11, 4)).toBeCloseTo(4.86, 2);
  });
  it('decay by e per gamma bits in the exponential form', () => {
    const exponential = fit('exponential', { 'ln k': 1, beta: 0.5, alpha: 0.3, gamma: 0.6 });
    const law = qidLaw(exponential)!;
    expect(law(values(exponential), 1e6, 1e9, 3) / law(values(exponential), 1e6, 1e9, 3.6)).toBeCloseTo(Math.E, 10);
  });
  it('speak of one bit width only in the per-bit form', () => {
    const two = fit('per_bits', { 'ln k': -7.87, beta: 0.52387226, alpha: 0.22505612 }, [], 2);
    expect(qidLaw(two)!(values(two), 1e9, 1.1e9, 2)).toBeGreaterThan(0);
    expect(qidLaw(two)!(values(two), 1e9, 1.1e9, 3)).toBeNaN();
  });
  it('are null for forms the page does not know', () => {
    expect(qidLaw(fit('other', { 'ln k': 0, beta: 1, alpha: 1, gamma: 1 }))).toBeNull();
    expect(qidLaw(fit('unified', { 'ln k': 0, beta: 1, alpha: 1 }))).toBeNull();
    expect(lossLaw(paper)).toBeNull();
  });
});

describe('16-bit loss laws', () => {
  it('reproduce the Pythia losses of the Kaplan form', () => {
    const law = lossLaw(pythia)!;
    expect(law(values(pythia), 85056000, 1e9)).toBeCloseTo(6.215, 3);
    expect(law(values(pythia), 85056000, 1e10)).toBeCloseTo(3.82, 3);
    expect(law(values(pythia), 11327027200, 2.055e11)).toBeCloseTo(2.743, 3);
  });
  it('add E, A/N^alpha and B/D^beta in the Chinchilla form', () => {
    const hoffmann = fit('chinchilla', { E: 1.69, A: 406.4, alpha: 0.34, B: 410.7, beta: 0.28 });
    expect(lossLaw(hoffmann)!(values(hoffmann), 7e10, 1.4e12)).toBeCloseTo(1.69 + 406.4 / 7e10 ** 0.34 + 410.7 / 1.4e12 ** 0.28, 12);
  });
});

describe('intervals', () => {
  it('are type 7 quantiles of the draws', () => {
    expect(quantile([1, 2, 3, 4], 0.5)).toBe(2.5);
    expect(quantile([1, 2, 3, 4], 0.1)).toBeCloseTo(1.3, 12);
    const draws = Array.from({ length: 41 }, (_, i) => i);
    expect(withInterval(20, draws).low).toBeCloseTo(1, 12);
    expect(withInterval(20, draws).high).toBeCloseTo(39, 12);
  });
  it('are absent with few draws', () => {
    expect(withInterval(1, [1, 2, 3])).toEqual({ value: 1, low: null, high: null });
  });
  it('of a prediction come from the law at every draw', () => {
    const draws = Array.from({ length: 101 }, (_, i) => [Math.log(0.017) + (i - 50) / 100, 0.5251, 0.2261, 5.4967]);
    const law = predictQid({ ...paper, draws }, 1e9, 1e11, 3)!;
    expect(law.low! / law.value).toBeCloseTo(Math.exp(-0.475), 3);
    expect(law.high! / law.value).toBeCloseTo(Math.exp(0.475), 3);
  });
});

describe('what follows from the laws', () => {
  it('tokensForQid inverts the law', () => {
    const D = 3.3e11;
    const qid = qidLaw(paper)!(values(paper), 1e9, D, 3);
    expect(tokensForQid(paper, qid, 1e9, 3)! / D).toBeCloseTo(1, 10);
  });
  it('bestTokens is 4e11 for 70B at 4 bits with the published constants', () => {
    expect(bestTokens(paper, pythia, 70e9, 4, 1e9, 1e15)! / 4e11).toBeCloseTo(1, 1);
  });
  it('bestTokens is null when loss still falls at the end of the range', () => {
    expect(bestTokens(paper, pythia, 70e9, 8, 1e9, 1e10)).toBeNull();
  });
  it('the loss after quantization is the sum of both laws', () => {
    const sum = predictLoss(paper, pythia, 1e9, 1e11, 3)!;
    const qid = qidLaw(paper)!(values(paper), 1e9, 1e11, 3);
    expect(sum.value).toBeCloseTo(lossLaw(pythia)!(values(pythia), 1e9, 1e11) + qid, 12);
  });
  it('headroom is ln V - L16', () => {
    expect(headroom(256, 2)).toBeCloseTo(Math.log(256) - 2, 12);
    expect(headroom(null, 2)).toBeNull();
  });
  it('the reference point is the geometric mean at the bits nearest 3', () => {
    const row = (N: number, D: number, bits: number) => ({ N, D, bits }) as never;
    const at = referencePoint([row(1e6, 1e8, 2), row(1e8, 1e10, 4), row(1e7, 1e9, 3)])!;
    expect(at.N).toBeCloseTo(1e7, 2);
    expect(at.P).toBe(3);
    expect(referencePoint([])).toBeNull();
  });
  it('a sign is judged by whether the interval excludes zero', () => {
    expect(judgeSign({ value: 1, se: null, low: 0.1, high: 2 })).toBe('positive');
    expect(judgeSign({ value: -1, se: 0.1, low: null, high: null })).toBe('negative');
    expect(judgeSign({ value: 1, se: 1, low: null, high: null })).toBe('unresolved');
    expect(judgeSign({ value: 1, se: null, low: null, high: null })).toBe('unknown');
  });
});
