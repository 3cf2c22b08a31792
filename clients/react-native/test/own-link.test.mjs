// What may leave the phone of a text on the clipboard.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ownLink } from '../build/own-link.js';

const OWN = 'https://acme.link/fb-promo';

for (const [text, own] of [
  [`dear anna, ${OWN} is great`, OWN],
  [`「${OWN}」是好的`, OWN],
  [`${OWN}是好的`, OWN],
  [`"${OWN}",\u200b <${OWN}>`, OWN],
  [`Look (${OWN})!`, OWN],
  [`Seen ${OWN}?! Bye`, OWN],
  [`https://bank.example/account ${OWN}?ref=ig#top`, `${OWN}?ref=ig#top`],
  ['HTTPS://WWW.Acme.Link:443/fb-promo', 'HTTPS://WWW.Acme.Link:443/fb-promo'],
  ['https://acme.link', 'https://acme.link'],
  ['https://go.acme.com/x', 'https://go.acme.com/x'],
  ['https://evil.example/?acme.link', null],
  [`https://evil.example/?to=${OWN}`, null],
  ['https://acme.link.evil.example/x', null],
  ['acme.link.evil.example/x', null],
  ['https://notacme.link/x', null],
  ['https://shop.acme.link/x', null],
  ['https://acme.link@evil.example/x', null],
  ['https://acme.link:secret@evil.example/x', null],
  ['https://anna:secret@acme.link/x', null],
  ['https://evil.example\\@acme.link/x', null],
  ['my account at acme.link has the password hunter2', null],
  ['ftp://acme.link/x', null],
  [`${OWN}?${'x'.repeat(2048)}`, null],
  ['', null],
]) {
  test(`of ${JSON.stringify(text.slice(0, 60))} on the clipboard, ${own ?? 'nothing'} leaves the phone`, () => {
    assert.equal(ownLink(text, ['acme.link', 'www.GO.acme.com']), own);
  });
}
