import { phone } from './phone.mjs';

export const nativeApplicationVersion = '2.3';
export const getInstallationTimeAsync = async () => new Date(phone.installedMs);
