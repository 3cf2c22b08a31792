// Where the service and the sandbox are: `python -m tests.clients` starts them and says so.

export const SERVICE = process.env.FIRSTOPEN_URL;
export const SANDBOX = process.env.SANDBOX_URL;
export const DOMAIN = 'acme.localhost';
export const PUBLISHABLE_KEY = 'dub_pk_acme';
export const SERVER_KEY = 'dub_demo_acme';

/** The address of a demo link. */
export const link = (key) => `http://${DOMAIN}:${new URL(SANDBOX).port}/${key}`;

/** Open a link as a phone of one's own, with nothing but HTTP, and return the click. */
export async function newClick(installId) {
  const response = await fetch(`${SERVICE}/v1/opens`, {
    method: 'POST',
    headers: { 'Authorization': `Bearer ${PUBLISHABLE_KEY}`, 'Content-Type': 'application/json' },
    body: JSON.stringify({ deepLink: link('fb-promo'), installId }),
  });
  return (await response.json()).clickId;
}

/** Let calls go wrong at the sandbox while `play` runs. */
export async function onABadDay(fault, play) {
  const faults = `${SANDBOX}/sandbox/faults`;
  const { id } = await (await plainly(faults, 'POST', fault)).json();
  try {
    return await play();
  } finally {
    await plainly(`${faults}/${id}`, 'DELETE', {});
  }
}

// Before a phone takes `fetch` over.
const send = globalThis.fetch;
const AS_JSON = { 'Content-Type': 'application/json' };
const plainly = (url, method, body) => send(url, { method, headers: AS_JSON, body: JSON.stringify(body) });
