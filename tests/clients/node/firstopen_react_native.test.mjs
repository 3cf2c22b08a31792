// The package clients/react-native with its phones for bare apps and for Expo, whose native modules are stubbed.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { afterEach, beforeEach, test } from 'node:test';

import { phone as bare } from '../../../clients/react-native/build/bare.js';
import { phone as expo } from '../../../clients/react-native/build/expo.js';
import { Firstopen } from '../../../clients/react-native/build/index.js';
import { DOMAIN, PUBLISHABLE_KEY, SERVICE, link, newClick, onABadDay } from './stage.mjs';
import { newPhone, phone } from './stubs/phone.mjs';

const errors = [];
const apps = [];
beforeEach(() => (errors.length = 0));
afterEach(() => apps.forEach((app) => app.movedOn())); // an open with no match stays pending for some 30 s

/** Start the app on the phone in hand. */
function newApp(adapter = bare, changes = {}) {
  const app = new Firstopen({
    baseUrl: SERVICE,
    publishableKey: PUBLISHABLE_KEY,
    domains: [DOMAIN],
    phone: { ...adapter, os: phone.os },
    home: 'home',
    mayPaste: async () => true,
    onError: (error) => errors.push(String(error)),
    ...changes,
  });
  apps.push(app);
  return app;
}

for (const [name, adapter] of [['bare', bare], ['expo', expo]]) {
  test(`${name}: a link lands on its screen, with a click that is this install's`, async () => {
    newPhone('ios');
    const first = await newApp(adapter).start(link('fb-promo?ref=ig'));
    assert.deepEqual(first.route, {
      screen: 'product',
      params: { id: '123' },
      url: 'https://acme.com/product/123?ref=ig',
      reason: 'matched',
    });
    const again = await newApp(adapter).start(link('fb-promo?ref=ig'));
    assert.deepEqual([again.clickId, again.repeat], [first.clickId, true]);
    newPhone('ios');
    assert.notEqual((await newApp(adapter).start(link('fb-promo?ref=ig'))).clickId, first.clickId);
    assert.deepEqual(errors, []);
  });

  test(`${name}: an iPhone's first launch says when it was installed and takes the link that was copied`, async () => {
    newPhone('ios');
    phone.copied = `dear anna, ${link('fb-promo')} is great`;
    const landing = await newApp(adapter).start(null);
    assert.deepEqual([landing.match.type, landing.route.screen], ['clipboard', 'product']);
    assert.deepEqual(phone.asked, [
      {
        dubDomain: DOMAIN,
        installId: phone.storage.get('firstopen.installId'),
        platform: 'ios',
        appVersion: '2.3',
        budgetMs: 1500,
        installedAt: Math.floor(phone.installedMs / 1000),
        clipboard: link('fb-promo'),
      },
    ]);
  });

  test(`${name}: Android's first launch takes the install referrer with Play's two times`, async () => {
    newPhone('android');
    phone.copied = link('summer');
    phone.referrer = `deepLink=${encodeURIComponent(link('fb-promo'))}&utm_source=x`;
    const [clicked, began] = [120, 90].map((ago) => Math.floor(Date.now() / 1000) - ago);
    phone.playTimes = { referrerClickTimestampSeconds: `${clicked}`, installBeginTimestampSeconds: `${began}` };
    const landing = await newApp(adapter).start(null);
    assert.deepEqual([landing.match.type, landing.route.screen], ['install_referrer', 'product']);
    const { installReferrer, referrerClickedAt, installBeganAt, clipboard } = phone.asked[0];
    assert.deepEqual(
      [installReferrer, referrerClickedAt, installBeganAt, clipboard],
      [phone.referrer, clicked, began, undefined],
    );
  });
}

test('Play\'s times are left out where Play does not know them, and so is an unknown time of installation', async () => {
  newPhone('android');
  phone.referrer = 'utm_source=google-play&utm_medium=organic';
  phone.installedMs = -1;
  await newApp().start(null);
  for (const left of ['referrerClickedAt', 'installBeganAt', 'installedAt']) {
    assert.equal(left in phone.asked[0], false);
  }
});

test('a phone whose Play Store gives no referrer reports its launch all the same', async () => {
  newPhone('android');
  phone.referrer = null;
  await newApp().start(null);
  assert.deepEqual(errors, ['Error: SERVICE_UNAVAILABLE']);
  assert.equal(phone.asked[0].platform, 'android');
});

test('a platform that firstopen does not know is left out', async () => {
  newPhone('macos');
  await newApp().start(link('fb-promo'));
  assert.equal('platform' in phone.asked[0], false);
});

test('an open while Dub is away is pending, and lands again once Dub has answered', async () => {
  newPhone('ios');
  const app = newApp();
  const late = new Promise((resolve) => (app.onLate = resolve));
  const early = await onABadDay({ route: '/track/open', status: 503 }, () => app.start(link('press')));
  assert.deepEqual([early.clickId, early.pending], [null, true]);
  const final = await late;
  assert.deepEqual([final.openId, final.pending], [early.openId, false]);
  assert.match(final.clickId, /^[A-Za-z0-9]{16}$/);
});

test('a lead is credited to the install\'s click; the same lead again is the same', async () => {
  newPhone('ios');
  const app = newApp();
  const { clickId } = await app.start(link('fb-promo'));
  const lead = { eventName: 'Sign up', customerExternalId: `user of ${clickId}` };
  const first = await app.lead(lead);
  assert.deepEqual([first.status, first.click.id], ['delivered', clickId]);
  assert.equal((await app.lead(lead)).leadId, first.leadId);
  assert.notEqual(await newClick('pkg-ben'), clickId);
});

test('a service that does not answer costs 1.8 s', async () => {
  newPhone('ios');
  const silent = createServer(() => {}).listen(0, '127.0.0.1');
  await new Promise((resolve) => silent.once('listening', resolve));
  const began = performance.now();
  const landing = await newApp(bare, { baseUrl: `http://127.0.0.1:${silent.address().port}` }).start(link('fb-promo'));
  assert.equal(landing.route.screen, 'home');
  assert.ok(performance.now() - began < 2500);
  silent.closeAllConnections();
  silent.close();
  assert.deepEqual(errors, ['AbortError: This operation was aborted']);
});
