/** What this browser remembers of its user's choices; nothing secret. It works without storage too. */

const PREFIX = "bay.";

export function readSetting(name: string): string | null {
  try {
    return localStorage.getItem(PREFIX + name);
  } catch {
    return null; // the browser allows no storage
  }
}

export function writeSetting(name: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, value);
  } catch {
    // The choice lasts as long as the page.
  }
}
