import { phone } from './phone.mjs';

export default {
  hasString: async () => phone.copied !== '',
  hasWebURL: async () => phone.copied.includes('://'),
  getString: async () => phone.copied,
};
