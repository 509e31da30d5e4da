/** The audit: which key changed what, and the outcome. */

import type { CallOptions } from "./call.js";
import { Noun } from "./http.js";
import { filters } from "./names.js";
import type { AuditEntry } from "./types.js";

export interface AuditOptions extends CallOptions {
  owner?: string;
  keyId?: string;
  method?: string;
  /** The beginning of a path, such as `/v1/sandboxes`. */
  path?: string;
  /** A number such as `"404"`, or `"4xx"` for all of its kind. */
  status?: string;
  requestId?: string;
  resourceId?: string;
  /** Included; a text is RFC 3339. */
  since?: Date | string;
  /** Not included. */
  until?: Date | string;
  /** Which come first; the oldest unless given. */
  order?: "oldest" | "newest";
  /** How many one request asks for. */
  limit?: number;
}

/** The calls that were meant to change something: everybody's for an admin key, else your owner's. */
export class Audit extends Noun {
  /** All that match, as they are taken: oldest first, or as `order` says. */
  list({ signal, ...options }: AuditOptions = {}): AsyncGenerator<AuditEntry, void> {
    return this.http.paged<AuditEntry>("/v1/audit", filters(options), signal);
  }
}
