// The frame around a plot: heading, redraw on resize, description for screen readers, SVG download.
import * as Plot from '@observablehq/plot';
import { download, freshId, h, s } from './dom';
import { currentTheme, type Theme } from './theme';

export interface Figure {
  element: HTMLElement;
  redraw: () => void;
}

export interface Drawing {
  svg: SVGSVGElement;
  description: string;
}

const kNarrowestPlot = 280;
const kFont = 'ui-sans-serif, system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';

const all: Figure[] = [];
export const redrawFigures = (): void => all.forEach((figure) => figure.redraw());

// `draw` returns null, or a sentence that says why there is nothing to draw.
export function figure(options: {
  id: string;
  title: string;
  caption?: string;
  draw: (width: number, theme: Theme) => Drawing | string;
}): Figure {
  const titleId = freshId('figure');
  const stage = h('div', { class: 'stage' });
  const save = h('button', { type: 'button', class: 'quiet', 'aria-label': `Download "${options.title}" as SVG` }, 'SVG');
  const element = h(
    'figure', { id: options.id, 'aria-labelledby': titleId },
    h('div', { class: 'figure-head' }, h('h3', { id: titleId }, options.title), save),
    stage,
    options.caption ? h('figcaption', {}, options.caption) : null,
  );
  let drawn: SVGSVGElement | null = null;
  let width = 0;

  const redraw = () => {
    if (width === 0) return;
    const theme = currentTheme();
    const drawing = options.draw(Math.max(width, kNarrowestPlot), theme);
    const isEmpty = typeof drawing === 'string';
    save.hidden = isEmpty;
    drawn = isEmpty ? null : drawing.svg;
    if (isEmpty) {
      stage.replaceChildren(h('p', { class: 'empty' }, drawing));
      return;
    }
    drawing.svg.setAttribute('role', 'img');
    drawing.svg.setAttribute('aria-label', `${options.title}. ${drawing.description}`);
    stage.replaceChildren(drawing.svg);
  };
  new ResizeObserver((entries) => {
    const next = Math.floor(entries[0]!.contentRect.width);
    if (next === width) return;
    width = next;
    redraw();
  }).observe(stage);
  save.addEventListener('click', () => {
    if (drawn) download(`${options.id}.svg`, 'image/svg+xml', serializeSvg(drawn, currentTheme()));
  });
  const result = { element, redraw };
  all.push(result);
  return result;
}

// A standalone document: background, and no scripts or references.
export function serializeSvg(svg: SVGSVGElement, theme: Theme): string {
  const copy = svg.cloneNode(true) as SVGSVGElement;
  copy.removeAttribute('class');
  copy.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  copy.prepend(s('rect', { width: '100%', height: '100%', fill: theme.paper }));
  return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(copy)}\n`;
}

// Options that every plot shares.
export function plotStyle(theme: Theme): Partial<Plot.PlotOptions> {
  return {
    style: { color: theme.ink, background: 'none', fontFamily: kFont, fontSize: '12px', overflow: 'visible' },
  };
}

// Plot types its result as SVG or HTML; without legend, title and caption it is SVG.
export function draw(options: Plot.PlotOptions): SVGSVGElement {
  return Plot.plot(options) as unknown as SVGSVGElement;
}

export interface LegendItem {
  text: string;
  color?: string;
  mark?: 'dot' | 'ring' | 'line' | 'dash' | 'band' | 'below' | 'above' | 'tick';
}

const kLegendRow = 20;
const kSwatch = 12;
const kLegendGap = 16;

// SVG lays out no text, so the legend's items are placed by what a canvas measures.
let measure: CanvasRenderingContext2D | null | undefined;
export function textWidth(text: string): number {
  measure ??= document.createElement('canvas').getContext('2d');
  if (measure) measure.font = `12px ${kFont}`;
  const estimatedLetter = 6.6;
  return measure ? measure.measureText(text).width : text.length * estimatedLetter;
}

function swatch(item: LegendItem, theme: Theme, x: number, y: number): SVGElement {
  const color = item.color ?? theme.muted;
  const middle = x + kSwatch / 2;
  switch (item.mark ?? 'dot') {
    case 'dot':
      return s('circle', { cx: middle, cy: y, r: 4.5, fill: color });
    case 'ring':
      return s('circle', { cx: middle, cy: y, r: 4, fill: 'none', stroke: color, 'stroke-width': 1.5 });
    case 'line':
      return s('line', { x1: x, x2: x + kSwatch, y1: y, y2: y, stroke: color, 'stroke-width': 2 });
    case 'dash':
      return s('line', { x1: x, x2: x + kSwatch, y1: y, y2: y, stroke: color, 'stroke-width': 1.5, 'stroke-dasharray': '3,2' });
    case 'band':
      return s('rect', { x, y: y - 5, width: kSwatch, height: 10, fill: color, 'fill-opacity': 0.2 });
    case 'below':
      return s('path', { d: `M${middle - 4.5},${y - 4}h9l-4.5,8z`, fill: 'none', stroke: color, 'stroke-width': 1.3 });
    case 'above':
      return s('path', { d: `M${middle - 4},${y + 3.5}h8l-4,-7z`, fill: 'none', stroke: color, 'stroke-width': 1.3 });
    case 'tick':
      return s('line', { x1: middle, x2: middle, y1: y - 6, y2: y + 6, stroke: color, 'stroke-width': 2 });
  }
}

// One SVG of several: a legend on top, then the parts at their places.
export function compose(
  parts: readonly { svg: SVGSVGElement; x: number; y: number }[],
  size: { width: number; height: number },
  theme: Theme,
  legend: readonly (LegendItem | 'break')[] = [],
): SVGSVGElement {
  const root = s('svg', { width: size.width, 'font-family': kFont, 'font-size': 12, color: theme.ink, fill: theme.ink, overflow: 'visible' }) as SVGSVGElement;
  let x = 0;
  let y = kLegendRow / 2;
  for (const item of legend) {
    if (item === 'break') {
      if (x > 0) y += kLegendRow;
      x = 0;
      continue;
    }
    const isTitle = item.mark === undefined && item.color === undefined;
    const width = textWidth(item.text) + (isTitle ? 0 : kSwatch + 6);
    if (x > 0 && x + width > size.width) {
      x = 0;
      y += kLegendRow;
    }
    if (isTitle) {
      root.append(s('text', { x, y, dy: '0.35em', fill: theme.muted }, item.text));
    } else {
      root.append(swatch(item, theme, x, y));
      root.append(s('text', { x: x + kSwatch + 6, y, dy: '0.35em' }, item.text));
    }
    x += width + kLegendGap;
  }
  const top = legend.length > 0 ? y + kLegendRow / 2 + 8 : 0;
  for (const part of parts) {
    part.svg.setAttribute('x', String(part.x));
    part.svg.setAttribute('y', String(part.y + top));
    root.append(part.svg);
  }
  root.setAttribute('height', String(size.height + top));
  root.setAttribute('viewBox', `0 0 ${size.width} ${size.height + top}`);
  return root;
}
