import type { Firstopen, Landing } from './firstopen.js';
import { followLateLandings, type Place } from './late-landing.js';

/** The part of `createNavigationContainerRef()` that is used here. */
export type Navigation = Place & { navigate(screen: string, params?: object): void };

/** The part of React Native's `Linking` that is used here. */
export type Links = {
  getInitialURL(): Promise<string | null>;
  addEventListener(type: 'url', listener: (event: { url: string }) => void): { remove(): void };
};

/**
 * Lands this cold start and every link that opens the running app. Call it in NavigationContainer's `onReady`.
 * `onLanded` is called once the cold start has landed, to hide the launch screen. Returns a function that stops it.
 */
export function landWithReactNavigation(
  firstopen: Firstopen,
  navigation: Navigation,
  links: Links,
  onLanded: (landing: Landing) => void = () => {},
): () => void {
  const go = ({ route }: Landing) => navigation.navigate(route.screen, route.params);
  const landed = followLateLandings(firstopen, navigation, go);
  const subscription = links.addEventListener('url', ({ url }) => {
    void firstopen.opened(url).then((landing) => {
      if (landing === null) return;
      go(landing);
      landed();
    });
  });
  void links
    .getInitialURL()
    .catch(() => null) // a link that cannot be read must not keep the launch screen up
    .then((url) => firstopen.start(url))
    .then((landing) => {
      if (landing.openId !== null) go(landing); // a launch that is not reported starts where the app starts
      landed();
      onLanded(landing);
    });
  return () => subscription.remove();
}
