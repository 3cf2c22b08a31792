// Cold starts and warm starts: what is reported, and how often.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Firstopen } from '../build/index.js';
import { HOME, ROUTE, answer, idle, newPhone, pass, script } from './phone.mjs';

const LINK = 'https://acme.link/fb-promo';

function newApp(phone = newPhone(), more = {}) {
  const errors = [];
  const firstopen = new Firstopen({
    baseUrl: 'https://opens.acme.com/',
    publishableKey: 'dub_pk_acme',
    domains: ['acme.link'],
    phone,
    home: 'home',
    onError: (error) => errors.push(String(error)),
    ...more,
  });
  return { firstopen, errors };
}

test('a cold start with a link is one request with what the server reads', async (t) => {
  const phone = newPhone();
  const called = script(t, answer());
  const landing = await newApp(phone, { consent: true, budgetMs: 900 }).firstopen.start(LINK);
  assert.deepEqual(landing.route, ROUTE);
  assert.deepEqual(called, [
    {
      method: 'POST',
      path: '/v1/opens',
      headers: { 'Authorization': 'Bearer dub_pk_acme', 'Content-Type': 'application/json' },
      body: {
        deepLink: LINK,
        dubDomain: 'acme.link',
        installId: phone.stored.get('firstopen.installId'),
        platform: 'ios',
        appVersion: '2.3',
        budgetMs: 900,
        consent: true,
        installedAt: 1_790_000_000,
      },
    },
  ]);
});

test('a build that is held at the gate gets its screen with the landing', async (t) => {
  const gate = { kind: 'update', screen: 'update', url: 'https://apps.apple.com/app/id1234567890', message: null };
  script(t, answer({ gate }));
  assert.deepEqual((await newApp().firstopen.start(LINK)).gate, gate);
});

test('a component that mounts twice reports one cold start', async (t) => {
  const called = script(t, answer());
  const { firstopen } = newApp();
  const [first, second] = await Promise.all([firstopen.start(LINK), firstopen.start(LINK)]);
  assert.equal(first, second);
  assert.equal(await firstopen.start(null), first);
  assert.equal(called.length, 1);
});

test('a later cold start without a link is not reported', async (t) => {
  const called = script(t, answer({ route: HOME }));
  const phone = newPhone();
  await newApp(phone).firstopen.start(null);
  const landing = await newApp(phone).firstopen.start(null);
  assert.deepEqual([landing.openId, landing.route.screen], [null, 'home']);
  assert.equal(called.length, 1);
});

test('a first launch without an answer is reported by the next cold start, with the same install id', async (t) => {
  const called = script(t, new TypeError('Network request failed'), answer());
  const phone = newPhone();
  const { firstopen, errors } = newApp(phone);
  assert.equal((await firstopen.start(null)).route.screen, 'home');
  assert.deepEqual(errors, ['TypeError: Network request failed']);
  await newApp(phone).firstopen.start(null);
  assert.equal(called[0].body.installId, called[1].body.installId);
});

test('the install id is made once, even if two callers ask at the same time', async () => {
  const phone = newPhone();
  const { firstopen } = newApp(phone);
  const [first, second] = await Promise.all([firstopen.installId(), firstopen.installId()]);
  assert.equal(first, second);
  assert.equal(await newApp(phone).firstopen.installId(), first);
  assert.match(first, /^[0-9a-f-]{32,36}$/);
});

test('without crypto, as in Hermes, an install id is 32 hex digits', async (t) => {
  t.mock.method(globalThis.crypto, 'randomUUID', () => undefined);
  assert.match(await newApp().firstopen.installId(), /^[0-9a-f]{32}$/);
});

test('a store that fails costs the install id and first-launch evidence, not the open', async (t) => {
  const phone = newPhone('android');
  phone.store.getItem = async () => {
    throw new Error('disk');
  };
  const called = script(t, answer());
  const { firstopen, errors } = newApp(phone);
  assert.deepEqual((await firstopen.start(LINK)).route, ROUTE);
  assert.equal('installId' in called[0].body, false);
  assert.equal('installReferrer' in called[0].body, false);
  assert.deepEqual(errors, ['Error: disk', 'Error: disk']);
});

test('Android sends the referrer and Play\'s two times on a first launch only', async (t) => {
  const called = script(t, answer(), answer());
  const phone = newPhone('android');
  const referrer = { installReferrer: 'deepLink=x', referrerClickedAt: 1_789_999_000, installBeganAt: 1_789_999_500 };
  phone.installReferrer = async () => referrer;
  await newApp(phone).firstopen.start(null);
  const { installReferrer, referrerClickedAt, installBeganAt } = called[0].body;
  assert.deepEqual({ installReferrer, referrerClickedAt, installBeganAt }, referrer);
  await newApp(phone).firstopen.start(LINK);
  assert.equal('installReferrer' in called[1].body, false);
});

test('Google Play may be silent: after 500 ms the open goes without its referrer', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  const called = script(t, answer());
  const phone = newPhone('android');
  phone.installReferrer = () => new Promise(() => {});
  const { firstopen, errors } = newApp(phone);
  const started = firstopen.start(null);
  await pass(t, 499);
  assert.equal(called.length, 0);
  await pass(t, 1);
  await started;
  assert.equal(called.length, 1);
  assert.deepEqual(errors, ['Error: Google Play returned no install referrer within 500 ms']);
});

for (const [name, { hasUrl = true, mayPaste, copied = LINK, os = 'ios', deepLink = null }, sent, read] of [
  ['with leave', { mayPaste: async () => true }, LINK, 1],
  ['without leave', { mayPaste: async () => false }, undefined, 0],
  ['in an app that never asks', {}, undefined, 0],
  ['without a URL', { mayPaste: async () => true, hasUrl: false }, undefined, 0],
  ['with somebody else\'s URL', { mayPaste: async () => true, copied: 'https://bank.example/' }, undefined, 1],
  ['on Android', { mayPaste: async () => true, os: 'android' }, undefined, 0],
  ['beside a deep link', { mayPaste: async () => true, deepLink: LINK }, undefined, 0],
]) {
  test(`the clipboard ${name} is read ${read} times`, async (t) => {
    const called = script(t, answer());
    const phone = newPhone(os);
    let reads = 0;
    phone.clipboard = { hasUrl: async () => hasUrl, read: async () => ((reads += 1), copied) };
    await newApp(phone, mayPaste && { mayPaste }).firstopen.start(deepLink);
    assert.deepEqual([called[0].body.clipboard, reads], [sent, read]);
  });
}

test('an answer later than the budget and 300 ms for the network is not waited for', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  script(t, new Promise(() => {}));
  const { firstopen, errors } = newApp(newPhone(), { budgetMs: 700 });
  let landed = false;
  const started = firstopen.start(LINK).then((landing) => ((landed = true), landing));
  await pass(t, 999);
  assert.equal(landed, false);
  await pass(t, 1);
  assert.equal((await started).route.screen, 'home');
  assert.match(errors[0], /AbortError/);
});

test('a warm start is reported as its own open', async (t) => {
  const called = script(t, answer(), answer({ openId: 'open-2' }));
  const { firstopen } = newApp();
  await firstopen.start(null);
  const landing = await firstopen.opened(LINK);
  assert.equal(landing.openId, 'open-2');
  assert.deepEqual(called.map(({ body }) => body.deepLink), [undefined, LINK]);
});

test('the event that repeats the cold start\'s link is no warm start; the same link later is', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  const called = script(t, answer(), answer());
  const { firstopen } = newApp();
  const started = firstopen.start(LINK);
  assert.equal(await firstopen.opened(LINK), null);
  await started;
  await pass(t, 999);
  assert.equal(await firstopen.opened(LINK), null);
  await pass(t, 1);
  assert.notEqual(await firstopen.opened(LINK), null);
  assert.equal(called.length, 2);
});

test('a warm start without an answer leaves the person where they are', async (t) => {
  script(t, [401, {}]);
  const { firstopen, errors } = newApp();
  assert.equal(await firstopen.opened(LINK), null);
  assert.deepEqual(errors, ['FirstopenError: firstopen answered 401']);
  await idle();
});
