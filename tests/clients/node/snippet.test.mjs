// The TypeScript snippet of the README, compiled as it stands there, on a phone made of stubs.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { beforeEach, test } from 'node:test';

import { landing } from './build/firstopen.js';
import { DOMAIN, PUBLISHABLE_KEY, SERVICE, link } from './stage.mjs';
import { newPhone, phone } from './stubs/phone.mjs';

const options = {
  baseUrl: SERVICE,
  publishableKey: PUBLISHABLE_KEY,
  domain: DOMAIN,
  appVersion: '2.3',
  mayPaste: async () => true,
};
const HOME = { screen: 'home', params: {}, url: null };

beforeEach(() => newPhone('ios'));

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
    clipboard: null,
  });
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
    ['https://bank.example/account', true, null],
  ]) {
    newPhone('ios');
    phone.copied = copied;
    await landing(answering(leave), null);
    assert.equal(phone.asked[0].clipboard, sent);
  }
  assert.equal(questions, 3);
});

test('Android sends the raw install referrer, and leaves the clipboard alone', async () => {
  newPhone('android');
  phone.copied = link('summer');
  phone.referrer = `deepLink=${encodeURIComponent(link('fb-promo'))}&utm_source=x`;
  await landing(options, null);
  assert.equal(phone.asked[0].installReferrer, phone.referrer);
  assert.equal('clipboard' in phone.asked[0], false);
});

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
});
