// The Expo config plugin, run by Expo's own config-plugins on an Android project.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import Module, { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

const require = createRequire(import.meta.url);
const resolve = Module._resolveFilename; // `expo` only re-exports it, and is far too large to install
Module._resolveFilename = (request, ...rest) =>
  resolve(request === 'expo/config-plugins' ? '@expo/config-plugins' : request, ...rest);
const { compileModsAsync } = require('@expo/config-plugins');
const withFirstopen = require('../plugin.cjs');

/** Runs the plugin in a project whose application has these attributes, and returns the project's files by path. */
async function prebuild(t, attributes) {
  const projectRoot = mkdtempSync(join(tmpdir(), 'firstopen-plugin-'));
  t.after(() => rmSync(projectRoot, { recursive: true }));
  const main = join(projectRoot, 'android/app/src/main');
  mkdirSync(main, { recursive: true });
  writeFileSync(
    join(main, 'AndroidManifest.xml'),
    `<manifest xmlns:android="http://schemas.android.com/apk/res/android">
       <application android:name=".MainApplication" ${attributes}/>
     </manifest>`,
  );
  const config = withFirstopen({ name: 'acme', slug: 'acme', android: { package: 'com.acme' } });
  await compileModsAsync(config, { projectRoot, platforms: ['android'] });
  return (path) => readFileSync(join(main, path), 'utf8');
}

test('the manifest names the backup rules, and they are in the project', async (t) => {
  const read = await prebuild(t, 'android:allowBackup="true"');
  for (const [attribute, file] of [
    ['dataExtractionRules', 'firstopen_data_extraction_rules'],
    ['fullBackupContent', 'firstopen_full_backup_content'],
  ]) {
    assert.match(read('AndroidManifest.xml'), new RegExp(`android:${attribute}="@xml/${file}"`));
    assert.match(read(`res/xml/${file}.xml`), /<exclude domain="database" path="RKStorage" \/>/);
  }
});

test('rules that the app has already are not replaced', async (t) => {
  await assert.rejects(prebuild(t, 'android:dataExtractionRules="@xml/mine"'), /@xml\/mine already: add the rules of/);
});
