import type { Firstopen, Landing } from './firstopen.js';

/** The part of React Navigation's container ref that tells where the person is. */
export type Place = { getCurrentRoute(): { key: string } | undefined };

const RENDER_MS = 300; // after this time the navigator has rendered a landing

/**
 * Calls `go` for late landings, unless the person has left the screen where the last landing put them.
 * Returns a function to call after each landing.
 */
export function followLateLandings(firstopen: Firstopen, place: Place, go: (landing: Landing) => void): () => void {
  let landedOn: string | undefined; // unknown until the landing is rendered: nobody has left it by then
  let timer: ReturnType<typeof setTimeout> | undefined;
  const landed = () => {
    clearTimeout(timer);
    landedOn = undefined;
    timer = setTimeout(() => (landedOn = place.getCurrentRoute()?.key), RENDER_MS);
  };
  firstopen.onLate = (landing) => {
    if (landedOn !== undefined && landedOn !== place.getCurrentRoute()?.key) return;
    go(landing);
    landed();
  };
  return landed;
}
