// The adapters: React Navigation is driven by its container ref, Expo Router by paths.
import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';

import { followWithExpoRouter, hrefOf, redirectWith } from '../build/expo-router.js';
import { Firstopen } from '../build/index.js';
import { landWithReactNavigation } from '../build/react-navigation.js';
import { HOME, ROUTE, answer, idle, newPhone, pass, pending, script } from './phone.mjs';

const LINK = 'https://acme.link/fb-promo';
let firstopen, went, here;

beforeEach((t) => {
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  [went, here] = [[], 'Home-1'];
  firstopen = new Firstopen({
    baseUrl: 'https://opens.acme.com',
    publishableKey: 'dub_pk_acme',
    domains: ['acme.link'],
    phone: newPhone(),
    home: 'home',
    onError: () => {},
  });
});

/** A container ref that renders each navigation 50 ms later, and Linking with what launched the app. */
function reactNavigation(initial) {
  let heard;
  const navigation = {
    getCurrentRoute: () => ({ key: here }),
    navigate(screen, params) {
      went.push([screen, params]);
      setTimeout(() => (here = `${screen}-1`), 50);
    },
  };
  const links = {
    getInitialURL: async () => initial,
    addEventListener: (_, listener) => ((heard = listener), { remove: () => (heard = undefined) }),
  };
  return { navigation, links, open: (url) => heard?.({ url }) };
}

test('React Navigation: a cold start lands, and then the launch screen goes', async (t) => {
  script(t, answer());
  const { navigation, links } = reactNavigation(LINK);
  const landed = [];
  landWithReactNavigation(firstopen, navigation, links, ({ route }) => landed.push([route.screen, went.length]));
  await idle();
  assert.deepEqual([went, landed], [[['product', { id: '7' }]], [['product', 1]]]);
});

test('React Navigation: a launch that gets no answer starts where the app starts', async (t) => {
  script(t, new TypeError('offline'));
  const { navigation, links } = reactNavigation(null);
  const landed = [];
  landWithReactNavigation(firstopen, navigation, links, ({ route }) => landed.push(route.screen));
  await idle();
  assert.deepEqual([went, landed], [[], ['home']]);
});

test('React Navigation: a launch link that cannot be read does not keep the launch screen up', async (t) => {
  const called = script(t, answer({ route: HOME }));
  const { navigation, links } = reactNavigation(null);
  links.getInitialURL = async () => {
    throw new Error('no activity');
  };
  const landed = [];
  landWithReactNavigation(firstopen, navigation, links, ({ route }) => landed.push(route.screen));
  await idle();
  assert.deepEqual([landed, called.length], [['home'], 1]);
});

test('React Navigation: links that open the running app land until it is stopped', async (t) => {
  const called = script(t, answer({ route: HOME }), answer());
  const { navigation, links, open } = reactNavigation(null);
  const stop = landWithReactNavigation(firstopen, navigation, links);
  await idle();
  open(LINK);
  await idle();
  assert.deepEqual(went.at(-1), ['product', { id: '7' }]);
  stop();
  open('https://acme.link/other');
  await idle();
  assert.equal(called.length, 2);
});

for (const [name, moves, expected] of [
  ['stays', () => {}, ['home', 'product']],
  ['has moved on', () => (here = 'Search-1'), ['home']],
]) {
  test(`React Navigation: a late landing, for a person who ${name}`, async (t) => {
    script(t, pending(), answer());
    const { navigation, links } = reactNavigation(null);
    landWithReactNavigation(firstopen, navigation, links);
    await idle();
    await pass(t, 350);
    moves();
    await pass(t, 1650);
    assert.deepEqual(went.map(([screen]) => screen), expected);
  });
}

test('Expo Router: a cold start is redirected, its root URL counts as no link', async (t) => {
  for (const root of ['acme:///', 'acme://', '/', '', 'exp://192.168.1.20:8081/--/', 'exp://192.168.1.20:8081/']) {
    const called = script(t, answer({ route: { ...ROUTE, screen: '/product/[id]' } }));
    const fresh = new Firstopen({
      baseUrl: 'https://opens.acme.com',
      publishableKey: 'dub_pk_acme',
      domains: ['acme.link'],
      phone: newPhone(),
      home: '/',
      onError: () => {},
    });
    assert.equal(await redirectWith(fresh)({ path: root, initial: true }), '/product/7');
    assert.equal('deepLink' in called[0].body, false, root);
  }
});

test('Expo Router: a link is redirected on a cold and on a warm start; without an answer it stays as it is', async (t) => {
  const called = script(t, answer({ route: { ...ROUTE, screen: '/product/[id]' } }), answer({ route: { ...HOME, screen: '/' } }), [503, {}]);
  const redirect = redirectWith(firstopen);
  assert.equal(await redirect({ path: LINK, initial: true }), '/product/7');
  assert.equal(await redirect({ path: 'acme://home', initial: false }), '/');
  assert.equal(await redirect({ path: 'acme://product/9', initial: false }), 'acme://product/9');
  assert.deepEqual(called.map(({ body }) => body.deepLink), [LINK, 'acme://home', 'acme://product/9']);
});

test('Expo Router: a cold start\'s link that arrives again is redirected to the same screen', async (t) => {
  const called = script(t, answer({ route: { ...ROUTE, screen: '/product/[id]' } }));
  const redirect = redirectWith(firstopen);
  const hrefs = await Promise.all([true, false].map((initial) => redirect({ path: LINK, initial })));
  assert.deepEqual([hrefs, called.length], [['/product/7', '/product/7'], 1]);
});

test('Expo Router: a late landing replaces the screen', async (t) => {
  script(t, pending(), answer({ route: { ...ROUTE, screen: '/product/[id]' } }));
  followWithExpoRouter(firstopen, { getCurrentRoute: () => ({ key: here }) }, { replace: (href) => went.push(href) });
  await redirectWith(firstopen)({ path: 'acme:///', initial: true });
  await pass(t, 2000);
  assert.deepEqual(went, ['/product/7']);
});

for (const [screen, params, href] of [
  ['/', {}, '/'],
  ['/product/[id]', { id: 'a b' }, '/product/a%20b'],
  ['/docs/[...path]', { path: '2026/a b' }, '/docs/2026/a%20b'],
  ['/(tabs)/search', { q: 'red & blue', sort: 'new' }, '/(tabs)/search?q=red%20%26%20blue&sort=new'],
]) {
  test(`Expo Router: ${screen} with ${JSON.stringify(params)} is ${href}`, () => {
    assert.equal(hrefOf({ route: { screen, params } }), href);
  });
}
