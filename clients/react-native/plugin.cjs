// An Expo config plugin: leaves AsyncStorage's database, which holds the install id, out of Android's backups.
const { AndroidConfig, withAndroidManifest, withDangerousMod } = require('expo/config-plugins');
const { copyFileSync, mkdirSync } = require('node:fs');
const { join } = require('node:path');

const RULES = {
  'android:dataExtractionRules': 'firstopen_data_extraction_rules',
  'android:fullBackupContent': 'firstopen_full_backup_content',
};

module.exports = function withFirstopen(config) {
  config = withAndroidManifest(config, (mod) => {
    const { $: attributes } = AndroidConfig.Manifest.getMainApplicationOrThrow(mod.modResults);
    for (const [attribute, file] of Object.entries(RULES)) {
      const ours = `@xml/${file}`;
      if ((attributes[attribute] ?? ours) !== ours) {
        throw new Error(`${attribute} is ${attributes[attribute]} already: add the rules of firstopen-react-native/android/${file}.xml to it, and remove this plugin`);
      }
      attributes[attribute] = ours;
    }
    return mod;
  });
  return withDangerousMod(config, [
    'android',
    (mod) => {
      const folder = join(mod.modRequest.platformProjectRoot, 'app/src/main/res/xml');
      mkdirSync(folder, { recursive: true });
      for (const file of Object.values(RULES)) {
        copyFileSync(join(__dirname, 'android', `${file}.xml`), join(folder, `${file}.xml`));
      }
      return mod;
    },
  ]);
};
