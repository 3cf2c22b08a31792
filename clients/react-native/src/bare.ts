import AsyncStorage from '@react-native-async-storage/async-storage';
import Clipboard from '@react-native-clipboard/clipboard';
import { Platform } from 'react-native';
import { getFirstInstallTime, getVersion } from 'react-native-device-info';

import { installReferrer } from './install-referrer.js';
import type { Phone } from './firstopen.js';

/** A phone of an app without Expo. */
export const phone: Phone = {
  os: Platform.OS,
  appVersion: getVersion(),
  store: AsyncStorage,
  async installedAt() {
    const ms = await getFirstInstallTime(); // -1 where it is unknown
    return ms > 0 ? Math.floor(ms / 1000) : undefined;
  },
  installReferrer,
  clipboard: { hasUrl: async () => (await Clipboard.hasWebURL()) ?? false, read: () => Clipboard.getString() },
};
