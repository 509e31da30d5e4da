/** Checkpoints in the object store of Bay, whichever Bay pushed them. */

import { get, nounPath, SLICE_S, type CallOptions } from "./call.js";
import { errorFromWire } from "./errors.js";
import { Noun } from "./http.js";
import { filters } from "./names.js";
import type { RemoteCheckpoint } from "./types.js";

/** How often `progress` hears of a push. */
const LOOK_S = 1;

export interface ListRemoteOptions extends CallOptions {
  /** Those made of this sandbox (id or name) alone. */
  sandbox?: string;
  /** How many one request asks for. */
  limit?: number;
}

export interface PushWaitOptions extends CallOptions {
  /** Is called with the remote checkpoint about once a second. */
  progress?: (checkpoint: RemoteCheckpoint) => void;
}

/** The remote checkpoints of the key's owner. Each is called by its key. */
export class RemoteCheckpoints extends Noun {
  /** All, by key, or those made of a sandbox. */
  list({ signal, ...options }: ListRemoteOptions = {}): AsyncGenerator<RemoteCheckpoint, void> {
    return this.http.paged<RemoteCheckpoint>("/v1/remote-checkpoints", filters(options), signal);
  }

  /** The one of that key. Throws NotFound. */
  async get(key: string, { signal }: CallOptions = {}): Promise<RemoteCheckpoint> {
    return this.http.json<RemoteCheckpoint>({ ...get(nounPath("remote-checkpoints", key)), signal });
  }

  /** The one of that key once its push has ended. Throws the error that it failed with. */
  async wait(key: string, { progress, signal }: PushWaitOptions = {}): Promise<RemoteCheckpoint> {
    const wait = progress ? LOOK_S : SLICE_S;
    const call = get(nounPath("remote-checkpoints", key), { wait }, wait);
    for (;;) {
      const found = await this.http.json<RemoteCheckpoint>({ ...call, signal });
      progress?.(found);
      if (found.state === "failed" && found.error) throw errorFromWire(0, { error: found.error });
      if (found.state !== "pushing") return found;
    }
  }

  /** Remove it from the object store, and cancel its push. Checkpoints of sandboxes stay. */
  async delete(key: string, { signal }: CallOptions = {}): Promise<void> {
    await this.http.json({ method: "DELETE", path: nounPath("remote-checkpoints", key), signal });
  }
}
