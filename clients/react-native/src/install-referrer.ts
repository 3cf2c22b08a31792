import { PlayInstallReferrer } from 'react-native-play-install-referrer';

import type { Referrer } from './firstopen.js';

/** Asks Google Play which store link led to this install. */
export function installReferrer(): Promise<Referrer> {
  return new Promise((resolve, reject) => {
    PlayInstallReferrer.getInstallReferrerInfo((info, error) => {
      if (info === null) return reject(error);
      resolve({
        installReferrer: info.installReferrer,
        referrerClickedAt: Number(info.referrerClickTimestampSeconds) || undefined, // Play's 0 is "unknown"
        installBeganAt: Number(info.installBeginTimestampSeconds) || undefined,
      });
    });
  });
}
