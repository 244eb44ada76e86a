// All rows: sortable, filterable, downloadable.
import { commonFolder, filterRows, kColumns, sortRows, toCsv, type Column, type Order } from './columns';
import { distinct, distinctNumbers, type Report, type Row } from './data';
import { download, freshId, h, labelled, select } from './dom';

const kPage = 60;

export function buildTable(report: Report): HTMLElement {
  let order: Order = { key: 'N', descending: false };
  let query = '';
  let method = '';
  let bits = '';
  let dataset = '';
  let showsAllColumns = false;
  let shown = kPage;

  const head = h('tr', {});
  const body = h('tbody', {});
  const statusId = freshId('table-status');
  const status = h('p', { class: 'table-status', id: statusId, role: 'status' });
  const more = h('button', { type: 'button', class: 'quiet' }, 'Show more rows');

  const matching = (): Row[] =>
    sortRows(
      filterRows(report.rows, query).filter(
        (row) =>
          (method === '' || row.method === method) &&
          (bits === '' || row.bits === Number(bits)) &&
          (dataset === '' || row.dataset === dataset),
      ),
      order,
    );
  // Columns that no row fills would be noise.
  const filled = kColumns.filter((c) => report.rows.some((row) => row[c.key] !== null && row[c.key] !== ''));
  const columns = (): Column[] => filled.filter((column) => showsAllColumns || column.isMain);

  const folder = commonFolder(distinct(report.rows.map((row) => row.checkpoint)));
  const shownText = (column: Column, row: Row): string =>
    column.key === 'checkpoint' ? row.checkpoint.slice(folder.length) : column.show(row);

  const renderHead = () => {
    head.replaceChildren(
      ...columns().map((column) => {
        const isSorted = order.key === column.key;
        const button = h('button', { type: 'button', title: column.title },
          column.label, h('span', { class: 'arrow', 'aria-hidden': 'true' }, isSorted ? (order.descending ? '↓' : '↑') : ''));
        button.addEventListener('click', () => {
          order = { key: column.key, descending: isSorted ? !order.descending : false };
          render();
          // Rendering replaced the button that had the focus.
          head.querySelector<HTMLElement>(`[data-key="${column.key}"] button`)?.focus();
        });
        return h('th', {
          scope: 'col', 'data-key': column.key, class: column.isNumber ? 'number' : null,
          'aria-sort': isSorted ? (order.descending ? 'descending' : 'ascending') : 'none',
        }, button);
      }),
    );
  };
  const render = () => {
    renderHead();
    const rows = matching();
    body.replaceChildren(
      ...rows.slice(0, shown).map((row) =>
        h('tr', {}, ...columns().map((column) =>
          h('td', { class: column.isNumber ? 'number' : null, title: column.isNumber ? null : column.show(row) }, shownText(column, row)))),
      ),
    );
    status.textContent = rows.length === 0 ? 'No row matches.'
      : `${Math.min(shown, rows.length)} of ${rows.length} row${rows.length === 1 ? '' : 's'} shown` +
        (rows.length < report.rows.length ? `, ${report.rows.length} in all` : '');
    more.hidden = shown >= rows.length;
  };

  const search = h('input', { type: 'search', placeholder: 'checkpoint, recipe, run…', autocomplete: 'off' });
  const reset = () => {
    shown = kPage;
    render();
  };
  search.addEventListener('input', () => {
    query = search.value;
    reset();
  });
  const everything = h('input', { type: 'checkbox' });
  everything.addEventListener('change', () => {
    showsAllColumns = everything.checked;
    render();
  });
  more.addEventListener('click', () => {
    shown += 5 * kPage;
    render();
  });
  const csv = h('button', { type: 'button', class: 'quiet', id: 'download-csv' }, 'CSV of these rows');
  csv.addEventListener('click', () => download('fewbit-rows.csv', 'text/csv', toCsv(matching())));

  const methods = distinct(report.rows.map((row) => row.method)).sort();
  const bitWidths = distinctNumbers(report.rows.map((row) => row.bits));
  const datasets = distinct(report.rows.map((row) => row.dataset).filter((d): d is string => d !== null)).sort();
  const any = ['', 'all'] as const;
  const controls = h('div', { class: 'controls' },
    labelled('Find', search, 'grow'),
    methods.length > 1
      ? select('Method', [any, ...methods.map((m) => [m, m] as const)], method, (v) => { method = v; reset(); }) : null,
    bitWidths.length > 1
      ? select('Bits', [any, ...bitWidths.map((b) => [String(b), String(b)] as const)], bits, (v) => { bits = v; reset(); }) : null,
    datasets.length > 1
      ? select('Data', [any, ...datasets.map((d) => [d, d] as const)], dataset, (v) => { dataset = v; reset(); }) : null,
    labelled('All columns', everything, 'check'),
    csv,
  );
  render();
  return h('div', { class: 'table-block' },
    controls,
    h('div', { class: 'table-scroll', tabindex: 0, role: 'region', 'aria-label': 'Measurements' },
      h('table', { 'aria-describedby': statusId }, h('thead', {}, head), body)),
    h('div', { class: 'table-foot' }, status, more),
  );
}
