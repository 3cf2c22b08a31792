import { phone } from './phone.mjs';

export const Platform = {
  get OS() {
    return phone.os;
  },
};
