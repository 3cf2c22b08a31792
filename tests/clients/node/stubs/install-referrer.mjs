import { phone } from './phone.mjs';

export const PlayInstallReferrer = {
  getInstallReferrerInfo(callback) {
    queueMicrotask(() => callback({ installReferrer: phone.referrer }, null));
  },
};
