/**
 * Says when this page was away: the computer slept, the browser froze the page, or the network was gone.
 *
 * Connections of before may be dead then without a word: a page that only reads from one never hears of it.
 */

const LOOK_MS = 5_000;
/** Browsers let the timers of hidden pages run once a minute: a jump is longer than that. */
const JUMP_MS = 90_000;

/** Call `act` each time; gives how to stop. */
export function onWake(act: () => void): () => void {
  let last = Date.now(); // timers and `performance` stand still while a computer sleeps
  const look = (): void => {
    const now = Date.now();
    const jumped = now - last > JUMP_MS;
    last = now;
    if (jumped) act();
  };
  const back = (): void => {
    last = Date.now();
    act();
  };
  const timer = setInterval(look, LOOK_MS);
  document.addEventListener("visibilitychange", look);
  document.addEventListener("resume", back);
  window.addEventListener("online", back);
  return () => {
    clearInterval(timer);
    document.removeEventListener("visibilitychange", look);
    document.removeEventListener("resume", back);
    window.removeEventListener("online", back);
  };
}
