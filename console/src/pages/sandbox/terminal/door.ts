/** Connections to an exec, by the SDK. A break is said at once: the session says so to the user, and comes back. */

import { stream } from "@/bay";
import type { Door } from "./session";

export function doorTo(sandboxId: string, execId: string): Door {
  return {
    repaint: async (size, signal) => {
      const box = await stream.sandboxes.get(sandboxId, { signal });
      return box.terminal({ ...size, execId, signal });
    },
    since: async (since, signal) => {
      const box = await stream.sandboxes.get(sandboxId, { signal });
      return (await box.execs.get(execId, { signal })).attach({ since, signal });
    },
  };
}
