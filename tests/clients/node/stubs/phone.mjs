// The phone that an app runs on: what its native modules say, and how its requests look on the wire.

export const phone = {};

const AGENTS = { android: 'okhttp/4.12.0', ios: 'Acme/12 CFNetwork/1568 Darwin/24.0.0' };
let phones = 0;

/** Take another phone into the hand: its own address, nothing stored, nothing copied. */
export function newPhone(os) {
  phones += 1;
  Object.assign(phone, {
    os,
    address: `203.0.113.${phones}`,
    storage: new Map(),
    copied: '',
    referrer: '',
    playTimes: { referrerClickTimestampSeconds: '0', installBeginTimestampSeconds: '0' },
    installedMs: Date.now() - 60_000,
    asked: [],
    online: true,
  });
}

const send = globalThis.fetch;

globalThis.fetch = async (url, options) => {
  if (!phone.online) throw new TypeError('Network request failed');
  // The service reads a proxy's X-Forwarded-For, the sandbox X-Real-IP, as Dub does.
  const address = { 'X-Forwarded-For': phone.address, 'X-Real-IP': phone.address };
  const headers = { ...options.headers, 'User-Agent': AGENTS[phone.os], ...address };
  phone.asked.push(options.body ? JSON.parse(options.body) : String(url));
  return send(url, { ...options, headers });
};
