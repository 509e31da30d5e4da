/** API keys, for holders of an admin key. */

import { nounPath, type CallOptions } from "./call.js";
import { Noun } from "./http.js";
import { filters, wire, type Camel } from "./names.js";
import type { components } from "./schema.js";
import type { Key, NewKey } from "./types.js";

type KeyFields = Omit<Camel<Partial<components["schemas"]["CreateKey"]>>, "name" | "expiresAt" | "quotas">;

export interface KeyOptions extends KeyFields, CallOptions {
  /** When it stops; a text is RFC 3339. */
  expiresAt?: Date | string | null;
  /** What its sandboxes may use at once, beside its owner's quotas. */
  quotas?: Partial<components["schemas"]["KeyQuotas"]> | null;
}

export interface ListKeysOptions extends CallOptions {
  owner?: string;
  /** How many one request asks for. */
  limit?: number;
}

/** The keys of every owner. */
export class Keys extends Noun {
  /**
   * A new key, of your own owner unless named. Its `secret` is in this answer and nowhere else.
   *
   * It expires after `expiresIn` seconds (or `"7d"`), or at `expiresAt`, or never. Never sent twice by itself, since a
   * second answer would lack the secret: after a ConnectionFailed look through `list` and revoke what you do not know.
   */
  async create(name: string, { signal, ...options }: KeyOptions = {}): Promise<NewKey> {
    return this.http.json<NewKey>({ method: "POST", path: "/v1/keys", body: wire({ name, ...options }), signal });
  }

  /** All keys, or one owner's, oldest first, with the revoked and expired. */
  list({ signal, ...options }: ListKeysOptions = {}): AsyncGenerator<Key, void> {
    return this.http.paged<Key>("/v1/keys", filters(options), signal);
  }

  /** Revoke a key from now on. Again is no error. Throws Conflict for the last admin key. */
  async revoke(keyId: string, { signal }: CallOptions = {}): Promise<void> {
    await this.http.json({ method: "DELETE", path: nounPath("keys", keyId), safe: true, signal });
  }
}
