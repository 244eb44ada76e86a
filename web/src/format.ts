// Numbers as the page prints and reads them.

const kMinus = '\u2212';
const kMissing = '\u2013';
const kSuffixes: [number, string][] = [[1e15, 'Q'], [1e12, 'T'], [1e9, 'B'], [1e6, 'M'], [1e3, 'k']];
const kBinary: [number, string][] = [[2 ** 40, 'TiB'], [2 ** 30, 'GiB'], [2 ** 20, 'MiB'], [2 ** 10, 'KiB']];

const sign = (text: string): string => text.replace(/^-/, kMinus).replace(/e-/, `e${kMinus}`).replace('e+', 'e');

// Fixed notation with so many significant digits, exponential where that would be long.
export function significant(value: number | null | undefined, digits = 3): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return kMissing;
  const magnitude = Math.abs(value);
  if (magnitude !== 0 && (magnitude < 1e-4 || magnitude >= 1e6)) return sign(value.toExponential(digits - 1));
  return sign(Number(value.toPrecision(digits)).toFixed(
    Math.max(0, digits - 1 - Math.floor(magnitude === 0 ? 0 : Math.log10(magnitude))),
  ));
}

export function fixed(value: number | null | undefined, decimals: number): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return kMissing;
  return sign(value.toFixed(decimals));
}

// 85056000 -> "85.1M"
export function count(value: number | null | undefined, digits = 3): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return kMissing;
  for (const [unit, suffix] of kSuffixes) {
    // Rounding may carry into the next unit: 999950 is "1M", not "1000k".
    if (Math.abs(Number(value.toPrecision(digits))) >= unit) {
      const scaled = value / unit;
      if (scaled >= 1e6) return sign(value.toExponential(digits - 1));
      return sign(String(Number(scaled.toPrecision(digits)))) + suffix;
    }
  }
  return sign(String(Number(value.toPrecision(digits))));
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return kMissing;
  for (const [unit, suffix] of kBinary) {
    if (Math.abs(value) >= unit) return `${Number((value / unit).toPrecision(3))} ${suffix}`;
  }
  return `${value} B`;
}

export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return kMissing;
  if (seconds < 120) return `${Number(seconds.toPrecision(3))} s`;
  if (seconds < 7200) return `${(seconds / 60).toFixed(1)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export function range(low: number | null, high: number | null, digits = 3): string {
  if (low === null || high === null) return 'no interval';
  return `${significant(low, digits)} to ${significant(high, digits)}`;
}

// "7B", "1.4e9", "300 M", "2,097,152" -> number; null if it is none or not positive.
export function parseQuantity(text: string): number | null {
  const match = /^\s*([0-9][0-9,_ ]*\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?\s*([kmbgtq]?)\s*$/i.exec(text);
  if (!match) return null;
  const units: Record<string, number> = { '': 1, k: 1e3, m: 1e6, b: 1e9, g: 1e9, t: 1e12, q: 1e15 };
  const value = Number(match[1]!.replace(/[,_ ]/g, '') + (match[2] ?? '')) * units[match[3]!.toLowerCase()]!;
  return Number.isFinite(value) && value > 0 ? value : null;
}

export const kGreek: Record<string, string> = {
  alpha: 'α', beta: 'β', gamma: 'γ', alpha_N: 'α_N', alpha_D: 'α_D',
};
export const parameterName = (name: string): string => kGreek[name] ?? name;
