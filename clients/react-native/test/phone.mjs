// A phone, and a scripted firstopen: what each test changes is a field.

export function newPhone(os = 'ios') {
  const stored = new Map();
  return {
    os,
    appVersion: '2.3',
    stored,
    store: {
      getItem: async (key) => stored.get(key) ?? null,
      setItem: async (key, value) => void stored.set(key, value),
    },
    installedAt: async () => 1_790_000_000,
    installReferrer: async () => ({ installReferrer: 'utm_source=google-play' }),
    copied: '',
    clipboard: {
      hasUrl: async () => false,
      read: async () => '',
    },
  };
}

export const ROUTE = { screen: 'product', params: { id: '7' }, url: 'https://acme.com/product/7', reason: 'matched' };
export const HOME = { screen: 'home', params: {}, url: null, reason: 'default' };

/** An answer of POST /v1/opens, final unless `changes` says otherwise. */
export const answer = (changes = {}) => ({
  openId: 'open-1',
  clickId: 'd0UtZqE0BZuBPrJS',
  link: null,
  route: ROUTE,
  match: { type: 'deep_link', guaranteed: true },
  gate: null,
  source: 'dub',
  pending: false,
  repeat: false,
  ...changes,
});
export const pending = (changes = {}) =>
  answer({ clickId: null, route: HOME, pending: true, retryAfterMs: 2000, ...changes });

/**
 * Replaces `fetch` for one test. Each reply is an answer (200), `[status, headers]`, an Error to throw, or a promise
 * of one of these. `called` lists the requests; a request beyond the script fails the test.
 */
export function script(t, ...replies) {
  const called = [];
  t.mock.method(globalThis, 'fetch', async (url, { method, headers, body, signal }) => {
    called.push({ method, path: new URL(url).pathname, headers, body: body && JSON.parse(body) });
    if (replies.length === 0) throw new Error(`not in the script: ${method} ${url}`);
    const aborted = new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
    const reply = await Promise.race([replies.shift(), aborted]);
    if (reply instanceof Error) throw reply;
    const [status, sent] = Array.isArray(reply) ? reply : [200, {}];
    return { status, headers: new Headers(sent), json: async () => reply };
  });
  return called;
}

/** Lets the code under test run until it waits for a timer or for the phone. */
export async function idle() {
  for (let turn = 0; turn < 50; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** Lets `ms` pass on the mocked clock, and everything that follows from it. */
export async function pass(t, ms) {
  await idle();
  t.mock.timers.tick(ms);
  await idle();
}
