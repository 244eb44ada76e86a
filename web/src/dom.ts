// Building elements without a framework.

type Child = Node | string | null | undefined;
type Attributes = Record<string, string | number | boolean | null | undefined>;

// h('a', {href: '#x', class: 'y'}, 'text'): attributes that are null or false are left out.
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K, attributes: Attributes = {}, ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.filter((c): c is Node | string => c !== null && c !== undefined));
  return element;
}

export const kSvg = 'http://www.w3.org/2000/svg';

export function s(tag: string, attributes: Attributes = {}, ...children: Child[]): SVGElement {
  const element = document.createElementNS(kSvg, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((c): c is Node | string => c !== null && c !== undefined));
  return element;
}

let nextId = 0;
export const freshId = (prefix: string): string => `${prefix}-${++nextId}`;

// A control beside its label.
export function labelled(label: string, control: HTMLInputElement | HTMLSelectElement, kind = ''): HTMLDivElement {
  control.id ||= freshId('control');
  return h('div', { class: `control ${kind}`.trim() }, h('label', { for: control.id }, label), control);
}

// A labelled <select>. `options` are value and text; `onChange` gets the value chosen.
export function select(
  label: string, options: readonly (readonly [string, string])[], value: string,
  onChange: (value: string) => void,
): HTMLDivElement {
  const control = h('select', {}, ...options.map(([v, text]) => h('option', { value: v, selected: v === value }, text)));
  control.addEventListener('change', () => onChange(control.value));
  return labelled(label, control);
}

// Hands `text` to the reader as a file.
export function download(name: string, type: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = h('a', { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  const longEnoughToBeRead = 10_000;
  setTimeout(() => URL.revokeObjectURL(url), longEnoughToBeRead);
}
