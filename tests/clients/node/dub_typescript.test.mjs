// Dub's own TypeScript SDK for servers, unchanged but for its server URL.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { SERVER_KEY, SERVICE, newClick } from './stage.mjs';
import { Dub } from 'dub';
import { NotFound, Unauthorized } from 'dub/models/errors';

// `/events` allows two calls a second here, and the tests before this one may have made them: the client tries again after its 429.
const backoff = { initialInterval: 200, maxInterval: 1000, exponent: 1.5, maxElapsedTime: 5000 };
const retryConfig = { strategy: 'backoff', backoff, retryConnectionErrors: false };
const dub = new Dub({ token: SERVER_KEY, serverURL: SERVICE, retryConfig });

test('a lead is answered, listed, and counted once', async () => {
  const lead = { clickId: await newClick('ts-install-1'), eventName: 'Sign up', customerExternalId: 'ts-anna' };
  const first = await dub.track.lead(lead);
  assert.equal(first.link.key, 'fb-promo');
  assert.equal(first.customer.externalId, 'ts-anna');
  assert.equal((await dub.track.lead(lead)).link, null);
  const listed = (await dub.events.list({ event: 'leads' })).filter(({ customer }) => customer.externalId === 'ts-anna');
  assert.deepEqual(listed.map(({ click, eventName }) => [click.id, eventName]), [[lead.clickId, 'Sign up']]);
});

test('a sale is answered', async () => {
  const sale = { clickId: await newClick('ts-install-2'), customerExternalId: 'ts-ben', amount: 1999 };
  assert.equal((await dub.track.sale({ ...sale, invoiceId: 'ts-1' })).sale.amount, 1999);
});

test('an unknown click and a wrong key are its own errors', async () => {
  const lead = { clickId: 'nosuchclick00000', eventName: 'Sign up', customerExternalId: 'ts-carl' };
  await assert.rejects(dub.track.lead(lead), NotFound);
  await assert.rejects(new Dub({ token: 'dub_wrong', serverURL: SERVICE }).track.lead(lead), Unauthorized);
});
