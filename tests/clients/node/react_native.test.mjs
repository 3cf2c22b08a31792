// Dub's own React Native SDK, unchanged but for its base URL, with its native modules stubbed.
import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';

import { DOMAIN, PUBLISHABLE_KEY, SERVICE, link, onABadDay } from './stage.mjs';
import { newPhone, phone } from './stubs/phone.mjs';
import dub from '@dub/react-native';

const start = (os, publishableKey = PUBLISHABLE_KEY) => {
  newPhone(os);
  dub.init({ publishableKey, domain: DOMAIN, baseUrl: SERVICE });
};

beforeEach(() => start('ios'));

test('trackOpen with a link stores its click; trackLead and trackSale with it succeed', async () => {
  const open = await dub.trackOpen(link('fb-promo'));
  assert.match(open.clickId, /^[A-Za-z0-9]{16}$/);
  assert.equal(open.link.key, 'fb-promo');
  assert.equal(phone.storage.get('dub:click_id'), open.clickId);

  const lead = await dub.trackLead({ eventName: 'Sign up', customerExternalId: 'rn-anna' });
  assert.equal(lead.click.id, open.clickId);
  assert.equal(lead.link.key, 'fb-promo');
  assert.equal(lead.customer.externalId, 'rn-anna');

  const sale = await dub.trackSale({ customerExternalId: 'rn-anna', amount: 1999, invoiceId: 'rn-1' });
  assert.equal(sale.sale.amount, 1999);
  assert.equal(sale.customer.externalId, 'rn-anna');
});

test('a sale with the click of an open needs no lead before it', async () => {
  const { clickId } = await dub.trackOpen(`https://${DOMAIN}/summer`); // as it is on a phone, without the demo's port
  const { customer } = await dub.trackSale({ customerExternalId: 'rn-ben', amount: 500 });
  assert.equal(customer.externalId, 'rn-ben');
  assert.equal(await dub.clickId(), clickId);
});

test('two phones with one User-Agent get two clicks; one that asks again keeps its own', async () => {
  const anna = await dub.trackOpen(link('summer'));
  assert.equal((await dub.trackOpen(link('summer'))).clickId, anna.clickId);
  start('ios');
  assert.notEqual((await dub.trackOpen(link('summer'))).clickId, anna.clickId);
});

for (const os of ['ios', 'android']) {
  test(`trackOpen without a link, and with nothing to go by, stores no click (${os})`, async () => {
    start(os);
    const open = await dub.trackOpen();
    assert.deepEqual(phone.asked, [{ dubDomain: DOMAIN }]);
    assert.deepEqual([open.clickId, open.link], [null, null]);
    assert.equal(await dub.clickId(), null);
    await assert.rejects(dub.trackLead({ eventName: 'Sign up', customerExternalId: 'rn-carl' }), /Missing click ID/);
  });

  test(`trackOpen without a link takes the one that the store page copied (${os})`, async () => {
    start(os);
    phone.copied = link('join-anna');
    const open = await dub.trackOpen();
    assert.equal(open.link.key, 'join-anna');
    assert.equal(phone.storage.get('dub:click_id'), open.clickId);
  });
}

test('an unknown link and an unknown key are errors, as at Dub', async () => {
  await assert.rejects(dub.trackOpen(link('no-such-link')), /404/);
  start('ios', 'dub_pk_nobody');
  await assert.rejects(dub.trackOpen(link('fb-promo')), /401/);
});

test('while Dub is away the open is answered, without a click', async () => {
  const open = await onABadDay({ route: '/track/open', status: 503 }, () => dub.trackOpen(link('press')));
  assert.equal(open.clickId, null);
});
