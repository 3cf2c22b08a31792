export * from './firstopen.js';
