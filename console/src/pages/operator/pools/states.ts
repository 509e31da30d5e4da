import type { PoolState } from "bay-sandbox";

export function stateOf(pool: Pick<PoolState, "ready" | "size" | "failures" | "last_error" | "refill_at">) {
  if (pool.ready >= pool.size) return "full" as const;
  return pool.last_error !== null && pool.refill_at !== null ? ("failing" as const) : ("filling" as const);
}

/** How many creates of a hundred the pool served; null before the first. */
export function hitRate({ hits, misses }: Pick<PoolState, "hits" | "misses">): number | null {
  return hits + misses ? Math.round((100 * hits) / (hits + misses)) : null;
}
