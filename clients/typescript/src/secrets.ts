/** The secrets of an owner: values that sandboxes are given by name. */

import { get, nounPath, type CallOptions } from "./call.js";
import { Noun } from "./http.js";
import type { Secret } from "./types.js";

/** The secrets of the key's owner. No call gives a value back. */
export class Secrets extends Noun {
  /**
   * Keep `value` under `name`, in place of the one it had. The next command of each sandbox that is given the secret
   * has the new value. Throws QuotaExceeded.
   */
  async set(name: string, value: string, { signal }: CallOptions = {}): Promise<Secret> {
    const path = nounPath("secrets", name);
    return this.http.json<Secret>({ method: "PUT", path, body: { value }, safe: true, signal });
  }

  /** All of them by name, without their values. */
  async list({ signal }: CallOptions = {}): Promise<Secret[]> {
    return this.http.all<Secret>({ ...get("/v1/secrets"), signal });
  }

  /** Forget a secret. Sandboxes that are given it do not start without it. Throws NotFound. */
  async delete(name: string, { signal }: CallOptions = {}): Promise<void> {
    await this.http.json({ method: "DELETE", path: nounPath("secrets", name), signal });
  }
}
