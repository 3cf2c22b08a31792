import { phone } from './phone.mjs';

export const getFirstInstallTime = async () => phone.installedMs;
export const getVersion = () => '2.3';
