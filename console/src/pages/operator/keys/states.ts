import type { Key } from "bay-sandbox";

export type KeyState = "valid" | "expired" | "revoked";

export function stateOf(key: Pick<Key, "expires_at" | "revoked_at">, now = Date.now()): KeyState {
  if (key.revoked_at !== null) return "revoked";
  if (key.expires_at !== null && new Date(key.expires_at).getTime() <= now) return "expired";
  return "valid";
}

/** Those that match, the newest first. */
export function wantedKeys(all: readonly Key[], text: string, state: KeyState | "", now = Date.now()): Key[] {
  const wanted = text.trim().toLowerCase();
  return all
    .filter((key) => state === "" || stateOf(key, now) === state)
    .filter((key) => `${key.name}\n${key.owner}\n${key.id}\n${key.scope}`.toLowerCase().includes(wanted))
    .toReversed();
}

export const QUOTAS = [
  "sandboxes",
  "running",
  "cpus",
  "memory_mb",
  "disk_mb",
  "cargos",
  "creates_per_minute",
  "secrets",
] as const;

export type Quota = (typeof QUOTAS)[number];
export type Quotas = Partial<Record<Quota, number>>;

/** The quotas that are given in the fields of that form; null without any. */
export function quotasOf(given: FormData): Quotas | null {
  const found = QUOTAS.map((name) => [name, String(given.get(name) ?? "").trim()] as const).filter(
    ([, text]) => text !== "",
  );
  return found.length ? Object.fromEntries(found.map(([name, text]) => [name, Number(text)])) : null;
}
