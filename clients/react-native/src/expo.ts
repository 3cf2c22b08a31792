import AsyncStorage from '@react-native-async-storage/async-storage';
import { getInstallationTimeAsync, nativeApplicationVersion } from 'expo-application';
import { getStringAsync, hasUrlAsync } from 'expo-clipboard';
import { Platform } from 'react-native';

import { installReferrer } from './install-referrer.js';
import type { Phone } from './firstopen.js';

/** A phone of an app with Expo (a development build: Expo Go has no install referrer). */
export const phone: Phone = {
  os: Platform.OS,
  appVersion: nativeApplicationVersion ?? undefined,
  store: AsyncStorage, // not expo-secure-store: an iOS Keychain item outlives the app
  installedAt: async () => Math.floor((await getInstallationTimeAsync()).getTime() / 1000),
  installReferrer, // expo-application has the string, but not Play's two times
  clipboard: { hasUrl: hasUrlAsync, read: getStringAsync },
};
