// Vite's configuration of llama.cpp's page, without its service worker, and with a list of the files that are bundled.

import upstream from './vite.config';
import { SVELTEKIT_PWA_OPTIONS } from './src/lib/constants/pwa.constants';
import { writeFileSync } from 'node:fs';
import { defineConfig, type Plugin } from 'vite';

SVELTEKIT_PWA_OPTIONS.disable = true;

const bundled: Plugin = {
  name: 'zosia:bundled',
  generateBundle() {
    if (this.environment.name === 'client') {
      // Style sheets that one includes are no modules, but are watched.
      writeFileSync('bundled.json', JSON.stringify([...this.getModuleIds(), ...this.getWatchFiles()]));
    }
  }
};

export default defineConfig((env) => {
  const config = typeof upstream === 'function' ? upstream(env) : upstream;
  return { ...config, plugins: [...config.plugins, bundled] };
});
