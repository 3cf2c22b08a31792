import AsyncStorage from '@react-native-async-storage/async-storage';
import Clipboard from '@react-native-clipboard/clipboard';
import { Platform } from 'react-native';
import { PlayInstallReferrer } from 'react-native-play-install-referrer';

export type Landing = {
  clickId: string | null;
  route: { screen: string; params: Record<string, string>; url: string | null };
};

export type Options = {
  baseUrl: string;
  publishableKey: string;
  domain: string;
  appVersion?: string;
  /** Asks the person; called on a first launch only, and only if a URL seems to be on the clipboard. */
  mayPaste: () => Promise<boolean>;
};

const HOME: Landing = { clickId: null, route: { screen: 'home', params: {}, url: null } };
const REFERRER_MS = 500;
const BUDGET_MS = 1500;
const NETWORK_MS = 300;

/** Asks firstopen where this launch should land. Never throws; for a launch screen that waits 2.5 s or longer. */
export async function landing(options: Options, deepLink: string | null): Promise<Landing> {
  try {
    const first = (await AsyncStorage.getItem('firstopen.answered')) === null;
    if (!first && deepLink === null) return HOME;
    const answer = await report(options, {
      deepLink,
      dubDomain: options.domain,
      installId: await installId(),
      platform: Platform.OS,
      appVersion: options.appVersion,
      budgetMs: BUDGET_MS,
      ...(first && Platform.OS === 'android' && { installReferrer: await within(REFERRER_MS, installReferrer()) }),
      ...(first && Platform.OS === 'ios' && deepLink === null && { clipboard: await clipboard(options) }),
    });
    await AsyncStorage.setItem('firstopen.answered', 'yes');
    return answer;
  } catch {
    return HOME; // and the next launch asks again: with the same installId that is safe
  }
}

async function report(options: Options, open: object): Promise<Landing> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), BUDGET_MS + NETWORK_MS);
  try {
    const response = await fetch(`${options.baseUrl}/v1/opens`, {
      method: 'POST',
      headers: { 'Authorization': `Bearer ${options.publishableKey}`, 'Content-Type': 'application/json' },
      body: JSON.stringify(open),
      signal: late.signal,
    });
    if (response.status !== 200) throw new Error(`firstopen answered ${response.status}`);
    return (await response.json()) as Landing;
  } finally {
    clearTimeout(timer);
  }
}

// AsyncStorage is left out of iOS backups. On Android, leave its database out in android:dataExtractionRules:
// restored on a second phone, it would give two phones one id.
async function installId(): Promise<string> {
  const known = await AsyncStorage.getItem('firstopen.installId');
  if (known !== null) return known;
  const fresh = Array.from({ length: 32 }, () => Math.floor(Math.random() * 16).toString(16)).join('');
  await AsyncStorage.setItem('firstopen.installId', fresh);
  return fresh;
}

// What the store link carried, as it is; it makes the clipboard needless on Android.
function installReferrer(): Promise<string | null> {
  return new Promise((resolve) => {
    PlayInstallReferrer.getInstallReferrerInfo((info) => resolve(info?.installReferrer ?? null));
  });
}

// Looking for a pattern shows nothing; reading makes iOS ask, so it comes after the app's own question.
async function clipboard({ domain, mayPaste }: Options): Promise<string | null> {
  if (!(await Clipboard.hasWebURL()) || !(await mayPaste())) return null;
  const text = await Clipboard.getString();
  return text.includes(domain) && text.length <= 2048 ? text : null;
}

function within<T>(ms: number, work: Promise<T>): Promise<T | null> {
  return Promise.race([work, new Promise<null>((resolve) => setTimeout(() => resolve(null), ms))]);
}
