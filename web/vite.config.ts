// Builds one HTML file: script and style are put inside the page, so that it opens from a disk
// and asks the network for nothing. The data marker of report.html passes through untouched;
// render_report() of fewbit puts the study in its place.
import { fileURLToPath } from 'node:url';
import { defineConfig, type Plugin } from 'vite';

const kDataMarker = '@FEWBIT_DATA@';

function inlineAssets(): Plugin {
  return {
    name: 'inline-assets',
    enforce: 'post',
    apply: 'build',
    generateBundle(_options, bundle) {
      const page = Object.values(bundle).find((file) => file.fileName.endsWith('.html'));
      if (page?.type !== 'asset') throw new Error('the bundle holds no HTML page');
      let html = String(page.source);
      for (const file of Object.values(bundle)) {
        if (file === page) continue;
        const name = file.fileName.replaceAll('.', '\\.');
        // Replacements are functions: a string would have its "$&" expanded.
        if (file.type === 'chunk') {
          const code = file.code.replaceAll('</script', '<\\/script').replaceAll('<!--', '<\\!--');
          html = html.replace(
            new RegExp(`<script [^>]*src="[^"]*${name}"[^>]*></script>`),
            () => `<script type="module">${code.trim()}</script>`,
          );
        } else if (file.fileName.endsWith('.css')) {
          const style = String(file.source).trim();
          html = html.replace(
            new RegExp(`<link [^>]*href="[^"]*${name}"[^>]*>`),
            () => `<style>${style}</style>`,
          );
        } else {
          throw new Error(`${file.fileName}: only scripts and styles can be inlined`);
        }
        delete bundle[file.fileName];
      }
      if (html.split(kDataMarker).length !== 2) {
        throw new Error(`the page must hold the marker ${kDataMarker} exactly once`);
      }
      page.source = html;
    },
  };
}

// `npm run dev` shows the synthetic study of the browser test.
function sampleData(): Plugin {
  return {
    name: 'sample-data',
    apply: 'serve',
    async transformIndexHtml(html) {
      const sample = fileURLToPath(new URL('../tests/browser/sample_data.mjs', import.meta.url));
      const { sampleReport } = await import(/* @vite-ignore */ sample);
      const json = JSON.stringify(sampleReport()).replaceAll('<', '\\u003c');
      return html.replace(kDataMarker, () => json);
    },
  };
}

export default defineConfig({
  root: fileURLToPath(new URL('.', import.meta.url)),
  base: './',
  plugins: [inlineAssets(), sampleData()],
  build: {
    target: 'es2022',
    cssCodeSplit: false,
    modulePreload: false,
    reportCompressedSize: false,
    chunkSizeWarningLimit: 1024,
    rollupOptions: {
      input: fileURLToPath(new URL('report.html', import.meta.url)),
      output: { inlineDynamicImports: true },
    },
  },
  test: { include: ['test/**/*.test.ts'] },
} as Parameters<typeof defineConfig>[0]);
