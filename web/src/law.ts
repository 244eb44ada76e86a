// The laws that the page evaluates, and what follows from them.
//
//   unified      QiD = k D^beta / (N^alpha P^gamma)            parameters ln k, beta, alpha, gamma
//   exponential  QiD = k D^beta / N^alpha * exp(-P / gamma)    the same parameters
//   per_bits     QiD = k D^beta / N^alpha at one P             ln k, beta, alpha
//   kaplan       L = ((Nc/N)^(alpha_N/alpha_D) + Dc/D)^alpha_D
//   chinchilla   L = E + A/N^alpha + B/D^beta
//
// QiD is the loss of the quantized model minus that of the original, in nats per token; N counts
// non-embedding parameters, D training tokens, P nominal bits. A positive constant may be given by
// its logarithm ("ln k") or itself ("k").
import type { Fit, Row } from './data';

export type QidLaw = (params: readonly number[], N: number, D: number, P: number) => number;
export type LossLaw = (params: readonly number[], N: number, D: number) => number;

export interface Interval {
  value: number;
  low: number | null;
  high: number | null;
}

const kIntervalMass = 0.95;
const kTwoSided95 = 1.959964;
export const standardErrorsOf95 = kTwoSided95;

type Getter = (params: readonly number[]) => number;

function plain(names: readonly string[], name: string): Getter | null {
  const index = names.indexOf(name);
  return index < 0 ? null : (params) => params[index]!;
}

// ln of a positive constant, whichever way the fit states it.
function logarithm(names: readonly string[], name: string): Getter | null {
  const logged = plain(names, `ln ${name}`);
  if (logged) return logged;
  const value = plain(names, name);
  return value && ((params) => Math.log(value(params)));
}

// The QiD law of a fit, or null where the page does not know the form.
export function qidLaw(fit: Fit): QidLaw | null {
  const names = fit.params.map((p) => p.name);
  const k = logarithm(names, 'k');
  const beta = plain(names, 'beta');
  const alpha = plain(names, 'alpha');
  const gamma = plain(names, 'gamma');
  if (!k || !beta || !alpha) return null;
  if (fit.form === 'unified' && gamma) {
    return (p, N, D, P) =>
      Math.exp(k(p) + beta(p) * Math.log(D) - alpha(p) * Math.log(N) - gamma(p) * Math.log(P));
  }
  if (fit.form === 'exponential' && gamma) {
    return (p, N, D, P) =>
      Math.exp(k(p) + beta(p) * Math.log(D) - alpha(p) * Math.log(N) - P / gamma(p));
  }
  if (fit.form === 'per_bits' && fit.bits !== null) {
    const bits = fit.bits;
    return (p, N, D, P) =>
      P === bits ? Math.exp(k(p) + beta(p) * Math.log(D) - alpha(p) * Math.log(N)) : NaN;
  }
  return null;
}

// The 16-bit loss law of a fit, or null where the page does not know the form.
export function lossLaw(fit: Fit): LossLaw | null {
  const names = fit.params.map((p) => p.name);
  if (fit.form === 'kaplan') {
    const Nc = logarithm(names, 'Nc');
    const Dc = logarithm(names, 'Dc');
    const alphaN = plain(names, 'alpha_N');
    const alphaD = plain(names, 'alpha_D');
    if (!Nc || !Dc || !alphaN || !alphaD) return null;
    return (p, N, D) => {
      const u = (alphaN(p) / alphaD(p)) * (Nc(p) - Math.log(N));
      const v = Dc(p) - Math.log(D);
      const top = Math.max(u, v);
      return Math.exp(alphaD(p) * (top + Math.log(Math.exp(u - top) + Math.exp(v - top))));
    };
  }
  if (fit.form === 'chinchilla') {
    const A = logarithm(names, 'A');
    const B = logarithm(names, 'B');
    const E = logarithm(names, 'E');
    const alpha = plain(names, 'alpha');
    const beta = plain(names, 'beta');
    if (!A || !B || !E || !alpha || !beta) return null;
    return (p, N, D) =>
      Math.exp(E(p)) +
      Math.exp(A(p) - alpha(p) * Math.log(N)) +
      Math.exp(B(p) - beta(p) * Math.log(D));
  }
  return null;
}

// Quantile by linear interpolation between order statistics (type 7); `sorted` is ascending.
export function quantile(sorted: readonly number[], probability: number): number {
  if (sorted.length === 0) return NaN;
  const position = (sorted.length - 1) * probability;
  const below = Math.floor(position);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below]! + (position - below) * (sorted[above]! - sorted[below]!);
}

// Value at the fitted parameters with the central 95 % of the draws. Fewer than `kFewestDraws`
// finite draws give no interval.
const kFewestDraws = 20;
export function withInterval(value: number, draws: readonly number[]): Interval {
  const sorted = draws.filter(Number.isFinite).sort((a, b) => a - b);
  if (sorted.length < kFewestDraws) return { value, low: null, high: null };
  const tail = (1 - kIntervalMass) / 2;
  return { value, low: quantile(sorted, tail), high: quantile(sorted, 1 - tail) };
}

export const fittedParams = (fit: Fit): number[] => fit.params.map((p) => p.value);

export function predictQid(fit: Fit, N: number, D: number, P: number): Interval | null {
  const law = qidLaw(fit);
  if (!law) return null;
  const value = law(fittedParams(fit), N, D, P);
  return withInterval(value, fit.draws.map((draw) => law(draw, N, D, P)));
}

export function predictLoss16(fit: Fit, N: number, D: number): Interval | null {
  const law = lossLaw(fit);
  if (!law) return null;
  return withInterval(law(fittedParams(fit), N, D), fit.draws.map((draw) => law(draw, N, D)));
}

// Loss of the quantized model: the sum of both laws. The two sets of draws are independent, so any
// pairing of them samples the sum.
export function predictLoss(qidFit: Fit, lossFit: Fit, N: number, D: number, P: number): Interval | null {
  const qid = qidLaw(qidFit);
  const loss = lossLaw(lossFit);
  if (!qid || !loss) return null;
  const value = loss(fittedParams(lossFit), N, D) + qid(fittedParams(qidFit), N, D, P);
  const lossDraws = lossFit.draws.length > 0 ? lossFit.draws : [fittedParams(lossFit)];
  const draws = qidFit.draws.map(
    (draw, i) => loss(lossDraws[i % lossDraws.length]!, N, D) + qid(draw, N, D, P),
  );
  return withInterval(value, draws);
}

// The QiD at which the quantized model is no better than a uniform guess: ln V - L16.
export function headroom(vocabSize: number | null, loss16: number | null): number | null {
  if (vocabSize === null || loss16 === null || vocabSize < 2) return null;
  return Math.log(vocabSize) - loss16;
}

const exponent = (fit: Fit, name: string): number =>
  fit.params.find((p) => p.name === name)?.value ?? NaN;

// Tokens at which the law reaches `target` QiD: the training level of (N, P). All forms have
// QiD proportional to D^beta. Null if beta is not positive or the result overflows.
export function tokensForQid(fit: Fit, target: number, N: number, P: number): number | null {
  const law = qidLaw(fit);
  const beta = exponent(fit, 'beta');
  if (!law || !(beta > 0) || !(target > 0)) return null;
  const tokens = (target / law(fittedParams(fit), N, 1, P)) ** (1 / beta);
  return Number.isFinite(tokens) && tokens > 0 ? tokens : null;
}

// The D in [low, high] that minimises L16 + QiD by golden section on ln D; beyond it further
// training makes the quantized model worse. Null if the minimum lies at an end of the range.
export function bestTokens(
  qidFit: Fit, lossFit: Fit, N: number, P: number, low: number, high: number,
): number | null {
  const qid = qidLaw(qidFit);
  const loss = lossLaw(lossFit);
  if (!qid || !loss || !(low > 0) || !(high > low)) return null;
  const qidParams = fittedParams(qidFit);
  const lossParams = fittedParams(lossFit);
  const total = (logD: number) => {
    const D = Math.exp(logD);
    return loss(lossParams, N, D) + qid(qidParams, N, D, P);
  };
  const golden = (Math.sqrt(5) - 1) / 2;
  const tolerance = 1e-6;
  const ends = [Math.log(low), Math.log(high)] as const;
  let [a, b]: [number, number] = [...ends];
  while (b - a > tolerance) {
    const left = b - golden * (b - a);
    const right = a + golden * (b - a);
    if (total(left) < total(right)) b = right;
    else a = left;
  }
  const best = (a + b) / 2;
  const margin = 1e-3;
  if (!Number.isFinite(total(best)) || best < ends[0] + margin || best > ends[1] - margin) return null;
  return Math.exp(best);
}

export function geometricMean(values: readonly number[]): number {
  return Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length);
}

// Where a prediction is least uncertain, and k is replaced by something with a meaning: geometric
// means of N and D at the nominal bits nearest to 3.
const kReferenceBits = 3;
export function referencePoint(rows: readonly Row[]): { N: number; D: number; P: number } | null {
  const usable = rows.filter((row) => row.N > 0 && row.D > 0 && row.bits > 0);
  if (usable.length === 0) return null;
  const P = usable.reduce(
    (best, row) =>
      Math.abs(row.bits - kReferenceBits) < Math.abs(best - kReferenceBits) ? row.bits : best,
    usable[0]!.bits,
  );
  return { N: geometricMean(usable.map((r) => r.N)), D: geometricMean(usable.map((r) => r.D)), P };
}

export type Sign = 'positive' | 'negative' | 'unresolved' | 'unknown';

// Whether the 95 % interval of a parameter excludes zero; falls back on the standard error.
export function judgeSign(p: { value: number; se: number | null; low: number | null; high: number | null }): Sign {
  const [low, high] = parameterInterval(p);
  if (low === null || high === null || !Number.isFinite(p.value)) return 'unknown';
  if (low > 0) return 'positive';
  if (high < 0) return 'negative';
  return 'unresolved';
}

export function parameterInterval(p: {
  value: number; se: number | null; low: number | null; high: number | null;
}): [number | null, number | null] {
  if (p.low !== null && p.high !== null) return [p.low, p.high];
  if (p.se !== null) return [p.value - kTwoSided95 * p.se, p.value + kTwoSided95 * p.se];
  return [null, null];
}
