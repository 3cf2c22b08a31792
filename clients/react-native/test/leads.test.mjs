// Leads: sent again while that may help, and always with the same body.
import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';

import { Firstopen, FirstopenError } from '../build/index.js';
import { newPhone, pass, script } from './phone.mjs';

const LEAD = { eventName: 'Sign up', customerExternalId: 'user_1', customerEmail: 'anna@acme.com' };
const DELIVERED = { leadId: 'lead-1', status: 'delivered' };
let firstopen, phone, errors;

beforeEach((t) => {
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  phone = newPhone();
  errors = [];
  firstopen = new Firstopen({
    baseUrl: 'https://opens.acme.com',
    publishableKey: 'dub_pk_acme',
    domains: ['acme.link'],
    phone,
    home: 'home',
    onError: (error) => errors.push(String(error)),
  });
});

test('a lead names the install', async (t) => {
  const called = script(t, DELIVERED);
  assert.deepEqual(await firstopen.lead(LEAD), DELIVERED);
  assert.deepEqual([called[0].path, called[0].body], ['/v1/leads', { ...LEAD, installId: await firstopen.installId() }]);
});

test('no network, 5xx and 429 are tried again with the same body, after Retry-After if there is one', async (t) => {
  const called = script(t, new TypeError('offline'), [503, {}], [429, { 'Retry-After': '7' }], DELIVERED);
  const reported = firstopen.lead(LEAD);
  for (const [ms, calls] of [[0, 1], [999, 1], [1, 2], [3999, 2], [1, 3], [6999, 3], [1, 4]]) {
    await pass(t, ms);
    assert.equal(called.length, calls);
  }
  assert.deepEqual(await reported, DELIVERED);
  for (const { body } of called) assert.deepEqual(body, called[0].body);
  assert.deepEqual(errors, [
    'TypeError: offline',
    'FirstopenError: firstopen answered 503',
    'FirstopenError: firstopen answered 429',
  ]);
});

test('a refused lead is not tried again', async (t) => {
  const called = script(t, [403, {}]);
  await assert.rejects(firstopen.lead(LEAD), (error) => error instanceof FirstopenError && error.status === 403);
  assert.equal(called.length, 1);
});

test('it gives up after five tries, and throws the last error', async (t) => {
  const called = script(t, ...Array.from({ length: 5 }, () => [503, {}]));
  const reported = assert.rejects(firstopen.lead(LEAD), /503/);
  for (const ms of [1_000, 4_000, 15_000, 60_000]) await pass(t, ms);
  await reported;
  assert.equal(called.length, 5);
});

test('without an install id there is no lead', async (t) => {
  const called = script(t);
  phone.store.getItem = async () => {
    throw new Error('disk');
  };
  await assert.rejects(firstopen.lead(LEAD), /disk/);
  assert.equal(called.length, 0);
});
