import { phone } from './phone.mjs';

export const PlayInstallReferrer = {
  getInstallReferrerInfo(callback) {
    if (phone.referrer === null) queueMicrotask(() => callback(null, new Error('SERVICE_UNAVAILABLE')));
    else queueMicrotask(() => callback({ installReferrer: phone.referrer, ...phone.playTimes }, null));
  },
};
