// Puts the page together and keeps its parts in step with what the reader selects.
import { distinct, distinctNumbers, isOriginal, readReport, type Fit, type Report } from './data';
import { h, select } from './dom';
import { figure, redrawFigures } from './figure';
import { buildHeadline } from './headline';
import { buildPanel } from './panel';
import { drawAgreement } from './plots/agreement';
import { drawDegradation, bitsText, type Selection, type Variable } from './plots/degradation';
import { drawExponents } from './plots/exponents';
import { drawLoss } from './plots/loss';
import { drawPareto } from './plots/pareto';
import { buildTable } from './table';
import { currentTheme, toggleTheme, watchTheme } from './theme';
import './style.css';

interface State extends Selection {
  onlyBits: number | null;
  lossFit: Fit | null;
  lastOnly: boolean;
}

const matches = (wanted: string | null, value: string | null): boolean => value === null || wanted === null || value === wanted;

const fitsFor = (report: Report, s: Selection): Fit[] =>
  report.fits.filter((fit) => matches(s.method, fit.method) && matches(s.dataset, fit.dataset));

const lossFitsFor = (report: Report, s: Selection): Fit[] => report.loss_fits.filter((fit) => matches(s.dataset, fit.dataset));

function initialState(report: Report): State {
  const fit = report.fits[0] ?? null;
  const quantized = report.rows.filter((row) => !isOriginal(row));
  const state: State = {
    method: fit?.method ?? quantized[0]?.method ?? null,
    dataset: fit?.dataset ?? quantized[0]?.dataset ?? null,
    group_size: null, schedule: null, fit, onlyBits: null, lossFit: null, lastOnly: true,
  };
  state.lossFit = lossFitsFor(report, state)[0] ?? null;
  return state;
}

function section(id: string, title: string, lead: string | null, ...children: (Node | null)[]): HTMLElement {
  return h('section', { id, 'aria-labelledby': `${id}-title` },
    h('h2', { id: `${id}-title` }, title), lead ? h('p', { class: 'section-lead' }, lead) : null, ...children);
}

function themeButton(): HTMLElement {
  const button = h('button', { type: 'button', id: 'theme', class: 'quiet' });
  const label = () => {
    button.textContent = currentTheme().name === 'dark' ? 'Light' : 'Dark';
    button.setAttribute('aria-label', `Switch to the ${currentTheme().name === 'dark' ? 'light' : 'dark'} theme`);
  };
  const changed = () => {
    label();
    redrawFigures();
  };
  button.addEventListener('click', () => {
    toggleTheme();
    changed();
  });
  watchTheme(changed);
  label();
  return button;
}

function header(report: Report): HTMLElement {
  const models = distinct(report.rows.map((row) => JSON.stringify([row.run, row.D]))).length;
  const date = new Date(report.generated);
  const when = Number.isNaN(date.getTime()) ? report.generated
    : new Intl.DateTimeFormat('en', { dateStyle: 'long', timeZone: 'UTC' }).format(date);
  const links = [['law', 'Law'], ['degradation', 'Degradation'], ['agreement', 'Agreement'], ['size', 'Size'], ['predict', 'Predict'], ['rows', 'Rows']];
  return h('header', { class: 'page-head' },
    h('div', { class: 'page-title' },
      h('h1', {}, report.title),
      h('p', { class: 'meta' },
        [`${report.rows.length} row${report.rows.length === 1 ? '' : 's'} from ${models} checkpoint${models === 1 ? '' : 's'}`, when, `fewbit ${report.fewbit_version}`].join(' · '))),
    h('nav', { 'aria-label': 'Sections' },
      ...links.map(([id, text]) => h('a', { href: `#${id}` }, text!)), themeButton()),
  );
}

// The selectors that govern all plots but Pareto's and the table; one with a single choice is left out.
function toolbar(report: Report, state: State, changed: () => void): HTMLElement {
  const bar = h('div', { class: 'toolbar controls', role: 'group', 'aria-label': 'Selection' });
  const strings = (key: 'method' | 'dataset' | 'schedule') =>
    distinct(report.rows.filter((row) => !isOriginal(row)).map((row) => row[key]).filter((v): v is string => v !== null)).sort();
  const groups = distinctNumbers(report.rows.flatMap((row) => (row.group_size === null ? [] : [row.group_size])));
  const bits = distinctNumbers(report.rows.filter((row) => !isOriginal(row)).map((row) => row.bits));
  const pairs = (values: readonly string[]) => values.map((v) => [v, v] as const);
  const render = () => {
    const fits = fitsFor(report, state);
    const refit = () => {
      const possible = fitsFor(report, state);
      if (!state.fit || !possible.includes(state.fit)) state.fit = possible[0] ?? null;
      const losses = lossFitsFor(report, state);
      if (!state.lossFit || !losses.includes(state.lossFit)) state.lossFit = losses[0] ?? null;
      render();
      changed();
    };
    const losses = lossFitsFor(report, state);
    const methods = strings('method');
    const datasets = strings('dataset');
    const schedules = strings('schedule');
    const name = (fit: Fit) => String(report.fits.indexOf(fit));
    // Rendering replaces the control that the reader is using; its successor gets the focus back.
    const labelOf = (element: Element | null) => element?.closest('.control')?.querySelector('label')?.textContent;
    const focused = bar.contains(document.activeElement) ? labelOf(document.activeElement) : null;
    bar.replaceChildren(...[
      methods.length > 1 ? select('Method', pairs(methods), state.method ?? '', (v) => { state.method = v; refit(); }) : null,
      datasets.length > 1 ? select('Data', pairs(datasets), state.dataset ?? '', (v) => { state.dataset = v; refit(); }) : null,
      fits.length > 1 ? select('Law', fits.map((f) => [name(f), f.name] as const), state.fit ? name(state.fit) : '', (v) => { state.fit = report.fits[Number(v)]!; changed(); }) : null,
      losses.length > 1 ? select('16-bit law', losses.map((f, i) => [String(i), f.name] as const), String(losses.indexOf(state.lossFit!)), (v) => { state.lossFit = losses[Number(v)]!; changed(); }) : null,
      bits.length > 1 ? select('Bits', [['', 'all'], ...bits.map((b) => [String(b), bitsText(b)] as const)], state.onlyBits === null ? '' : String(state.onlyBits), (v) => { state.onlyBits = v === '' ? null : Number(v); changed(); }) : null,
      groups.length > 1 ? select('Group', [['', 'all'], ...groups.map((g) => [String(g), String(g)] as const)], state.group_size === null ? '' : String(state.group_size), (v) => { state.group_size = v === '' ? null : Number(v); changed(); }) : null,
      schedules.length > 1 ? select('Schedule', [['', 'all'], ...pairs(schedules)], state.schedule ?? '', (v) => { state.schedule = v === '' ? null : v; changed(); }) : null,
    ].filter((e): e is HTMLDivElement => e !== null));
    if (focused) [...bar.querySelectorAll('select')].find((control) => labelOf(control) === focused)?.focus();
    bar.hidden = bar.childElementCount === 0;
  };
  render();
  return bar;
}

function footer(report: Report): HTMLElement {
  const entries = Object.entries(report.environment);
  return h('footer', {},
    report.notes.length > 0
      ? h('div', {}, h('h2', {}, 'Notes'), h('ul', {}, ...report.notes.map((note) => h('li', {}, note)))) : null,
    entries.length > 0
      ? h('details', {}, h('summary', {}, 'Environment'),
          h('dl', { class: 'environment' }, ...entries.flatMap(([key, value]) => [
            h('dt', {}, key), h('dd', {}, typeof value === 'string' ? value : JSON.stringify(value))])))
      : null,
    h('p', { class: 'meta' }, `Written by fewbit ${report.fewbit_version}. The page holds all of its data and asks the network for nothing.`),
  );
}

function build(report: Report): Node[] {
  const state = initialState(report);
  const panel = buildPanel(report);
  let headline = buildHeadline(report, state);
  const exponents = figure({
    id: 'plot-exponents', title: 'Exponents of every fit',
    draw: (width, theme) => drawExponents(report.fits, state.fit, width, theme),
  });
  const degradation = (['D', 'N', 'bits'] as const).map((x: Variable) =>
    figure({
      id: `plot-qid-${x}`,
      title: { D: 'QiD against training tokens', N: 'QiD against model size', bits: 'QiD against bits' }[x],
      draw: (width, theme) => drawDegradation(report, state, x, state.onlyBits, width, theme),
    }));
  const agreement = figure({
    id: 'plot-agreement', title: 'Predicted against measured',
    draw: (width, theme) => drawAgreement(report, state, width, theme),
  });
  const pareto = figure({
    id: 'plot-pareto', title: 'Loss against stored bytes',
    draw: (width, theme) => drawPareto(report, state.dataset, state.lastOnly, width, theme),
  });
  const loss = figure({
    id: 'plot-loss16', title: 'Loss before quantization',
    draw: (width, theme) => drawLoss(report, state.lossFit, state.dataset, width, theme),
  });
  const changed = () => {
    const next = buildHeadline(report, state);
    headline.replaceWith(next);
    headline = next;
    redrawFigures();
    panel.update(state, state.lossFit);
  };
  const everyCheckpoint = select('Checkpoints', [['last', 'last of each run'], ['all', 'all']], 'last', (v) => {
    state.lastOnly = v === 'last';
    pareto.redraw();
  });
  panel.update(state, state.lossFit);
  return [
    header(report),
    toolbar(report, state, changed),
    h('main', { id: 'main' },
      section('law', 'The law', null, headline, exponents.element),
      section('degradation', 'Degradation by quantization',
        'QiD is the loss of the quantized model minus that of the original on the same tokens, in nats per token. Bars are 95% of the sampling error.',
        ...degradation.map((f) => f.element)),
      section('agreement', 'Does the law hold?', null, h('div', { class: 'pair' }, agreement.element, loss.element)),
      section('size', 'Loss for bytes',
        'Every byte of the stored model counts: codes, scales, zero points, embeddings and head.',
        h('div', { class: 'controls' }, everyCheckpoint), pareto.element),
      section('predict', 'Predict', 'Set a model, its training and the bits, and read what the selected law says.', panel.element),
      section('rows', 'All measurements', null, buildTable(report)),
    ),
    footer(report),
  ];
}

const root = document.getElementById('report')!;
try {
  const report = readReport(document.getElementById('fewbit-data')!.textContent ?? '');
  document.title = `${report.title} – fewbit report`;
  root.replaceChildren(h('a', { class: 'skip', href: '#main' }, 'Skip to the content'), ...build(report));
} catch (error) {
  root.replaceChildren(h('p', { class: 'fatal', role: 'alert' }, `This report cannot be shown: ${error instanceof Error ? error.message : String(error)}`));
  throw error;
}
