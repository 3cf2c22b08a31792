import { ownLink } from './own-link.js';

/** Why this build must not be used now: it is too old, or the app is in maintenance. */
export type Gate = {
  kind: 'update' | 'maintenance';
  screen: string;
  url: string | null;
  message: string | null;
};

/** Where this open should land. `openId` is null if firstopen did not answer: `route` is the app's `home` then. */
export type Landing = {
  openId: string | null;
  clickId: string | null;
  route: { screen: string; params: Record<string, string>; url: string | null; reason?: string };
  match?: { type: string; guaranteed: boolean };
  /** Not null: show this screen instead of the route's. Absent if firstopen did not answer. */
  gate?: Gate | null;
};

/** Text by key. AsyncStorage is one. No backup may carry it to a second phone, or two phones share an install id. */
export type Store = {
  getItem(key: string): Promise<string | null>;
  setItem(key: string, value: string): Promise<void>;
};

/** What Google Play returns: its raw string, and two times in Unix seconds (absent if unknown). */
export type Referrer = {
  installReferrer: string;
  referrerClickedAt?: number | undefined;
  installBeganAt?: number | undefined;
};

/** What the phone provides. `firstopen-react-native/bare` and `/expo` have one each. */
export type Phone = {
  os: string;
  appVersion?: string | undefined;
  store: Store;
  /** Returns when the app was installed, in Unix seconds, or undefined if that is unknown. */
  installedAt(): Promise<number | undefined>;
  /** Asked on Android only. */
  installReferrer(): Promise<Referrer>;
  /** Asked on iOS only. `hasUrl` must not show the system's paste question; `read` may. */
  clipboard: { hasUrl(): Promise<boolean>; read(): Promise<string> };
};

export type Options = {
  baseUrl: string;
  publishableKey: string;
  /** The app's short link domains, as they stand in a URL. The first is sent as `dubDomain`. */
  domains: string[];
  phone: Phone;
  /** The screen to show when firstopen has no answer. */
  home: string;
  /** How long firstopen may take to answer, 100 to 10,000 ms. Default 1,500. */
  budgetMs?: number;
  /** For `ip_matching = "consented"`: whether the person agreed to be matched by IP address. */
  consent?: boolean;
  /** Asks the person. Called on a first launch only, and only if the clipboard may hold a URL. Absent: never read. */
  mayPaste?: () => Promise<boolean>;
  /** Receives errors, to log them. The launch goes on. */
  onError: (error: unknown) => void;
};

export type Lead = {
  eventName: string;
  customerExternalId: string;
  customerName?: string;
  customerEmail?: string;
  customerAvatar?: string;
  metadata?: Record<string, unknown>;
};

export type LeadAnswer = { leadId: string | null; status: 'delivered' | 'queued' | 'organic' };

/** firstopen refused a request. `retryAfterMs` is its Retry-After header. */
export class FirstopenError extends Error {
  constructor(
    readonly status: number,
    readonly retryAfterMs: number | undefined,
  ) {
    super(`firstopen answered ${status}`);
    this.name = 'FirstopenError';
  }
}

type Answer = Landing & { openId: string; pending: boolean; retryAfterMs?: number };
type Last = { url: string | null; endedAt: number | null };

const INSTALL_ID = 'firstopen.installId';
const ANSWERED = 'firstopen.answered';
const REFERRER_MS = 500; // Google Play usually answers within 100 ms
const NETWORK_MS = 300; // in addition to the budget
const ECHO_MS = 1000; // React Native may report the URL of a cold start a second time, as an event
const LATE_MS = 60_000; // firstopen looks for a late click for some 30 s
const LEAD_TIMEOUT_MS = 10_000;
const LEAD_WAITS_MS = [1_000, 4_000, 15_000, 60_000];

/** Reports opens and leads to firstopen. Make one, and keep it as long as the app runs. */
export class Firstopen {
  /**
   * Called at most once per open, if its final answer differs from the one that `start` or `opened` returned.
   * Not called after another open or after `movedOn()`, so it is safe to navigate here.
   */
  onLate: (landing: Landing) => void = () => {};

  #options: Options;
  #started: Promise<Landing> | undefined;
  #installId: Promise<string> | undefined;
  #last: Last | undefined;
  #generation = 0; // counts opens and moves: a late answer of an earlier generation is dropped

  constructor(options: Options) {
    this.#options = { ...options, baseUrl: options.baseUrl.replace(/\/+$/, '') };
  }

  /**
   * Reports this cold start: the first launch always, later launches only with a link. Never throws.
   * Repeated calls in one process return the first answer, so a component that mounts twice is harmless.
   */
  start(deepLink: string | null): Promise<Landing> {
    this.#started ??= this.#open(deepLink).then((landing) => landing ?? this.#home());
    return this.#started;
  }

  /**
   * Reports a link that opened the running app (`Linking.addEventListener('url', …)`). Never throws.
   * Returns null if there is nothing to do: firstopen did not answer, or the cold start reported this link already.
   */
  async opened(url: string): Promise<Landing | null> {
    const last = this.#last;
    if (last?.url === url && (last.endedAt === null || Date.now() - last.endedAt < ECHO_MS)) return null;
    return this.#open(url);
  }

  /** Tells that the person has navigated: an answer that arrives later must not move them. */
  movedOn(): void {
    this.#generation += 1;
  }

  /** Returns this install's id, for your backend to report leads with. Throws if the store fails. */
  installId(): Promise<string> {
    this.#installId ??= this.#readInstallId().catch((error) => {
      this.#installId = undefined; // the next call tries again
      throw error;
    });
    return this.#installId;
  }

  /**
   * Reports a lead of this install; the app's settings must say `leads = "client"`.
   * Without a network, on 429 and on 5xx it tries again for some 80 s, then throws. To call it again later is safe:
   * the same `customerExternalId` and `eventName` are one lead for 7 days.
   */
  async lead(lead: Lead): Promise<LeadAnswer> {
    const body = { ...lead, installId: await this.installId() };
    for (const wait of LEAD_WAITS_MS) {
      try {
        return await this.#call<LeadAnswer>('/v1/leads', LEAD_TIMEOUT_MS, body);
      } catch (error) {
        if (!isTemporary(error)) throw error;
        this.#options.onError(error);
        await sleep(retryAfterMs(error) ?? wait);
      }
    }
    return this.#call<LeadAnswer>('/v1/leads', LEAD_TIMEOUT_MS, body);
  }

  async #open(deepLink: string | null): Promise<Landing | null> {
    const generation = (this.#generation += 1);
    const last: Last = (this.#last = { url: deepLink, endedAt: null });
    try {
      const first = (await this.#attempt(() => this.#options.phone.store.getItem(ANSWERED))) === null;
      if (!first && deepLink === null) return null;
      const answer = await this.#call<Answer>('/v1/opens', this.#budgetMs + NETWORK_MS, await this.#body(deepLink, first));
      if (first) await this.#attempt(() => this.#options.phone.store.setItem(ANSWERED, 'yes'));
      if (answer.pending) void this.#attempt(() => this.#settle(answer, generation));
      return answer;
    } catch (error) {
      this.#options.onError(error);
      return null; // the next launch reports a first open again, with the same install id: that is safe
    } finally {
      last.endedAt = Date.now();
    }
  }

  async #body(deepLink: string | null, first: boolean): Promise<object> {
    const { phone, domains, consent } = this.#options;
    const referrer = first && phone.os === 'android' && (await this.#attempt(() => inTime(phone.installReferrer())));
    const clipboard =
      first && phone.os === 'ios' && deepLink === null && (await this.#attempt(() => this.#clipboard()));
    return {
      ...(deepLink !== null && { deepLink }),
      dubDomain: domains[0],
      installId: await this.#attempt(() => this.installId()),
      platform: phone.os === 'ios' || phone.os === 'android' ? phone.os : undefined,
      appVersion: phone.appVersion,
      budgetMs: this.#budgetMs,
      consent,
      installedAt: await this.#attempt(() => phone.installedAt()),
      ...referrer,
      ...(clipboard && { clipboard }),
    };
  }

  /** Asks for a pending answer until it is final. */
  async #settle(early: Answer, generation: number): Promise<void> {
    const end = Date.now() + LATE_MS;
    let answer = early;
    let wait = early.retryAfterMs ?? ECHO_MS;
    while (answer.pending && Date.now() + wait <= end) {
      await sleep(wait);
      if (this.#generation !== generation) return;
      try {
        answer = await this.#call<Answer>(`/v1/opens/${early.openId}`, this.#budgetMs + NETWORK_MS);
        wait = answer.retryAfterMs ?? wait;
      } catch (error) {
        this.#options.onError(error);
        if (!isTemporary(error)) return;
        wait = retryAfterMs(error) ?? wait * 2;
      }
    }
    if (this.#generation === generation && differs(early, answer)) this.onLate(answer);
  }

  async #call<T>(path: string, timeoutMs: number, body?: object): Promise<T> {
    const { baseUrl, publishableKey } = this.#options;
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), timeoutMs);
    try {
      const response = await fetch(baseUrl + path, {
        method: body ? 'POST' : 'GET',
        headers: { 'Authorization': `Bearer ${publishableKey}`, 'Content-Type': 'application/json' },
        ...(body && { body: JSON.stringify(body) }),
        signal: late.signal,
      });
      if (response.status !== 200 && response.status !== 202) {
        const seconds = Number(response.headers.get('Retry-After'));
        throw new FirstopenError(response.status, seconds > 0 ? seconds * 1000 : undefined);
      }
      return (await response.json()) as T;
    } finally {
      clearTimeout(timer);
    }
  }

  async #readInstallId(): Promise<string> {
    const { store } = this.#options.phone;
    const known = await store.getItem(INSTALL_ID);
    if (known !== null) return known;
    const fresh = newId();
    await store.setItem(INSTALL_ID, fresh);
    return fresh;
  }

  async #clipboard(): Promise<string | null> {
    const { phone, domains, mayPaste } = this.#options;
    // To look for a URL shows nothing; to read makes iOS ask, so it comes after the app's own question.
    if (!mayPaste || !(await phone.clipboard.hasUrl()) || !(await mayPaste())) return null;
    return ownLink(await phone.clipboard.read(), domains);
  }

  get #budgetMs(): number {
    return this.#options.budgetMs ?? 1500;
  }

  #home(): Landing {
    return { openId: null, clickId: null, route: { screen: this.#options.home, params: {}, url: null } };
  }

  /** Returns undefined, and reports the error, if `work` fails. */
  async #attempt<T>(work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work();
    } catch (error) {
      this.#options.onError(error);
      return undefined;
    }
  }
}

/** Returns whether a request may succeed later: no answer at all, 429 or 5xx. */
function isTemporary(error: unknown): boolean {
  return !(error instanceof FirstopenError) || error.status === 429 || error.status >= 500;
}

function retryAfterMs(error: unknown): number | undefined {
  return error instanceof FirstopenError ? error.retryAfterMs : undefined;
}

function differs(early: Landing, late: Landing): boolean {
  const shown = ({ route, gate }: Landing) => JSON.stringify([route, gate]);
  return late.clickId !== early.clickId || shown(late) !== shown(early);
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function inTime(referrer: Promise<Referrer>): Promise<Referrer> {
  const late = sleep(REFERRER_MS).then(() => {
    throw new Error(`Google Play returned no install referrer within ${REFERRER_MS} ms`);
  });
  return Promise.race([referrer, late]);
}

/** Returns 32 random hex digits. Hermes has no `crypto` of its own; the id is no secret. */
function newId(): string {
  const uuid = (globalThis as { crypto?: { randomUUID?(): string } }).crypto?.randomUUID?.();
  return uuid ?? Array.from({ length: 32 }, () => Math.floor(Math.random() * 16).toString(16)).join('');
}
