/** The execs of a sandbox: commands and terminals, running ones and those that ended a short while ago. */

import { queryOptions } from "@tanstack/react-query";
import type { Exec } from "bay-sandbox";
import { bay } from "@/bay";
import { keys } from "@/live";

/** All of them, newest first. Asking wakes nothing. */
export function execsQuery(sandboxId: string) {
  return queryOptions({
    queryKey: keys.of(sandboxId, "execs"),
    queryFn: async ({ signal }): Promise<Exec[]> => {
      const box = await bay.sandboxes.get(sandboxId, { signal });
      const found: Exec[] = [];
      for await (const proc of box.execs.list({ signal })) found.push(proc.info);
      return found.sort((one, other) => other.started_at.localeCompare(one.started_at));
    },
  });
}
