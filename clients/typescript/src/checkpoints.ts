/**
 * Checkpoints of a sandbox: copies of its files at one moment, or also of the memory of what runs in it. Each is called
 * by its id or its name.
 */

import { joined, type Source } from "./bytes.js";
import { COPY_S, get, once, type Call, type CallOptions } from "./call.js";
import { History } from "./history.js";
import { wire } from "./names.js";
import type { Checkpoint, FileChange, RemoteCheckpoint } from "./types.js";

export interface CheckpointOptions extends CallOptions {
  name?: string;
  comment?: string;
}

/** The options of `box.checkpoint`. */
export interface NewCheckpointOptions extends CheckpointOptions {
  /** Also save what runs: programs with their variables and open files, as they are at that moment. */
  memory?: boolean;
}

/** The options of `box.restore`. */
export interface RestoreOptions extends CallOptions {
  /** Go on with what ran then; of a checkpoint with memory that is the default. False restores files alone. */
  memory?: boolean;
}

/** The id or name for a path. */
export function ref(checkpoint: string | Checkpoint): string {
  return typeof checkpoint === "string" ? checkpoint : checkpoint.id;
}

/** What a box can do with checkpoints, and with its history. None of this starts compute. */
export class Checkpoints extends History {
  /**
   * Make a checkpoint of the present files, or with `memory` also of what runs. Programs go on; they are frozen only
   * for that moment. Throws Conflict and CapabilityNotSupported when the memory cannot be saved.
   */
  async checkpoint({ signal, ...options }: NewCheckpointOptions = {}): Promise<Checkpoint> {
    const call = once(this.path("checkpoints"), wire(options), undefined, { waitS: COPY_S, signal });
    return this.http.json<Checkpoint>(call);
  }

  /** Its checkpoints, oldest first: all, or those made by its policy (`auto: true`), or by request. */
  async checkpoints({ auto, signal }: CallOptions & { auto?: boolean } = {}): Promise<Checkpoint[]> {
    const found: Checkpoint[] = [];
    for await (const one of this.http.paged<Checkpoint>(this.path("checkpoints"), { auto }, signal)) found.push(one);
    return found;
  }

  /** The checkpoint of that id or name. Throws NotFound. */
  async getCheckpoint(checkpoint: string, { signal }: CallOptions = {}): Promise<Checkpoint> {
    return this.http.json<Checkpoint>({ ...get(this.of(checkpoint)), signal });
  }

  /** Remove a checkpoint for good. Forks of it stay. */
  async deleteCheckpoint(checkpoint: string | Checkpoint, { signal }: CallOptions = {}): Promise<void> {
    await this.http.json({ method: "DELETE", path: this.of(checkpoint), signal });
  }

  /**
   * The files that differ between a checkpoint and another one, or the present files, in the order of their paths.
   * They are compared by type, size, time, mode and owner. Throws CapabilityNotSupported, and Timeout.
   */
  diffCheckpoint(
    checkpoint: string | Checkpoint,
    { to, signal }: CallOptions & { to?: string | Checkpoint } = {},
  ): AsyncGenerator<FileChange, void> {
    const query = to === undefined ? {} : { to: ref(to) };
    return this.http.paged<FileChange>(this.of(checkpoint, "diff"), query, signal);
  }

  /** The bytes of one file as a checkpoint has it, up to 8 MiB; no link is followed. Throws FileMissing. */
  async readCheckpointFile(
    checkpoint: string | Checkpoint,
    path: string,
    { signal }: CallOptions = {},
  ): Promise<Uint8Array> {
    const answer = await this.http.opened({ ...get(this.of(checkpoint, "files", "content"), { path }), signal });
    const parts: Uint8Array[] = [];
    try {
      for await (const part of answer.chunks()) parts.push(part);
    } finally {
      answer.close();
    }
    return joined(parts);
  }

  /** A checkpoint as a tar in zstd, which streams. Read once; `importCheckpoint` looks at its checksums. */
  async *exportCheckpoint(
    checkpoint: string | Checkpoint,
    { signal }: CallOptions = {},
  ): AsyncGenerator<Uint8Array, void> {
    const answer = await this.http.opened({ ...get(this.of(checkpoint, "export"), {}, COPY_S), signal });
    try {
      yield* answer.chunks();
    } finally {
      answer.close();
    }
  }

  /** Make a checkpoint of what an export gave, here or on another machine. */
  async importCheckpoint(source: Source, { signal, ...options }: CheckpointOptions = {}): Promise<Checkpoint> {
    const headers = { "Content-Type": "application/zstd" };
    const path = this.path("checkpoints", "import");
    const call: Call = { method: "POST", path, query: { ...options }, content: source, headers, waitS: COPY_S };
    return this.http.json<Checkpoint>({ ...call, signal });
  }

  /**
   * Have a checkpoint in Bay's object store. Answers at once: `client.remoteCheckpoints.wait` waits. Asking again
   * changes nothing. Throws Conflict where Bay has no object store.
   */
  async pushCheckpoint(checkpoint: string | Checkpoint, { signal }: CallOptions = {}): Promise<RemoteCheckpoint> {
    return this.http.json<RemoteCheckpoint>({ method: "POST", path: this.of(checkpoint, "push"), safe: true, signal });
  }

  /** Make a checkpoint of one in Bay's object store, also of another Bay's. Throws NotFound. */
  async pullCheckpoint(
    key: string | RemoteCheckpoint,
    { signal, ...options }: CheckpointOptions = {},
  ): Promise<Checkpoint> {
    const body = wire({ ...options, key: typeof key === "string" ? key : key.key });
    const path = this.path("checkpoints", "pull");
    return this.http.json<Checkpoint>({ method: "POST", path, body, waitS: COPY_S, signal });
  }

  protected of(checkpoint: string | Checkpoint, ...rest: string[]): string {
    return this.path("checkpoints", ref(checkpoint), ...rest);
  }
}
