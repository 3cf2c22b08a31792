import type { Firstopen, Landing } from './firstopen.js';
import { followLateLandings, type Place } from './late-landing.js';

/** The part of Expo Router's `router` that is used here. */
export type Router = { replace(href: string): void };

/**
 * Returns the `redirectSystemPath` of `app/+native-intent.ts`: Expo Router shows its launch screen until the
 * landing is known. Without an answer the link is routed as Expo Router would.
 */
export function redirectWith(firstopen: Firstopen) {
  let last: { path: string; href: Promise<string> } | undefined;
  return ({ path, initial }: { path: string; initial: boolean }): Promise<string> => {
    const previous = last;
    const opened = initial ? firstopen.start(isRoot(path) ? null : path) : firstopen.opened(path);
    const href = opened.then((landing) => {
      if (landing?.openId) return hrefOf(landing);
      return previous?.path === path ? previous.href : path; // the link of the cold start may arrive twice
    });
    last = { path, href };
    return href;
  };
}

/** Follows late landings. Call it once, in an effect of the root layout, with `useNavigationContainerRef()`. */
export function followWithExpoRouter(firstopen: Firstopen, place: Place, router: Router): void {
  followLateLandings(firstopen, place, (landing) => router.replace(hrefOf(landing)))();
}

/** Returns the path of a screen that is named by its file's route: `/product/[id]` with id 7 is `/product/7`. */
export function hrefOf({ route }: Landing): string {
  const rest = { ...route.params };
  const path = route.screen.replace(/\[(\.\.\.)?([^\]]+)\]/g, (_, many: string | undefined, name: string) => {
    const value = rest[name] ?? '';
    delete rest[name];
    return many ? value.split('/').map(encodeURIComponent).join('/') : encodeURIComponent(value);
  });
  const query = Object.entries(rest).map((pair) => pair.map(encodeURIComponent).join('='));
  return query.length > 0 ? `${path}?${query.join('&')}` : path;
}

/** Without a link Expo Router passes its root URL: `acme:///`, `acme://` or `exp://192.168.1.20:8081/--/`. */
function isRoot(path: string): boolean {
  return /^(\/?|[a-z][a-z0-9+.-]*:\/\/\/?|exps?:\/\/[^/]*\/(--\/?)?)$/i.test(path);
}
