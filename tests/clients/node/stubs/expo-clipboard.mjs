import { phone } from './phone.mjs';

export const hasUrlAsync = async () => phone.copied.includes('://');
export const getStringAsync = async () => phone.copied;
