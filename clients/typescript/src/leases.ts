/**
 * Renews the leases of the sandboxes of `client.sandbox()` for as long as the program lives, and no longer.
 *
 * Such a sandbox has a time to live of `LEASE_S`, and a timer puts its end off. A program that is killed renews
 * nothing, and Bay removes what it left. The timer keeps no program alive.
 */

import { once, sandboxPath, type Call } from "./call.js";
import { BayError, CallerError } from "./errors.js";

/** How long such a sandbox outlives its program, at most. */
export const LEASE_S = 600;
const RENEW_S = 120;
const AGAIN_S = 5;

interface Lease {
  /** The time up to which its end was put off, in milliseconds of the wall clock. */
  paidTo: number;
  timer?: ReturnType<typeof setTimeout>;
}

export class Leases {
  private readonly held = new Map<string, Lease>();

  constructor(private readonly send: (call: Call) => Promise<unknown>) {}

  /** Renew the lease of a sandbox that was made at `since` until it is dropped. */
  hold(sandboxId: string, since: number): void {
    this.held.set(sandboxId, { paidTo: since });
    this.renewIn(sandboxId, RENEW_S);
  }

  /** Renew it no more. */
  drop(sandboxId: string): void {
    clearTimeout(this.held.get(sandboxId)?.timer);
    this.held.delete(sandboxId);
  }

  /** Renew none any more. */
  dropAll(): void {
    for (const sandboxId of [...this.held.keys()]) this.drop(sandboxId);
  }

  private renewIn(sandboxId: string, seconds: number): void {
    const lease = this.held.get(sandboxId);
    if (!lease) return;
    lease.timer = setTimeout(() => void this.renew(sandboxId, lease), seconds * 1000);
    (lease.timer as { unref?: () => void }).unref?.();
  }

  private async renew(sandboxId: string, lease: Lease): Promise<void> {
    const seconds = Math.max(1, Math.round((Date.now() - lease.paidTo) / 1000));
    try {
      await this.send(once(sandboxPath(sandboxId, "extend_ttl"), { extend_by: seconds }));
      lease.paidTo += seconds * 1000;
      this.renewIn(sandboxId, RENEW_S);
    } catch (error) {
      // It may be deleted, or not ours: the next call of the program reports it.
      const isOver = error instanceof CallerError && !error.retryable;
      if (error instanceof BayError && !isOver) this.renewIn(sandboxId, AGAIN_S);
    }
  }
}
