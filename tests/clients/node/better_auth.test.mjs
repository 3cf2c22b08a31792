// Dub's plugin for Better Auth: it reports a sign-up through Dub's TypeScript SDK, with the click of Dub's cookie.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { SERVER_KEY, SERVICE, newClick } from './stage.mjs';
import { dubAnalytics } from '@dub/better-auth';
import { betterAuth } from 'better-auth';
import { memoryAdapter } from 'better-auth/adapters/memory';
import { Dub } from 'dub';

const dub = new Dub({ token: SERVER_KEY, serverURL: SERVICE });
const backend = betterAuth({
  baseURL: 'http://acme.example',
  secret: 'a secret for tests of 32 characters or more',
  database: memoryAdapter({ user: [], account: [], session: [], verification: [] }),
  emailAndPassword: { enabled: true },
  plugins: [dubAnalytics({ dubClient: dub })],
});

/** Sign up in a browser with these cookies, and return the answer and the new user's id. */
async function signUp(email, cookie) {
  const response = await backend.handler(
    new Request('http://acme.example/api/auth/sign-up/email', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'Origin': 'http://acme.example', 'Cookie': cookie },
      body: JSON.stringify({ name: 'Anna', email, password: 'correct horse' }),
    }),
  );
  assert.equal(response.status, 200);
  return [response, (await response.json()).user.id];
}

const leadsOf = async (id) =>
  (await dub.events.list({ event: 'leads' })).filter(({ customer }) => customer.externalId === id);

test('a sign-up with a click is a lead of that click, and uses the cookie up', async () => {
  const clickId = await newClick('better-auth-anna');
  const [response, id] = await signUp('anna@acme.example', `dub_id=${clickId}`);
  assert.deepEqual(
    (await leadsOf(id)).map(({ click, customer, eventName }) => [click.id, customer.email, eventName]),
    [[clickId, 'anna@acme.example', 'Sign Up']],
  );
  assert.match(response.headers.getSetCookie().join(), /dub_id=; Max-Age=0/);
});

test('a sign-up without a click is no lead', async () => {
  const [, id] = await signUp('ben@acme.example', '');
  assert.deepEqual(await leadsOf(id), []);
});
