// The report's data as docs/formats/report-data.md defines them, read from the page.

export const kSchema = 1;

export interface Row {
  checkpoint: string;
  run: string;
  // NaN where the job has no result; so too bits.
  N: number;
  D: number;
  seed: number | null;
  lr: number | null;
  schedule: string | null;
  method: string;
  recipe: string | null;
  bits: number;
  group_size: number | null;
  bpw: number | null;
  model_bytes: number | null;
  dataset: string | null;
  loss16: number | null;
  loss: number | null;
  qid: number | null;
  qid_se: number | null;
  kl: number | null;
  kl_se: number | null;
  top1_agreement: number | null;
  perplexity: number | null;
  wall_seconds: number | null;
  peak_bytes: number | null;
  status: string | null;
  error: string | null;
}

export interface Parameter {
  name: string;
  value: number;
  se: number | null;
  low: number | null;
  high: number | null;
}

export interface Fit {
  name: string;
  form: string;
  method: string | null;
  dataset: string | null;
  objective: string | null;
  bits: number | null;
  params: Parameter[];
  paper: Record<string, number>;
  n_rows: number | null;
  dropped: number | null;
  r2: number | null;
  rms_log_error: number | null;
  draws: number[][];
  points: { row: number; predicted: number }[];
}

export interface Report {
  title: string;
  generated: string;
  fewbit_version: string;
  vocab_size: number | null;
  rows: Row[];
  fits: Fit[];
  loss_fits: Fit[];
  notes: string[];
  environment: Record<string, unknown>;
}

type Loose = Record<string, unknown>;

const kNumbers = [
  'seed', 'lr', 'group_size', 'bpw', 'model_bytes', 'loss16', 'loss', 'qid', 'qid_se', 'kl',
  'kl_se', 'top1_agreement', 'perplexity', 'wall_seconds', 'peak_bytes',
] as const;
const kStrings = ['schedule', 'recipe', 'dataset', 'status', 'error'] as const;

export const isNumber = (value: unknown): value is number =>
  typeof value === 'number' && Number.isFinite(value);
const numberOrNull = (value: unknown): number | null => (isNumber(value) ? value : null);
const numberOrNaN = (value: unknown): number => (isNumber(value) ? value : NaN);
const stringOrNull = (value: unknown): string | null =>
  value === null || value === undefined || value === '' ? null : String(value);
const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);
const object = (value: unknown): Loose =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Loose) : {};

function readRow(value: unknown): Row {
  const source = object(value);
  const row: Loose = {
    checkpoint: String(source.checkpoint ?? ''),
    run: String(source.run ?? ''),
    method: String(source.method ?? ''),
    N: numberOrNaN(source.N),
    D: numberOrNaN(source.D),
    bits: numberOrNaN(source.bits),
  };
  for (const key of kNumbers) row[key] = numberOrNull(source[key]);
  for (const key of kStrings) row[key] = stringOrNull(source[key]);
  return row as unknown as Row;
}

function readFit(value: unknown, rowCount: number): Fit {
  const source = object(value);
  const params = list(source.params).map((item): Parameter => {
    const p = object(item);
    return {
      name: String(p.name),
      value: isNumber(p.value) ? p.value : NaN,
      se: numberOrNull(p.se),
      low: numberOrNull(p.low),
      high: numberOrNull(p.high),
    };
  });
  const paper: Record<string, number> = {};
  for (const [name, number] of Object.entries(object(source.paper))) {
    if (isNumber(number)) paper[name] = number;
  }
  return {
    name: String(source.name ?? source.form ?? 'law'),
    form: String(source.form ?? ''),
    method: stringOrNull(source.method),
    dataset: stringOrNull(source.dataset),
    objective: stringOrNull(source.objective),
    bits: numberOrNull(source.bits),
    params,
    paper,
    n_rows: numberOrNull(source.n_rows),
    dropped: numberOrNull(source.dropped),
    r2: numberOrNull(source.r2),
    rms_log_error: numberOrNull(source.rms_log_error),
    draws: list(source.draws)
      .map((draw) => list(draw).map(Number))
      .filter((draw) => draw.length === params.length && draw.every(Number.isFinite)),
    points: list(source.points)
      .map(object)
      .filter((p) => isNumber(p.row) && p.row >= 0 && p.row < rowCount && isNumber(p.predicted))
      .map((p) => ({ row: p.row as number, predicted: p.predicted as number })),
  };
}

// Reads the document; missing optional values become null. Throws if it is of another schema.
export function readReport(text: string): Report {
  const source = object(JSON.parse(text));
  if (source.schema !== kSchema) {
    throw new Error(`the data are of schema ${String(source.schema)}, this page reads ${kSchema}`);
  }
  const rows = list(source.rows).map(readRow);
  return {
    title: String(source.title ?? 'fewbit study'),
    generated: String(source.generated ?? ''),
    fewbit_version: String(source.fewbit_version ?? ''),
    vocab_size: numberOrNull(source.vocab_size),
    rows,
    fits: list(source.fits).map((fit) => readFit(fit, rows.length)),
    loss_fits: list(source.loss_fits).map((fit) => readFit(fit, rows.length)),
    notes: list(source.notes).map(String),
    environment: object(source.environment),
  };
}

// Rows of the model before quantization: they bear a loss and a size but no degradation.
const kOriginalBits = 16;
export const isOriginal = (row: Row): boolean => row.bits >= kOriginalBits;

export function distinct<T>(values: Iterable<T>): T[] {
  return [...new Set(values)];
}

export function distinctNumbers(values: Iterable<number>): number[] {
  return distinct(values)
    .filter((value) => Number.isFinite(value))
    .sort((a, b) => a - b);
}
