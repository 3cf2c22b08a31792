import AsyncStorage from '@react-native-async-storage/async-storage';
import Clipboard from '@react-native-clipboard/clipboard';
import { Platform } from 'react-native';
import { getFirstInstallTime } from 'react-native-device-info';
import { PlayInstallReferrer } from 'react-native-play-install-referrer';

export type Landing = {
  clickId: string | null;
  route: { screen: string; params: Record<string, string>; url: string | null };
};

export type Options = {
  baseUrl: string;
  publishableKey: string;
  /** The app's short link domains, as they stand in a URL. */
  domains: string[];
  appVersion?: string;
  /** The screen to show when firstopen has no answer. */
  home: string;
  /** Asks the person; called on a first launch only, and only if a URL seems to be on the clipboard. */
  mayPaste: () => Promise<boolean>;
  /** Gets what failed, to log it; the launch goes on. */
  onError: (error: unknown) => void;
  /** Called at most once, after `landing`, if the click of this launch was found a little later. */
  onLate?: (landing: Landing) => void;
};

type Answer = Landing & { openId: string; pending: boolean; retryAfterMs?: number };

const REFERRER_MS = 500;
const BUDGET_MS = 1500;
const NETWORK_MS = 300;

/** Asks firstopen where this launch should land. Never throws; for a launch screen that waits 2.5 s or longer. */
export async function landing(options: Options, deepLink: string | null): Promise<Landing> {
  const home = { clickId: null, route: { screen: options.home, params: {}, url: null } };
  try {
    const first = (await AsyncStorage.getItem('firstopen.answered')) === null;
    if (!first && deepLink === null) return home;
    const attempt = <T>(work: () => Promise<T>) => orNull(options, work);
    const answer = await call(options, '/v1/opens', {
      deepLink,
      dubDomain: options.domains[0],
      installId: await installId(),
      platform: Platform.OS === 'ios' || Platform.OS === 'android' ? Platform.OS : undefined,
      appVersion: options.appVersion,
      budgetMs: BUDGET_MS,
      installedAt: await attempt(installedAt),
      ...(first && Platform.OS === 'android' && (await attempt(installReferrer))),
      ...(first && Platform.OS === 'ios' && deepLink === null && {
        clipboard: await attempt(() => clipboard(options)),
      }),
    });
    await attempt(() => AsyncStorage.setItem('firstopen.answered', 'yes'));
    if (answer.pending && answer.retryAfterMs) {
      setTimeout(() => void attempt(() => askAgain(options, answer)), answer.retryAfterMs);
    }
    return answer;
  } catch (error) {
    options.onError(error);
    return home; // and the next launch asks again: with the same installId that is safe
  }
}

// Dub may show a click a few seconds late.
async function askAgain(options: Options, early: Answer): Promise<void> {
  const late = await call(options, `/v1/opens/${early.openId}`);
  if (late.clickId !== early.clickId) options.onLate?.(late);
}

async function call(options: Options, path: string, open?: object): Promise<Answer> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), BUDGET_MS + NETWORK_MS);
  try {
    const response = await fetch(options.baseUrl + path, {
      method: open ? 'POST' : 'GET',
      headers: { 'Authorization': `Bearer ${options.publishableKey}`, 'Content-Type': 'application/json' },
      ...(open && { body: JSON.stringify(open) }),
      signal: late.signal,
    });
    if (response.status !== 200) throw new Error(`firstopen answered ${response.status}`);
    return (await response.json()) as Answer;
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

async function installedAt(): Promise<number | undefined> {
  const ms = await getFirstInstallTime(); // -1 where it is unknown
  return ms > 0 ? Math.floor(ms / 1000) : undefined;
}

// What the store link carried, as it is; it makes the clipboard needless on Android. Play's times are 0 if unknown.
function installReferrer(): Promise<object> {
  return new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error('Google Play gave no install referrer in time')), REFERRER_MS);
    PlayInstallReferrer.getInstallReferrerInfo((info, error) => {
      if (info === null) return reject(error);
      resolve({
        installReferrer: info.installReferrer,
        referrerClickedAt: Number(info.referrerClickTimestampSeconds) || undefined,
        installBeganAt: Number(info.installBeginTimestampSeconds) || undefined,
      });
    });
  });
}

// Looking for a pattern shows nothing; reading makes iOS ask, so it comes after the app's own question.
async function clipboard({ domains, mayPaste }: Options): Promise<string | null> {
  if (!(await Clipboard.hasWebURL()) || !(await mayPaste())) return null;
  return ownLink(await Clipboard.getString(), domains);
}

/** Returns the first URL in `text` whose host is one of `domains`. React Native's own URL class checks nothing. */
export function ownLink(text: string, domains: string[]): string | null {
  const hosts = domains.map(bareHost);
  for (const [found] of text.matchAll(/https?:\/\/[a-z0-9._~:/?#@!$&*+,;=%-]+/gi)) {
    const url = found.replace(/[.,:;!?*]+$/, '');
    const authority = url.split(/[/?#]/)[2] ?? '';
    if (url.length <= 2048 && hosts.includes(bareHost(authority.replace(/:\d+$/, '')))) return url;
  }
  return null;
}

function bareHost(host: string): string {
  return host.toLowerCase().replace(/^www\./, '');
}

async function orNull<T>({ onError }: Options, work: () => Promise<T>): Promise<T | null> {
  try {
    return await work();
  } catch (error) {
    onError(error);
    return null;
  }
}
