// Log axes: ticks, domains, and the strip below the axis for values that have no logarithm.
import { distinctNumbers } from '../data';

// Round numbers within [low, high], the densest of a few patterns that has at most `most` of them.
export function logTicks(low: number, high: number, most: number): number[] {
  const first = Math.floor(Math.log10(low));
  const last = Math.ceil(Math.log10(high));
  const within = (steps: readonly number[], stride = 1): number[] => {
    const ticks: number[] = [];
    for (let decade = Math.ceil(first / stride) * stride; decade <= last; decade += stride) {
      for (const step of steps) {
        const tick = Number(`${step}e${decade}`);
        if (tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push(tick);
      }
    }
    return ticks;
  };
  for (const steps of [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 5], [1, 3], [1]]) {
    const ticks = within(steps);
    if (ticks.length <= most && ticks.length >= 2) return ticks;
  }
  for (let stride = 2; stride <= last - first; ++stride) {
    const ticks = within([1], stride);
    if (ticks.length <= most && ticks.length > 0) return ticks;
  }
  return within([1, 2, 5]).slice(0, most);
}

// [min, max] widened by `pad` of its logarithmic length; a single value gets a factor of two.
export function logDomain(values: readonly number[], pad = 0.05): [number, number] {
  const usable = values.filter((v) => v > 0 && Number.isFinite(v));
  if (usable.length === 0) return [1, 10];
  const low = Math.log(Math.min(...usable));
  const high = Math.log(Math.max(...usable));
  const margin = high > low ? (high - low) * pad : Math.log(2);
  return [Math.exp(low - margin), Math.exp(high + margin)];
}

// `most` of the values, spread evenly over their ranks, ends included.
export function spread(values: readonly number[], most: number): number[] {
  const all = distinctNumbers(values);
  if (all.length <= most) return all;
  const picked = Array.from({ length: most }, (_, i) => all[Math.round((i * (all.length - 1)) / (most - 1))]!);
  return distinctNumbers(picked);
}

export function logSpace(low: number, high: number, n: number): number[] {
  const a = Math.log(low);
  const b = Math.log(high);
  return Array.from({ length: n }, (_, i) => Math.exp(a + ((b - a) * i) / (n - 1)));
}

// A log axis of measured QiD. Values that are not positive are drawn at `floor`, below the line
// `edge` that ends the axis proper; without such values there is no strip.
export interface FlooredAxis {
  domain: [number, number];
  edge: number;
  floor: number | null;
  ticks: number[];
}

const kSmallestShown = 1e-7;
const kMostDecadesBelowTop = 7;

export function flooredAxis(
  values: readonly number[], uppermost: readonly number[], mostTicks = 6,
): FlooredAxis {
  const positive = values.filter((v) => v > kSmallestShown);
  const tops = uppermost.filter((v) => v > 0 && Number.isFinite(v));
  const high = Math.max(...positive, ...tops, 1e-3) * 1.5;
  const lowest = positive.length > 0 ? Math.min(...positive) : high / 100;
  const low = Math.max(lowest / 1.4, high / 10 ** kMostDecadesBelowTop);
  const hasFloor = values.some((v) => v <= 0);
  const stripe = (high / low) ** 0.09;
  return {
    domain: [hasFloor ? low / stripe : low, high],
    edge: low,
    floor: hasFloor ? low / Math.sqrt(stripe) : null,
    ticks: logTicks(low, high, mostTicks),
  };
}
