// Colours of both themes. Plots get them as literal values, so that a saved SVG keeps them.

export interface Theme {
  name: 'light' | 'dark';
  paper: string;
  ink: string;
  muted: string;
  rule: string;
  accent: string;
  danger: string;
  ramp: readonly string[];
  categories: readonly string[];
}

export const kThemes: Record<'light' | 'dark', Theme> = {
  light: {
    name: 'light',
    paper: '#ffffff',
    ink: '#1a1d24',
    muted: '#5c6370',
    rule: '#dfe2e8',
    accent: '#2456c7',
    danger: '#b3261e',
    ramp: ['#35207e', '#2a5fae', '#158487', '#3c8f3f', '#97800a'],
    categories: ['#2456c7', '#c2501a', '#178066', '#9a3aa8', '#8a6d00', '#c22b5e', '#4a5568'],
  },
  dark: {
    name: 'dark',
    paper: '#171a21',
    ink: '#e8eaf0',
    muted: '#9ea6b5',
    rule: '#31363f',
    accent: '#8ab0ff',
    danger: '#ff8a80',
    ramp: ['#a48bff', '#6aa6ff', '#41c7c2', '#86d46a', '#f2d24a'],
    categories: ['#8ab0ff', '#ff9e66', '#55cfae', '#d99aeb', '#e0c14c', '#ff8fb0', '#aab3c2'],
  },
};

const kStorageKey = 'fewbit-report-theme';

// A page opened from a disk may be refused storage; the choice then lasts as long as the page.
function stored(): string | null {
  try {
    return localStorage.getItem(kStorageKey);
  } catch {
    return null;
  }
}

export function currentTheme(): Theme {
  const chosen = document.documentElement.dataset.theme ?? stored();
  if (chosen === 'light' || chosen === 'dark') return kThemes[chosen];
  return matchMedia('(prefers-color-scheme: dark)').matches ? kThemes.dark : kThemes.light;
}

// Applies the stored choice and follows the system as long as the reader has not chosen.
export function watchTheme(onChange: () => void): void {
  const chosen = stored();
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', onChange);
}

export function toggleTheme(): void {
  const next = currentTheme().name === 'dark' ? 'light' : 'dark';
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem(kStorageKey, next);
  } catch {
    // See stored().
  }
}

const channels = (hex: string): number[] => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

// Colour at `position` in [0, 1] of the theme's ordered ramp.
export function rampColor(theme: Theme, position: number): string {
  const last = theme.ramp.length - 1;
  const at = Math.min(Math.max(position, 0), 1) * last;
  const low = Math.min(Math.floor(at), last - 1);
  const a = channels(theme.ramp[low]!);
  const b = channels(theme.ramp[low + 1]!);
  const mixed = a.map((x, i) => Math.round(x + (at - low) * (b[i]! - x)));
  return `#${mixed.map((x) => x.toString(16).padStart(2, '0')).join('')}`;
}

// Colours for values that lie on a log axis, equal steps for equal ratios.
export function logColors(theme: Theme, values: readonly number[]): (value: number) => string {
  const low = Math.log(Math.min(...values));
  const high = Math.log(Math.max(...values));
  return (value) => rampColor(theme, high > low ? (Math.log(value) - low) / (high - low) : 0.25);
}

export const categoryColor = (theme: Theme, index: number): string =>
  theme.categories[index % theme.categories.length]!;
