/** Returns the first URL in `text` whose host is one of `domains`. React Native's own URL class checks nothing. */
export function ownLink(text: string, domains: string[]): string | null {
  const hosts = domains.map(bareHost);
  for (const [found] of text.matchAll(/https?:\/\/[a-z0-9._~:/?#@!$&*+,;=%-]+/gi)) {
    const url = found.replace(/[.,:;!?*]+$/, '');
    const authority = url.split(/[/?#]/)[2] ?? '';
    if (url.length <= 2048 && hosts.includes(bareHost(authority.replace(/:\d+$/, '')))) return url;
  }
  return null;
}

function bareHost(host: string): string {
  return host.toLowerCase().replace(/^www\./, '');
}
