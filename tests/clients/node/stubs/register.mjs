// `node --import ./stubs/register.mjs`: native modules are replaced by the stubs beside this file.
import { register } from 'node:module';

register('./hooks.mjs', import.meta.url);
