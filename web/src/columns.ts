// The table's columns, its order and its text form: everything about it that needs no page.
import type { Row } from './data';
import { bytes, count, duration, fixed, significant } from './format';

export interface Column {
  key: keyof Row;
  label: string;
  title: string;
  isNumber: boolean;
  isMain: boolean;
  show: (row: Row) => string;
}

const plusMinus = (value: number | null, se: number | null): string =>
  value === null ? significant(null) : `${significant(value)}${se === null ? '' : ` ± ${significant(se, 2)}`}`;

const text = (key: keyof Row, label: string, title: string, isMain = false): Column => ({
  key, label, title, isMain, isNumber: false, show: (row) => String(row[key] ?? '–'),
});
const number = (
  key: keyof Row, label: string, title: string, show: (row: Row) => string, isMain = false,
): Column => ({ key, label, title, isMain, isNumber: true, show });

export const kColumns: readonly Column[] = [
  text('checkpoint', 'Checkpoint', 'the model that was quantized', true),
  text('run', 'Run', 'the training run it comes from'),
  number('N', 'N', 'non-embedding parameters', (row) => count(row.N), true),
  number('D', 'D', 'training tokens', (row) => count(row.D), true),
  number('seed', 'Seed', 'seed of the run', (row) => String(row.seed ?? '–')),
  number('lr', 'LR', 'learning rate at the checkpoint', (row) => significant(row.lr)),
  text('schedule', 'Schedule', 'learning-rate schedule'),
  text('method', 'Method', 'quantization method', true),
  text('recipe', 'Recipe', 'the full recipe'),
  number('bits', 'Bits', 'nominal bits P', (row) => count(row.bits), true),
  number('group_size', 'Group', 'weights that share one scale', (row) => String(row.group_size ?? '–')),
  number('bpw', 'bpw', 'stored bits per weight, all overhead included', (row) => significant(row.bpw, 4), true),
  number('model_bytes', 'Size', 'bytes of the whole stored model', (row) => bytes(row.model_bytes), true),
  text('dataset', 'Data', 'evaluation data', true),
  number('loss16', 'Loss 16', 'loss before quantization, nats per token', (row) => fixed(row.loss16, 4), true),
  number('loss', 'Loss', 'loss after quantization, nats per token', (row) => fixed(row.loss, 4), true),
  number('qid', 'QiD', 'loss increase, with its standard error', (row) => plusMinus(row.qid, row.qid_se), true),
  number('qid_se', 'QiD SE', 'standard error of QiD', (row) => significant(row.qid_se)),
  number('kl', 'KL', 'divergence from the original, with its standard error', (row) => plusMinus(row.kl, row.kl_se)),
  number('kl_se', 'KL SE', 'standard error of KL', (row) => significant(row.kl_se)),
  number('top1_agreement', 'Top-1', 'share of tokens whose most likely successor is unchanged', (row) => fixed(row.top1_agreement, 4), true),
  number('perplexity', 'Perplexity', 'exp of the loss after quantization', (row) => significant(row.perplexity, 4)),
  number('wall_seconds', 'Time', 'wall time of the job', (row) => duration(row.wall_seconds)),
  number('peak_bytes', 'Peak memory', 'peak resident memory of the job', (row) => bytes(row.peak_bytes)),
  text('status', 'Status', 'state of the job'),
  text('error', 'Error', 'why the job failed'),
];

// The folder that holds all of the paths, with its last slash; empty if they share none. A page shows
// paths without it.
export function commonFolder(paths: readonly string[]): string {
  const folder = (path: string): string => path.slice(0, path.lastIndexOf('/') + 1);
  let common = paths.length === 0 ? '' : folder(paths[0] ?? '');
  for (const path of paths) {
    while (!path.startsWith(common)) common = folder(common.slice(0, -1));
  }
  return common;
}

export interface Order {
  key: keyof Row;
  descending: boolean;
}

// A sorted copy; rows without the value come last either way, equal rows keep their order.
export function sortRows(rows: readonly Row[], order: Order): Row[] {
  const direction = order.descending ? -1 : 1;
  return [...rows].sort((a, b) => {
    const x = a[order.key];
    const y = b[order.key];
    if (x === y) return 0;
    if (x === null || Number.isNaN(x)) return 1;
    if (y === null || Number.isNaN(y)) return -1;
    if (typeof x === 'number' && typeof y === 'number') return direction * (x - y);
    return direction * String(x).localeCompare(String(y), 'en', { numeric: true });
  });
}

// Rows that hold every word of `query` in one of their texts, whatever the case.
export function filterRows(rows: readonly Row[], query: string): Row[] {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return [...rows];
  return rows.filter((row) => {
    const all = [row.checkpoint, row.run, row.method, row.recipe, row.schedule, row.dataset, row.status, row.error]
      .join('\n')
      .toLowerCase();
    return words.every((word) => all.includes(word));
  });
}

function csvCell(value: unknown): string {
  if (value === null || value === undefined || Number.isNaN(value)) return '';
  const cell = String(value);
  return /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
}

// RFC 4180: every column by its key, numbers in full precision, missing values empty.
export function toCsv(rows: readonly Row[]): string {
  const lines = [kColumns.map((column) => column.key).join(',')];
  for (const row of rows) lines.push(kColumns.map((column) => csvCell(row[column.key])).join(','));
  return `${lines.join('\r\n')}\r\n`;
}
