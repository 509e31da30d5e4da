/** The checkpoints of a sandbox as the timeline shows them. */

import { queryOptions } from "@tanstack/react-query";
import { type Checkpoint, Conflict, type RemoteCheckpoint } from "bay-sandbox";
import { bay } from "@/bay";
import { keys } from "@/live";

export function checkpointsQuery(id: string) {
  return queryOptions({
    queryKey: keys.of(id, "checkpoints"),
    queryFn: async ({ signal }): Promise<Checkpoint[]> => {
      const found = await (await bay.sandboxes.get(id, { signal })).checkpoints({ signal });
      return found.sort((one, other) => other.number - one.number);
    },
  });
}

/** Those of a sandbox that are in the object store; null where this Bay has none. */
export function remoteQuery(id: string) {
  return queryOptions({
    queryKey: keys.of(id, "checkpoints", "remote"),
    queryFn: async ({ signal }): Promise<RemoteCheckpoint[] | null> => {
      try {
        return await Array.fromAsync(bay.remoteCheckpoints.list({ sandbox: id, signal }));
      } catch (error) {
        if (error instanceof Conflict) return null;
        throw error;
      }
    },
  });
}

/** Its name, else its number. */
export function nameOf(one: Pick<Checkpoint, "name" | "number">): string {
  return one.name ?? `#${one.number}`;
}
