import { describe, expect, it } from 'vitest';
import { commonFolder, filterRows, kColumns, sortRows, toCsv } from '../src/columns';
import { readReport, type Row } from '../src/data';
import { bytes, count, parseQuantity, significant } from '../src/format';
import { flooredAxis, logTicks, spread } from '../src/plots/axes';
import { paretoFrontier } from '../src/plots/pareto';

const report = (rows: object[], extra: object = {}) =>
  readReport(JSON.stringify({ schema: 1, title: 't', rows, fits: [], loss_fits: [], ...extra }));
const rows = report([
  { checkpoint: 'a10', run: 'r', N: 2, D: 1, method: 'gptq', bits: 3, qid: 0.5, recipe: 'hadamard | gptq' },
  { checkpoint: 'a9', run: 'r', N: 1, D: 1, method: 'rtn', bits: 2, qid: null, recipe: 'say "rtn", twice' },
  { checkpoint: 'b', run: 'r', N: 3, D: 1, method: 'rtn', bits: 2, qid: -0.1 },
]).rows;
const names = (list: readonly Row[]) => list.map((row) => row.checkpoint);

describe('readReport', () => {
  it('refuses another schema', () => {
    expect(() => readReport('{"schema": 2}')).toThrow('schema 2');
  });
  it('makes missing optional values null and drops what cannot be drawn', () => {
    const read = report([{ checkpoint: 'c', run: 'r', N: 1, D: 1, method: 'm', bits: 2 }], {
      fits: [{ name: 'f', form: 'unified', params: [{ name: 'beta', value: null }], draws: [[1], [1, 2], [null]],
        points: [{ row: 0, predicted: 1 }, { row: 9, predicted: 1 }] }],
    });
    expect(read.rows[0]!.qid).toBeNull();
    expect(read.fits[0]!.params[0]!.value).toBeNaN();
    expect(read.fits[0]!.points).toEqual([{ row: 0, predicted: 1 }]);
    expect(read.vocab_size).toBeNull();
  });
});

describe('the table', () => {
  it('sorts numbers by value and names by their numbers', () => {
    expect(names(sortRows(rows, { key: 'N', descending: true }))).toEqual(['b', 'a10', 'a9']);
    expect(names(sortRows(rows, { key: 'checkpoint', descending: false }))).toEqual(['a9', 'a10', 'b']);
  });
  it('leaves out the folder that all checkpoints share', () => {
    expect(commonFolder(['/a/runs/d32/1', '/a/runs/d32/2', '/a/runs/d64/1'])).toBe('/a/runs/');
    expect(commonFolder(['/a/runs/1'])).toBe('/a/runs/');
    expect(commonFolder(['/a/runs/1', 'b/runs/1'])).toBe('');
    expect(commonFolder(['/a/run/1', '/a/runs/1'])).toBe('/a/');
    expect(commonFolder([])).toBe('');
  });
  it('puts missing values last in both directions', () => {
    expect(names(sortRows(rows, { key: 'qid', descending: false }))).toEqual(['b', 'a10', 'a9']);
    expect(names(sortRows(rows, { key: 'qid', descending: true }))).toEqual(['a10', 'b', 'a9']);
  });
  it('finds rows that hold every word', () => {
    expect(names(filterRows(rows, 'GPTQ hadamard'))).toEqual(['a10']);
    expect(names(filterRows(rows, '  '))).toEqual(['a10', 'a9', 'b']);
  });
  it('writes CSV with quoted quotes and empty missing values', () => {
    const lines = toCsv(rows).split('\r\n');
    expect(lines[0]).toBe(kColumns.map((c) => c.key).join(','));
    expect(lines[2]).toContain('"say ""rtn"", twice"');
    expect(lines[3]).toContain('-0.1');
    expect(lines).toHaveLength(5);
  });
});

describe('numbers', () => {
  it('are short', () => {
    expect(count(85056000)).toBe('85.1M');
    expect(count(999950)).toBe('1M');
    expect(count(7e9)).toBe('7B');
    expect(count(12)).toBe('12');
    expect(significant(0.00312)).toBe('0.00312');
    expect(significant(-0.5)).toBe('−0.500');
    expect(significant(0)).toBe('0.00');
    expect(significant(2.5e-7, 2)).toBe('2.5e−7');
    expect(significant(null)).toBe('–');
    expect(bytes(1536)).toBe('1.5 KiB');
  });
  it('are read with units', () => {
    expect(parseQuantity('7B')).toBe(7e9);
    expect(parseQuantity(' 1.5 m')).toBe(1.5e6);
    expect(parseQuantity('1.2e9')).toBe(1.2e9);
    expect(parseQuantity('2,097,152')).toBe(2097152);
    expect(parseQuantity('0')).toBeNull();
    expect(parseQuantity('-3')).toBeNull();
    expect(parseQuantity('many')).toBeNull();
    expect(parseQuantity('')).toBeNull();
  });
});

describe('axes', () => {
  it('have round ticks within the domain, no more than asked', () => {
    expect(logTicks(0.5, 200, 4)).toEqual([1, 10, 100]);
    expect(logTicks(1, 9, 4)).toEqual([1, 2, 5]);
    expect(logTicks(1e-3, 1e9, 5).length).toBeLessThanOrEqual(5);
  });
  it('give values that are not positive a strip of their own', () => {
    const axis = flooredAxis([-0.1, 0.01, 1], []);
    expect(axis.floor).toBeLessThan(axis.edge);
    expect(axis.domain[0]).toBeLessThan(axis.floor!);
    expect(axis.edge).toBeLessThan(0.01);
    expect(flooredAxis([0.01, 1], []).floor).toBeNull();
  });
  it('exist even when nothing is positive', () => {
    const axis = flooredAxis([-1, -2], [NaN]);
    expect(axis.ticks.length).toBeGreaterThan(0);
    expect(axis.domain.every(Number.isFinite)).toBe(true);
  });
  it('spread keeps both ends', () => {
    expect(spread([5, 1, 2, 3, 4, 6, 7], 3)).toEqual([1, 4, 7]);
  });
});

describe('paretoFrontier', () => {
  it('keeps rows that no smaller row beats', () => {
    const at = (model_bytes: number, loss: number) => ({ model_bytes, loss });
    expect(paretoFrontier([at(3, 1), at(1, 3), at(2, 4), at(2, 2), at(4, 1)])).toEqual([at(1, 3), at(2, 2), at(3, 1)]);
    expect(paretoFrontier([])).toEqual([]);
  });
});
