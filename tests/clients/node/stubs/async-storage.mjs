import { phone } from './phone.mjs';

export default {
  getItem: async (key) => phone.storage.get(key) ?? null,
  setItem: async (key, value) => void phone.storage.set(key, value),
  removeItem: async (key) => void phone.storage.delete(key),
};
