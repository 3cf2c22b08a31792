import { phone } from './phone.mjs';

export const getFirstInstallTime = async () => phone.installedMs;
