// The package clients/react-native, on a phone made of stubs.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { beforeEach, test } from 'node:test';

import { landing, ownLink } from './build/firstopen.js';
import { DOMAIN, PUBLISHABLE_KEY, SERVICE, link } from './stage.mjs';
import { newPhone, phone } from './stubs/phone.mjs';

const options = {
  baseUrl: SERVICE,
  publishableKey: PUBLISHABLE_KEY,
  domains: [DOMAIN],
  appVersion: '2.3',
  home: 'home',
  mayPaste: async () => true,
  onError: (error) => errors.push(error),
};
const errors = [];
const HOME = { screen: 'home', params: {}, url: null };

beforeEach(() => {
  newPhone('ios');
  errors.length = 0;
});

test('a link lands on its screen, with a click that is this install\'s', async () => {
  const first = await landing(options, link('fb-promo?ref=ig'));
  assert.deepEqual(first.route, {
    screen: 'product',
    params: { id: '123' },
    url: 'https://acme.com/product/123?ref=ig',
    reason: 'matched',
  });
  const again = await landing(options, link('fb-promo?ref=ig'));
  assert.deepEqual([again.clickId, again.repeat], [first.clickId, true]);
  newPhone('ios');
  assert.notEqual((await landing(options, link('fb-promo?ref=ig'))).clickId, first.clickId);
});

test('a first launch is reported, a later one without a link is not', async () => {
  assert.equal((await landing(options, null)).route.screen, 'home');
  assert.equal((await landing(options, null)).route.screen, 'home');
  assert.equal(phone.asked.length, 1);
  assert.deepEqual(phone.asked[0], {
    deepLink: null,
    dubDomain: DOMAIN,
    installId: phone.storage.get('firstopen.installId'),
    platform: 'ios',
    appVersion: '2.3',
    budgetMs: 1500,
    installedAt: Math.floor(phone.installedMs / 1000),
    clipboard: null,
  });
  assert.deepEqual(errors, []);
});

test('without an answer it is the screen that the app names', async () => {
  phone.online = false;
  assert.equal((await landing({ ...options, home: 'feed' }, null)).route.screen, 'feed');
});

test('a platform that firstopen does not know and an unknown time of installation are left out', async () => {
  newPhone('macos');
  phone.installedMs = -1;
  await landing(options, link('fb-promo'));
  assert.equal('platform' in phone.asked[0], false);
  assert.equal('installedAt' in phone.asked[0], false);
});

test('a first launch that was not answered is reported by the next one, with the same installId', async () => {
  phone.online = false;
  assert.deepEqual((await landing(options, null)).route, HOME);
  phone.online = true;
  const installId = phone.storage.get('firstopen.installId');
  await landing(options, null);
  assert.deepEqual(phone.asked.map((open) => open.installId), [installId]);
});

test('the clipboard is read with leave only, and only a link of ours is sent', async () => {
  let questions = 0;
  const answering = (leave) => ({ ...options, mayPaste: async () => ((questions += 1), leave) });
  phone.copied = 'my private words';
  await landing(answering(true), null);
  assert.equal(questions, 0);
  for (const [copied, leave, sent] of [
    [link('fb-promo'), false, null],
    [link('fb-promo'), true, link('fb-promo')],
    [`dear anna, ${link('fb-promo')} is great`, true, link('fb-promo')],
    ['https://bank.example/account', true, null],
    [`https://evil.example/?${DOMAIN}`, true, null],
  ]) {
    newPhone('ios');
    phone.copied = copied;
    await landing(answering(leave), null);
    assert.equal(phone.asked[0].clipboard, sent);
  }
  assert.equal(questions, 5);
  assert.deepEqual(errors, []);
});

const OWN = 'https://acme.link/fb-promo';

for (const [text, own] of [
  [`dear anna, ${OWN} is great`, OWN],
  [`「${OWN}」是好的`, OWN],
  [`${OWN}是好的`, OWN],
  [`"${OWN}",\u200b <${OWN}>`, OWN],
  [`Look (${OWN})!`, OWN],
  [`Seen ${OWN}?! Bye`, OWN],
  [`https://bank.example/account ${OWN}?ref=ig#top`, `${OWN}?ref=ig#top`],
  ['HTTPS://WWW.Acme.Link:443/fb-promo', 'HTTPS://WWW.Acme.Link:443/fb-promo'],
  ['https://acme.link', 'https://acme.link'],
  ['https://go.acme.com/x', 'https://go.acme.com/x'],
  ['https://evil.example/?acme.link', null],
  [`https://evil.example/?to=${OWN}`, null],
  ['https://acme.link.evil.example/x', null],
  ['acme.link.evil.example/x', null],
  ['https://notacme.link/x', null],
  ['https://shop.acme.link/x', null],
  ['https://acme.link@evil.example/x', null],
  ['https://acme.link:secret@evil.example/x', null],
  ['https://anna:secret@acme.link/x', null],
  ['https://evil.example\\@acme.link/x', null],
  ['my account at acme.link has the password hunter2', null],
  ['ftp://acme.link/x', null],
  [`${OWN}?${'x'.repeat(2048)}`, null],
  ['', null],
]) {
  test(`of ${JSON.stringify(text.slice(0, 60))} on the clipboard, ${own ?? 'nothing'} leaves the phone`, () => {
    assert.equal(ownLink(text, ['acme.link', 'www.GO.acme.com']), own);
  });
}

test('Android sends the raw install referrer, and leaves the clipboard alone', async () => {
  newPhone('android');
  phone.copied = link('summer');
  phone.referrer = `deepLink=${encodeURIComponent(link('fb-promo'))}&utm_source=x`;
  await landing(options, null);
  assert.equal(phone.asked[0].installReferrer, phone.referrer);
  for (const left of ['clipboard', 'referrerClickedAt', 'installBeganAt']) assert.equal(left in phone.asked[0], false);
});

test('Play\'s two times are sent with its referrer', async () => {
  newPhone('android');
  const [clicked, began] = [120, 90].map((ago) => Math.floor(Date.now() / 1000) - ago);
  phone.referrer = 'utm_source=google-play&utm_medium=organic';
  phone.playTimes = { referrerClickTimestampSeconds: `${clicked}`, installBeginTimestampSeconds: `${began}` };
  await landing(options, null);
  assert.deepEqual([phone.asked[0].referrerClickedAt, phone.asked[0].installBeganAt], [clicked, began]);
});

test('a phone whose Play Store gives no referrer says so, and reports its launch all the same', async () => {
  newPhone('android');
  phone.referrer = null;
  await landing(options, null);
  assert.deepEqual(errors.map(String), ['Error: SERVICE_UNAVAILABLE']);
  assert.equal(phone.asked[0].platform, 'android');
  assert.equal('installReferrer' in phone.asked[0], false);
});

const EARLY = { openId: 'open-1', clickId: null, route: HOME, pending: true, retryAfterMs: 1 };
const LATE = { ...EARLY, clickId: 'd0UtZqE0BZuBPrJS', route: { ...HOME, screen: 'product' }, pending: false };

test('a pending answer is asked for once more, and a click found late is handed on', async (t) => {
  const late = [];
  const { called, done } = answering(t, EARLY, LATE);
  assert.deepEqual(await landing({ ...options, onLate: (found) => late.push(found) }, null), EARLY);
  await done;
  assert.deepEqual(called, [`POST ${SERVICE}/v1/opens`, `GET ${SERVICE}/v1/opens/open-1`]);
  assert.deepEqual(late, [LATE]);
});

for (const [second, failed] of [
  [{ ...EARLY, pending: false }, []],
  [null, ['Error: firstopen answered 503']],
]) {
  test(`a second answer that ${second ? 'has no click' : 'fails'} hands nothing on`, async (t) => {
    const late = [];
    const { done } = answering(t, EARLY, second);
    await landing({ ...options, onLate: (found) => late.push(found) }, null);
    await done;
    assert.deepEqual([late, errors.map(String)], [[], failed]);
  });
}

test('whatever fails, it is home, and in time', async () => {
  const silent = createServer(() => {}).listen(0, '127.0.0.1');
  await new Promise((resolve) => silent.once('listening', resolve));
  const began = performance.now();
  const late = await landing({ ...options, baseUrl: `http://127.0.0.1:${silent.address().port}` }, link('fb-promo'));
  assert.deepEqual(late.route, HOME);
  assert.ok(performance.now() - began < 2500);
  silent.closeAllConnections();
  silent.close();
  assert.deepEqual((await landing({ ...options, publishableKey: 'dub_pk_nobody' }, link('fb-promo'))).route, HOME);
  assert.deepEqual(errors.map(String), [
    'AbortError: This operation was aborted',
    'Error: firstopen answered 401',
  ]);
});

/** Answer the phone with these, null being a 503; `done` is once it has read the last. */
function answering(t, ...answers) {
  const called = [];
  let finish;
  const done = new Promise((resolve) => (finish = resolve));
  t.mock.method(globalThis, 'fetch', async (url, { method }) => {
    called.push(`${method} ${url}`);
    const answer = answers.shift();
    if (answers.length === 0) setImmediate(finish); // what the phone does with an answer is over by then
    return { status: answer ? 200 : 503, json: async () => answer };
  });
  return { called, done };
}
