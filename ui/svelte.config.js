// SvelteKit's configuration of llama.cpp's page, with a version that is no time: the same input gives the same bytes.

import upstream from './upstream.svelte.config.js';

upstream.kit.version = { name: process.env.PAGE_VERSION };

export default upstream;
