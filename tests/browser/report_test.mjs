// The report page in a real browser: node report_test.mjs RENDER_REPORT [CHROMIUM]
//
// RENDER_REPORT is the program built from render_report.cc. With FEWBIT_SCREENSHOTS=DIR the test
// also leaves pictures of the page there.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { pathToFileURL } from 'node:url';
import { kVariants, qidAt } from './sample_data.mjs';

const [renderer, chromiumPath = '/usr/bin/chromium'] = process.argv.slice(2);
for (const program of [renderer, chromiumPath]) {
  if (!program || !existsSync(program)) throw new Error(`usage: report_test.mjs RENDER_REPORT [CHROMIUM]; not found: ${program}`);
}
// The driver is locked with the page's own packages.
const require = createRequire(new URL('../../web/package.json', import.meta.url));
const { chromium } = require('playwright-core');

const kFigures = [
  'plot-exponents', 'plot-qid-D', 'plot-qid-N', 'plot-qid-bits', 'plot-agreement', 'plot-loss16', 'plot-pareto',
  'plot-prediction',
];
const kTight = 1e-9;
const folder = mkdtempSync(join(tmpdir(), 'fewbit-report-'));
const screenshots = process.env.FEWBIT_SCREENSHOTS;
let browser;

before(async () => {
  browser = await chromium.launch({
    executablePath: chromiumPath,
    args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-component-update', '--disable-sync'],
  });
});
after(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true, force: true });
});

function render(name) {
  const data = kVariants[name]();
  const json = join(folder, `${name}.json`);
  const html = join(folder, `${name}.html`);
  writeFileSync(json, JSON.stringify(data));
  execFileSync(renderer, [json, html]);
  return { data, html };
}

// Opens a report; `problems` collects console errors, exceptions and requests that leave the file.
async function open(name, options = {}) {
  const { data, html } = render(name);
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: 'light', acceptDownloads: true, ...options });
  const page = await context.newPage();
  const url = pathToFileURL(html).href;
  const problems = [];
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) problems.push(`console: ${message.text()}`);
  });
  page.on('pageerror', (error) => problems.push(`exception: ${error.message}`));
  page.on('request', (request) => {
    if (request.url().split('#')[0] !== url && !/^(data|blob):/.test(request.url())) problems.push(`request: ${request.url()}`);
  });
  await page.goto(url);
  await page.waitForSelector('#rows');
  // Plots appear with the first notification of their width.
  await page.waitForFunction((ids) => ids.every((id) => document.querySelector(`#${id} .stage`)?.childElementCount), kFigures);
  return { page, context, data, problems };
}

const close = (value, expected, tolerance = kTight) =>
  assert.ok(Math.abs(value - expected) <= tolerance * Math.abs(expected), `${value} is not ${expected}`);

function lawOf(fit) {
  const at = Object.fromEntries(fit.params.map((p) => [p.name, p.value]));
  return { lnK: at['ln k'], beta: at.beta, alpha: at.alpha, gamma: at.gamma };
}

const result = async (page, key) => Number(await page.getAttribute(`[data-result="${key}"]`, 'data-value'));

async function setPanel(page, N, D, P) {
  for (const [variable, value] of Object.entries({ N, D, P })) {
    await page.fill(`#prediction input[type=text][data-variable=${variable}]`, String(value));
  }
}

async function downloadText(page, click) {
  const [file] = await Promise.all([page.waitForEvent('download'), click()]);
  return { name: file.suggestedFilename(), text: readFileSync(await file.path(), 'utf8') };
}

// RFC 4180, enough for the page's own output.
function parseCsv(text) {
  const rows = [[]];
  for (const match of text.matchAll(/("(?:[^"]|"")*"|[^,\r\n]*)(,|\r\n|$)/g)) {
    if (match[0] === '' && match.index === text.length) break;
    const cell = match[1].startsWith('"') ? match[1].slice(1, -1).replaceAll('""', '"') : match[1];
    rows.at(-1).push(cell);
    if (match[2] === '\r\n') rows.push([]);
  }
  return rows.filter((row) => row.length > 0);
}

test('every plot is drawn with marks', async () => {
  const { page, context, data, problems } = await open('full');
  for (const id of kFigures) {
    const shapes = await page.locator(`#${id} .stage > svg`).locator('circle, path, line').count();
    assert.ok(shapes > 10, `${id} has ${shapes} shapes`);
    assert.ok((await page.getAttribute(`#${id} .stage > svg`, 'aria-label')).length > 40, `${id} is described`);
  }
  const selected = data.rows.filter((row) => row.method === 'gptq' && row.dataset === 'novels');
  const dots = page.locator('#plot-qid-D g[aria-label="dot"] > *');
  assert.equal(await dots.count(), selected.length, 'one mark per measurement, whatever its sign');
  const fitted = page.locator('#plot-agreement g[aria-label="dot"]').first().locator('> *');
  assert.equal(await fitted.count(), data.fits[0].points.length);
  assert.deepEqual(problems, []);
  await context.close();
});

test('the headline states exponents, intervals and the paper', async () => {
  const { page, context, data } = await open('full');
  for (const parameter of data.fits[0].params.filter((p) => p.name !== 'ln k')) {
    const card = await page.locator(`[data-parameter="${parameter.name}"]`).innerText();
    assert.ok(card.includes(String(Number(parameter.value.toPrecision(3)))), card);
    assert.match(card, /95%: .* to /);
    assert.match(card, /sign as in the paper/);
    assert.match(card, /paper [0-9.]+/);
  }
  assert.match(await page.locator('#headline .lead').innerText(), /grows with training tokens, shrinks with model size and shrinks with bits/);
  await context.close();
});

test('the panel recomputes and equals the formula', async () => {
  const { page, context, data, problems } = await open('full');
  const fit = data.fits[0];
  for (const [N, D, P] of [[98304, 8388608, 3], [98304, 8388608, 4], [1e6, 8388608, 2], [1e6, 2e7, 2]]) {
    await setPanel(page, N, D, P);
    const qid = qidAt(lawOf(fit), N, D, P);
    close(await result(page, 'qid'), qid);
    const loss16 = await result(page, 'loss16');
    close(await result(page, 'loss'), loss16 + qid);
    const level = await result(page, 'level');
    close(qidAt(lawOf(fit), N, level, P), 0.2, 1e-6);
  }
  await setPanel(page, '0.1M', '8.4e6', 3);
  close(await result(page, 'qid'), qidAt(lawOf(fit), 1e5, 8.4e6, 3));

  const draws = fit.draws.map(([lnK, beta, alpha, gamma]) => qidAt({ lnK, beta, alpha, gamma }, 1e5, 8.4e6, 3)).sort((a, b) => a - b);
  const shown = (await page.locator('[data-result=qid] span').innerText()).match(/([0-9.]+) to ([0-9.]+)/);
  close(Number(shown[1]), draws[Math.round(0.025 * 199)], 0.01);
  close(Number(shown[2]), draws[Math.round(0.975 * 199)], 0.01);

  const slider = page.locator('#prediction input[type=range][data-variable=D]');
  const before = await result(page, 'qid');
  await slider.focus();
  for (let i = 0; i < 25; ++i) await page.keyboard.press('ArrowRight');
  assert.ok((await result(page, 'qid')) > before, 'more tokens, more degradation');
  const box = await page.inputValue('#prediction input[type=text][data-variable=D]');
  close(await result(page, 'qid'), qidAt(lawOf(fit), 1e5, Number(box.replace('M', 'e6')), 3));

  const last = await result(page, 'qid');
  await page.fill('#prediction input[type=text][data-variable=N]', 'many');
  assert.equal(await page.getAttribute('#prediction input[type=text][data-variable=N]', 'aria-invalid'), 'true');
  assert.equal(await result(page, 'qid'), last, 'nonsense changes nothing');
  assert.deepEqual(problems, []);
  await context.close();
});

test('the panel warns outside the data and beyond random', async () => {
  const { page, context } = await open('full');
  const warnings = () => page.locator('#prediction .warnings').innerText();
  await setPanel(page, 98304, 8388608, 3);
  assert.equal(await warnings(), '');
  await setPanel(page, 98304 * 64, 8388608, 3);
  assert.match(await warnings(), /EXTRAPOLATION.*N lies 1\.39 e-folds/);
  await setPanel(page, 24576, 1e10, 2);
  assert.match(await warnings(), /Worse than random/);
  assert.match(await warnings(), /D lies/);
  await setPanel(page, 98304, 8388608, 6);
  assert.match(await warnings(), /P lies 2\.00 bits above/);
  await context.close();
});

test('selecting a method changes the law everywhere', async () => {
  const { page, context, data, problems } = await open('full');
  await page.getByLabel('Method').first().selectOption('rtn');
  const fit = data.fits.find((f) => f.method === 'rtn' && f.dataset === 'novels');
  await setPanel(page, 98304, 8388608, 3);
  close(await result(page, 'qid'), qidAt(lawOf(fit), 98304, 8388608, 3));
  const beta = fit.params.find((p) => p.name === 'beta').value;
  assert.ok((await page.locator('[data-parameter=beta]').innerText()).includes(String(Number(beta.toPrecision(3)))));
  await page.getByLabel('Method').first().selectOption('gptq');
  await page.getByLabel('Law', { exact: true }).selectOption({ label: 'gptq, novels, 3 bits' });
  assert.equal(await page.inputValue('#prediction input[type=text][data-variable=P]'), '3');
  await page.getByLabel('Bits').first().selectOption('2');
  assert.deepEqual(problems, []);
  await context.close();
});

test('the table sorts, filters and comes out as CSV', async () => {
  const { page, context, data, problems } = await open('full');
  const csv = async () => parseCsv((await downloadText(page, () => page.click('#download-csv'))).text);
  const header = page.locator('th[data-key=qid] button');
  await header.click();
  assert.equal(await page.getAttribute('th[data-key=qid]', 'aria-sort'), 'ascending');
  assert.ok(await header.evaluate((e) => e === document.activeElement), 'the focus stays');
  await page.keyboard.press('Enter');
  assert.equal(await page.getAttribute('th[data-key=qid]', 'aria-sort'), 'descending');
  const [keys, ...rows] = await csv();
  const at = keys.indexOf('qid');
  const values = rows.map((row) => row[at]).filter((cell) => cell !== '').map(Number);
  assert.equal(rows.length, data.rows.length);
  assert.deepEqual(values, [...values].sort((a, b) => b - a));
  assert.deepEqual(rows.slice(values.length).map((row) => row[at]), rows.slice(values.length).map(() => ''), 'missing values are last');
  assert.deepEqual(new Set(values), new Set(data.rows.filter((r) => r.qid !== null).map((r) => r.qid)), 'full precision');
  const first = await page.locator('tbody tr').first().innerText();
  assert.ok(first.includes(Math.max(...values).toPrecision(3)), first);

  await page.getByLabel('Find').fill('rtn bits=3');
  const expected = data.rows.filter((row) => row.recipe.includes('rtn:bits=3')).length;
  assert.equal((await csv()).length - 1, expected);
  await page.locator('#rows').getByLabel('Data').selectOption('news');
  assert.equal((await csv()).length - 1, expected / 2);
  await page.getByLabel('Find').fill('no such row');
  assert.match(await page.locator('.table-status').innerText(), /No row matches/);
  await page.getByLabel('All columns').check();
  assert.ok((await page.locator('th').count()) > 20);
  assert.deepEqual(problems, []);
  await context.close();
});

test('every plot is saved as a valid picture', async () => {
  const { page, context, problems } = await open('full');
  const size = (svg) => page.evaluate(async (text) => {
    const error = new DOMParser().parseFromString(text, 'image/svg+xml').querySelector('parsererror');
    if (error) return error.textContent;
    const image = new Image();
    image.src = `data:image/svg+xml,${encodeURIComponent(text)}`;
    await image.decode();
    return [image.naturalWidth, image.naturalHeight];
  }, svg);
  for (const id of kFigures) {
    const { name, text } = await downloadText(page, () => page.click(`#${id} .figure-head button`));
    assert.equal(name, `${id}.svg`);
    assert.ok(!/<script|var\(|href=/.test(text), `${id} stands alone`);
    const [width, height] = await size(text);
    assert.ok(width > 200 && height > 100, `${id}: ${width} x ${height}`);
  }
  assert.deepEqual(problems, []);
  await context.close();
});

test('both themes, chosen by the system or the reader, are legible', async () => {
  const { page, context, problems } = await open('full');
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dot = () => page.getAttribute('#plot-qid-D g[aria-label="dot"] circle, #plot-qid-D g[aria-label="dot"] path', 'fill');
  const lowest = () => page.evaluate(() => {
    const style = getComputedStyle(document.documentElement);
    const luminance = (name) => {
      const hex = style.getPropertyValue(name).trim();
      const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255).map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const pairs = [['--ink', '--paper'], ['--muted', '--paper'], ['--muted', '--wash'], ['--accent', '--paper'],
      ['--good', '--good-wash'], ['--bad', '--bad-wash'], ['--open', '--open-wash']];
    return Math.min(...pairs.map((pair) => {
      const [a, b] = pair.map(luminance).sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    }));
  });
  const [light, lightDot] = [await background(), await dot()];
  assert.ok((await lowest()) >= 4.5, 'WCAG AA in light');
  if (screenshots) await page.screenshot({ path: join(screenshots, 'report-light.png'), fullPage: true });
  await page.click('#theme');
  assert.notEqual(await background(), light);
  assert.notEqual(await dot(), lightDot);
  assert.ok((await lowest()) >= 4.5, 'WCAG AA in dark');
  await page.reload();
  await page.waitForSelector('#plot-qid-D .stage svg');
  assert.notEqual(await background(), light, 'the choice is kept');
  if (screenshots) await page.screenshot({ path: join(screenshots, 'report-dark.png'), fullPage: true });
  await page.click('#theme');
  assert.equal(await background(), light);
  assert.deepEqual(problems, []);
  await context.close();

  const system = await open('full', { colorScheme: 'dark' });
  assert.notEqual(await system.page.evaluate(() => getComputedStyle(document.body).backgroundColor), light);
  await system.context.close();
});

test('controls have names, ids are unique, a narrow screen does not scroll sideways', async () => {
  const { page, context, problems } = await open('full', { viewport: { width: 360, height: 740 } });
  const nameless = await page.evaluate(() =>
    [...document.querySelectorAll('button, select, input, summary')]
      .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length))
      .map((e) => e.outerHTML));
  assert.deepEqual(nameless, []);
  const repeated = await page.evaluate(() => {
    const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
    return ids.filter((id, i) => ids.indexOf(id) !== i);
  });
  assert.deepEqual(repeated, []);
  const [content, width] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(content <= width, `${content} > ${width}`);
  if (screenshots) await page.screenshot({ path: join(screenshots, 'report-narrow.png'), fullPage: true });
  assert.deepEqual(problems, []);
  await context.close();
});

test('a point tells about itself under the pointer', async () => {
  const { page, context, problems } = await open('full');
  const point = page.locator('#plot-qid-D g[aria-label="dot"] > *').nth(5);
  await point.scrollIntoViewIfNeeded();
  const box = await point.boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  await page.waitForFunction(() => document.querySelector('#plot-qid-D g[aria-label="tip"] text'));
  const tip = await page.locator('#plot-qid-D g[aria-label="tip"] text').textContent();
  assert.match(tip, /gptq.*QiD/s);
  assert.deepEqual(problems, []);
  await context.close();
});

for (const name of Object.keys(kVariants).filter((variant) => variant !== 'full')) {
  test(`a study that is ${name} renders without an error`, async () => {
    const { page, context, data, problems } = await open(name);
    assert.equal(await page.locator('h1').innerText(), data.title);
    assert.equal(await page.locator('tbody tr').count(), Math.min(data.rows.length, 60));
    assert.equal(await page.locator('main section').count(), 6);
    const drawn = await page.locator('#plot-qid-D .stage > svg').count();
    assert.equal(drawn, data.rows.some((row) => typeof row.qid === 'number') ? 1 : 0);
    const broken = await page.evaluate(() =>
      [...document.querySelectorAll('.stage svg *')].filter((e) => [...e.attributes].some((a) => /NaN|Infinity|undefined/.test(a.value))).length);
    assert.equal(broken, 0, 'no mark at an impossible place');
    assert.ok(!/NaN|Infinity|undefined/.test(await page.locator('#report').innerText()), 'no impossible number is printed');
    if (screenshots) await page.screenshot({ path: join(screenshots, `report-${name}.png`), fullPage: true });
    if (name === 'all-negative') {
      const selected = data.rows.filter((row) => row.method === 'gptq' && row.dataset === 'novels');
      assert.equal(await page.locator('#plot-qid-D g[aria-label="dot"] > *').count(), selected.length);
    }
    assert.deepEqual(problems, []);
    await context.close();
  });
}
