// A synthetic study for the browser test and `npm run dev`: seeded measurements that follow the
// unified law with noise, laws fitted to them by least squares on logs, and degenerate variants.
// node sample_data.mjs NAME prints one of them as JSON.
import { fileURLToPath } from 'node:url';

// mulberry32: a small generator with a 32-bit state.
function random(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return { uniform, normal };
}

const kVocabSize = 256;
const kSizes = [
  { N: 24576, d: 32 },
  { N: 98304, d: 64 },
  { N: 393216, d: 128 },
  { N: 1572864, d: 256 },
];
const kTokens = [0.5, 1, 2, 4, 8, 16, 32].map((x) => x * 2 ** 20);
const kBits = [2, 3, 4];
const kGroup = 32;
export const kTruth = {
  gptq: { lnK: Math.log(0.0105), beta: 0.72, alpha: 0.42, gamma: 4.6 },
  rtn: { lnK: Math.log(0.021), beta: 0.7, alpha: 0.38, gamma: 4.2 },
};
const kLoss = { E: 1.02, A: 16, alpha: 0.28, B: 900, beta: 0.49 };
const kPaper = { beta: 0.5251, alpha: 0.2261, gamma: 5.4967 };

const loss16At = (N, D) => kLoss.E + kLoss.A / N ** kLoss.alpha + kLoss.B / D ** kLoss.beta;
export const qidAt = ({ lnK, beta, alpha, gamma }, N, D, P) =>
  Math.exp(lnK + beta * Math.log(D) - alpha * Math.log(N) - gamma * Math.log(P));

function solve(matrix, right) {
  const n = right.length;
  const rows = matrix.map((row, i) => [...row, right[i]]);
  for (let c = 0; c < n; ++c) {
    const pivot = rows.slice(c).reduce((best, row, i) => (Math.abs(row[c]) > Math.abs(rows[best][c]) ? c + i : best), c);
    [rows[c], rows[pivot]] = [rows[pivot], rows[c]];
    for (let r = 0; r < n; ++r) {
      if (r === c) continue;
      const factor = rows[r][c] / rows[c][c];
      for (let k = c; k <= n; ++k) rows[r][k] -= factor * rows[c][k];
    }
  }
  return rows.map((row, i) => row[n] / row[i]);
}

// Least squares of y on 1 and the columns of x, on centred columns.
function regress(x, y) {
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const p = x[0].length;
  const centre = Array.from({ length: p }, (_, j) => mean(x.map((row) => row[j])));
  const yMean = mean(y);
  const centred = x.map((row) => row.map((v, j) => v - centre[j]));
  const normal = centre.map((_, i) => centre.map((__, j) => centred.reduce((s, row) => s + row[i] * row[j], 0)));
  const right = centre.map((_, i) => centred.reduce((s, row, r) => s + row[i] * (y[r] - yMean), 0));
  const slopes = solve(normal, right);
  return [yMean - slopes.reduce((s, b, j) => s + b * centre[j], 0), ...slopes];
}

const quantile = (sorted, q) => {
  const at = (sorted.length - 1) * q;
  const low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
};

function fitLaw(rows, indices, generator, { name, method, dataset, bits }) {
  const usable = indices.filter((i) => rows[i].qid > 3 * rows[i].qid_se && rows[i].qid < 0.5 * (Math.log(kVocabSize) - rows[i].loss16));
  const hasBits = bits === undefined;
  const design = (row) => [Math.log(row.D), -Math.log(row.N), ...(hasBits ? [-Math.log(row.bits)] : [])];
  const fitTo = (chosen) => regress(chosen.map((i) => design(rows[i])), chosen.map((i) => Math.log(rows[i].qid)));
  const value = fitTo(usable);
  const draws = Array.from({ length: 200 }, () => fitTo(usable.map(() => usable[Math.floor(generator.uniform() * usable.length)])));
  const names = ['ln k', 'beta', 'alpha', ...(hasBits ? ['gamma'] : [])];
  const predict = (row) => Math.exp(value[0] + design(row).reduce((s, x, j) => s + x * value[j + 1], 0));
  const residuals = usable.map((i) => Math.log(rows[i].qid / predict(rows[i])));
  const logs = usable.map((i) => Math.log(rows[i].qid));
  const mean = logs.reduce((a, b) => a + b, 0) / logs.length;
  const rss = residuals.reduce((s, r) => s + r * r, 0);
  const params = names.map((parameter, j) => {
    const sorted = draws.map((draw) => draw[j]).sort((a, b) => a - b);
    const centre = sorted.reduce((a, b) => a + b, 0) / sorted.length;
    const se = Math.sqrt(sorted.reduce((s, v) => s + (v - centre) ** 2, 0) / (sorted.length - 1));
    return { name: parameter, value: value[j], se, low: quantile(sorted, 0.025), high: quantile(sorted, 0.975) };
  });
  return {
    name, form: hasBits ? 'unified' : 'per_bits', method, dataset, objective: 'log', ...(hasBits ? {} : { bits }),
    params, paper: hasBits ? kPaper : {}, n_rows: usable.length, dropped: indices.length - usable.length,
    r2: 1 - rss / logs.reduce((s, v) => s + (v - mean) ** 2, 0), rms_log_error: Math.sqrt(rss / usable.length),
    draws, points: usable.map((row) => ({ row, predicted: predict(rows[row]) })),
  };
}

export function sampleReport(seed = 20241117) {
  const generator = random(seed);
  const rows = [];
  for (const dataset of ['novels', 'news']) {
    for (const { N, d } of kSizes) {
      for (const D of kTokens.slice(0, N > 1e6 ? 6 : 7)) {
        const loss16 = loss16At(N, D) * (1 + 0.004 * generator.normal()) + (dataset === 'news' ? 0.12 : 0);
        const base = {
          checkpoint: `d${d}-D${Math.round(D / 1e3)}k`, run: `d${d}-s0`, N, D, seed: 0, lr: 4e-3 * Math.sqrt(32 / d),
          schedule: 'constant', dataset, loss16, status: 'done',
        };
        const other = 2 * kVocabSize * d * 2;
        rows.push({
          ...base, method: 'original', recipe: '', bits: 16, group_size: null, bpw: 16, model_bytes: 2 * N + other,
          loss: loss16, qid: null, qid_se: null, kl: null, kl_se: null, top1_agreement: null,
          perplexity: Math.exp(loss16), wall_seconds: 12, peak_bytes: 3e8,
        });
        for (const method of ['gptq', 'rtn']) {
          for (const bits of kBits) {
            const se = 4e-4 * (1 + 2 * generator.uniform());
            const qid = qidAt(kTruth[method], N, D, bits) * Math.exp(0.18 * generator.normal()) + se * generator.normal();
            const bpw = bits + (16 + bits) / kGroup;
            rows.push({
              ...base, method, recipe: `${method}:bits=${bits},group_size=${kGroup}`, bits, group_size: kGroup, bpw,
              model_bytes: Math.round((bpw * N) / 8) + other, loss: loss16 + qid, qid, qid_se: se, kl: Math.abs(qid) * 0.9 + 1e-4,
              kl_se: se / 2, top1_agreement: 1 / (1 + Math.max(qid, 0)), perplexity: Math.exp(loss16 + qid),
              wall_seconds: 5 + N / 1e5, peak_bytes: 4e8 + 20 * N,
            });
          }
        }
      }
    }
  }
  const select = (method, dataset, bits) =>
    rows.flatMap((row, i) => (row.method === method && row.dataset === dataset && (bits === undefined || row.bits === bits) ? [i] : []));
  const fits = [];
  for (const dataset of ['novels', 'news']) {
    for (const method of ['gptq', 'rtn']) {
      fits.push(fitLaw(rows, select(method, dataset), generator, { name: `${method}, ${dataset}, unified`, method, dataset }));
    }
  }
  for (const bits of kBits) {
    fits.push(fitLaw(rows, select('gptq', 'novels', bits), generator, { name: `gptq, novels, ${bits} bits`, method: 'gptq', dataset: 'novels', bits }));
  }
  const lossDraws = Array.from({ length: 100 }, () => [
    Math.log(kLoss.E) + 0.01 * generator.normal(), Math.log(kLoss.A) + 0.03 * generator.normal(), kLoss.alpha,
    Math.log(kLoss.B) + 0.05 * generator.normal(), kLoss.beta,
  ]);
  const lossParams = ['ln E', 'ln A', 'alpha', 'ln B', 'beta'].map((name, j) => {
    const value = [Math.log(kLoss.E), Math.log(kLoss.A), kLoss.alpha, Math.log(kLoss.B), kLoss.beta][j];
    const sorted = lossDraws.map((draw) => draw[j]).sort((a, b) => a - b);
    return { name, value, se: (quantile(sorted, 0.84) - quantile(sorted, 0.16)) / 2, low: quantile(sorted, 0.025), high: quantile(sorted, 0.975) };
  });
  const lossRows = rows.flatMap((row, i) => (row.method === 'original' && row.dataset === 'novels' ? [i] : []));
  return {
    schema: 1,
    title: 'Byte-level decoders from 25k to 1.6M parameters',
    generated: '2025-03-14T09:26:53Z',
    fewbit_version: '0.1.0',
    vocab_size: kVocabSize,
    rows,
    fits,
    loss_fits: [{
      name: 'Chinchilla form', form: 'chinchilla', method: null, dataset: 'novels', objective: 'huber', params: lossParams,
      paper: {}, n_rows: lossRows.length, dropped: 0, r2: 0.99, rms_log_error: 0.004, draws: lossDraws,
      points: lossRows.map((row) => ({ row, predicted: loss16At(rows[row].N, rows[row].D) })),
    }],
    notes: [
      'All numbers of this page are synthetic: a seeded law with noise.',
      'Rows with QiD below three standard errors or above half the headroom are left out of the fits.',
    ],
    environment: { compiler: 'gcc 12.2', host: 'synthetic', threads: 2, seed },
  };
}

const empty = (report) => ({ ...report, rows: [], fits: [], loss_fits: [], notes: [], environment: {}, vocab_size: null });

// What a study may also look like: each must render without an error.
export const kVariants = {
  full: sampleReport,
  empty: () => empty(sampleReport()),
  'no-fits': () => ({ ...sampleReport(), fits: [], loss_fits: [] }),
  'all-negative': () => {
    const report = sampleReport();
    const rows = report.rows.map((row) => (row.qid === null ? row : { ...row, qid: -Math.abs(row.qid) * 0.01 }));
    return { ...report, rows, fits: [] };
  },
  'single-row': () => {
    const report = sampleReport();
    return { ...empty(report), rows: [report.rows[1]], vocab_size: kVocabSize };
  },
  'bare-rows': () => ({
    ...empty(sampleReport()),
    rows: [{ checkpoint: 'c', run: 'r', N: 1e6, D: 1e8, method: 'rtn', bits: 3 }, { checkpoint: 'c', run: 'r', N: 1e6, D: 1e8, method: 'rtn', bits: 4, qid: 0 },
      { checkpoint: 'd', run: 'r', N: null, D: null, method: 'rtn', bits: null, status: 'failed', error: 'no such file' }],
  }),
  'unknown-form': () => {
    const report = sampleReport();
    const fit = { ...report.fits[0], form: 'some_other', paper: {}, draws: [], params: [{ name: 'c', value: 1 }, { name: 'beta', value: -0.2, low: -0.4, high: 0.1 }] };
    return { ...report, title: '</script><b>title</b><!--', fits: [fit], loss_fits: [] };
  },
};

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const name = process.argv[2] ?? 'full';
  if (!(name in kVariants)) throw new Error(`unknown sample '${name}', there are: ${Object.keys(kVariants).join(', ')}`);
  process.stdout.write(JSON.stringify(kVariants[name]()));
}
