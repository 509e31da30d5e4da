/** The cargos of an owner: files that outlive sandboxes. */

import { COPY_S, get, nounPath, once, type CallOptions } from "./call.js";
import { ref } from "./checkpoints.js";
import { Noun } from "./http.js";
import { filters, wire } from "./names.js";
import type { Cargo, Checkpoint } from "./types.js";

export interface CargoOptions extends CallOptions {
  /** MiB; it holds where the answer says `size_limit_enforced`. */
  sizeLimitMb?: number | null;
  /** A checkpoint, or its id. */
  fromCheckpoint?: string | Checkpoint | null;
  idempotencyKey?: string;
}

export interface ListCargosOptions extends CallOptions {
  /** True: those of sandboxes, in place of the external ones. */
  managed?: boolean;
  /** How many one request asks for. */
  limit?: number;
}

/** The cargos of the key's owner: external ones, which you make, and managed ones of sandboxes. */
export class Cargos extends Noun {
  /**
   * A new cargo, empty or with the files of a checkpoint; `sandboxes.create({ cargoId })` mounts it. Sent again by
   * itself when the connection fails, under one idempotency key.
   */
  async create({ signal, idempotencyKey, fromCheckpoint, ...rest }: CargoOptions = {}): Promise<Cargo> {
    const body = wire({ ...rest, fromCheckpoint: fromCheckpoint && ref(fromCheckpoint) });
    const waitS = fromCheckpoint ? COPY_S : 0;
    return this.http.json<Cargo>(once("/v1/cargos", body, idempotencyKey, { waitS, signal }));
  }

  /** The external ones, or with `managed` those of sandboxes. */
  list({ signal, ...options }: ListCargosOptions = {}): AsyncGenerator<Cargo, void> {
    return this.http.paged<Cargo>("/v1/cargos", filters(options), signal);
  }

  /** The cargo of that id. Throws NotFound. */
  async get(cargoId: string, { signal }: CallOptions = {}): Promise<Cargo> {
    return this.http.json<Cargo>({ ...get(nounPath("cargos", cargoId)), signal });
  }

  /** Change how much it may hold, in MiB; null is no limit. */
  async update(
    cargoId: string,
    { sizeLimitMb, signal }: CallOptions & { sizeLimitMb: number | null },
  ): Promise<Cargo> {
    const path = nounPath("cargos", cargoId);
    return this.http.json<Cargo>({ method: "PATCH", path, body: wire({ sizeLimitMb }), safe: true, signal });
  }

  /** Remove an external cargo and its files for good. Throws Conflict for a managed or used one. */
  async delete(cargoId: string, { signal }: CallOptions = {}): Promise<void> {
    await this.http.json({ method: "DELETE", path: nounPath("cargos", cargoId), signal });
  }

  /**
   * Have a sandbox (id or name) use this cargo from now on, in place of its own.
   *
   * Both that sandbox and the one that had the cargo must be cold, else it throws Conflict. No files are lost: the
   * sandbox's old files become an external cargo, and the one whose managed cargo went away gets an empty one.
   */
  async move(cargoId: string, sandbox: string, { signal }: CallOptions = {}): Promise<Cargo> {
    const path = nounPath("cargos", cargoId, "move");
    return this.http.json<Cargo>({ method: "POST", path, body: { sandbox }, signal });
  }
}
