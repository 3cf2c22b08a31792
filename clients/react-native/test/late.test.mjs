// Pending answers: asked for until they are final, and handed on only to somebody who has not moved on.
import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';

import { Firstopen } from '../build/index.js';
import { answer, newPhone, pass, pending, script } from './phone.mjs';

let firstopen, late, errors;

beforeEach((t) => {
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  [late, errors] = [[], []];
  firstopen = new Firstopen({
    baseUrl: 'https://opens.acme.com',
    publishableKey: 'dub_pk_acme',
    domains: ['acme.link'],
    phone: newPhone(),
    home: 'home',
    onError: (error) => errors.push(String(error)),
  });
  firstopen.onLate = (landing) => late.push(landing);
});

const paths = (called) => called.map(({ method, path }) => `${method} ${path}`);

test('a pending answer is asked for after each retryAfterMs until it is final', async (t) => {
  const called = script(t, pending(), pending({ retryAfterMs: 8000 }), answer());
  await firstopen.start(null);
  await pass(t, 1999);
  assert.equal(called.length, 1);
  await pass(t, 1);
  assert.equal(called.length, 2);
  await pass(t, 7999);
  assert.equal(called.length, 2);
  await pass(t, 1);
  assert.deepEqual(paths(called), ['POST /v1/opens', 'GET /v1/opens/open-1', 'GET /v1/opens/open-1']);
  assert.deepEqual(late, [answer()]);
  await pass(t, 60_000);
  assert.equal(called.length, 3);
});

test('a final answer that changes nothing is not handed on', async (t) => {
  script(t, pending(), pending({ pending: false }));
  await firstopen.start(null);
  await pass(t, 2000);
  assert.deepEqual(late, []);
});

test('a person who has moved on is left alone', async (t) => {
  const called = script(t, pending());
  await firstopen.start(null);
  firstopen.movedOn();
  await pass(t, 2000);
  assert.deepEqual([late, called.length], [[], 1]);
});

test('a person who moves on while the late answer is under way is left alone', async (t) => {
  let deliver;
  script(t, pending(), new Promise((resolve) => (deliver = resolve)));
  await firstopen.start(null);
  await pass(t, 2000);
  firstopen.movedOn();
  deliver(answer());
  await pass(t, 0);
  assert.deepEqual(late, []);
});

test('a later open supersedes the late answer of an earlier one', async (t) => {
  const called = script(t, pending(), answer({ openId: 'open-2' }));
  await firstopen.start(null);
  await firstopen.opened('https://acme.link/other');
  await pass(t, 2000);
  assert.deepEqual([late, called.length], [[], 2]);
});

test('a lost connection, 503 and 429 are waited out; Retry-After counts', async (t) => {
  const called = script(t, pending(), new TypeError('offline'), [503, {}], [429, { 'Retry-After': '9' }], answer());
  await firstopen.start(null);
  for (const [ms, calls] of [[2000, 2], [4000, 3], [8000, 4], [8999, 4], [1, 5]]) {
    await pass(t, ms);
    assert.equal(called.length, calls);
  }
  assert.equal(late.length, 1);
});

test('a 404 ends it', async (t) => {
  const called = script(t, pending(), [404, {}]);
  await firstopen.start(null);
  await pass(t, 2000);
  await pass(t, 60_000);
  assert.deepEqual([called.length, errors], [2, ['FirstopenError: firstopen answered 404']]);
});

test('it ends after a minute', async (t) => {
  const called = script(t, ...Array.from({ length: 20 }, () => pending({ retryAfterMs: 9000 })));
  await firstopen.start(null);
  for (let round = 0; round < 20; round += 1) await pass(t, 9000);
  assert.equal(called.length, 7);
  assert.deepEqual(late, []);
});
