/** The audit: which key changed what, and the outcome. */

import type { CallOptions } from "./call.js";
import { Noun } from "./http.js";
import { filters } from "./names.js";
import type { AuditEntry } from "./types.js";

export interface AuditOptions extends CallOptions {
  owner?: string;
  keyId?: string;
  method?: string;
  requestId?: string;
  resourceId?: string;
  /** Included; a text is RFC 3339. */
  since?: Date | string;
  /** Not included. */
  until?: Date | string;
  /** How many one request asks for. */
  limit?: number;
}

/** The calls that were meant to change something: everybody's for an admin key, else your owner's. */
export class Audit extends Noun {
  /** All that match, oldest first, as they are taken. */
  list({ signal, ...options }: AuditOptions = {}): AsyncGenerator<AuditEntry, void> {
    return this.http.paged<AuditEntry>("/v1/audit", filters(options), signal);
  }
}
