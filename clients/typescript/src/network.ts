/** A sandbox's network policy, and its traffic. None of this starts compute. */

import { get, type CallOptions } from "./call.js";
import { SandboxNoun } from "./http.js";
import type { NetworkMode, NetworkPolicy, NetworkPolicySpec, NetworkRule, NetworkState } from "./types.js";

export class Network extends SandboxNoun {
  /** The policy: its own, or its profile's. */
  async get({ signal }: CallOptions = {}): Promise<NetworkPolicy> {
    return this.http.json<NetworkPolicy>({ ...get(this.path("network-policy")), signal });
  }

  /**
   * Have it reach what `policy` says: a whole one, or a mode with `rules`. It holds when the call returns, for
   * connections that stand as well. Throws InvalidArgument for a rule that cannot be; nothing is changed then.
   */
  async set(
    policy: NetworkPolicySpec | NetworkMode,
    rules: NetworkRule[] = [],
    { signal }: CallOptions = {},
  ): Promise<NetworkPolicy> {
    const body = typeof policy === "string" ? { mode: policy, rules } : { ...policy };
    return this.http.json<NetworkPolicy>({ method: "PUT", path: this.path("network-policy"), body, safe: true, signal });
  }

  /** Give its own policy up for its profile's, which is returned. Again is no error. */
  async reset({ signal }: CallOptions = {}): Promise<NetworkPolicy> {
    return this.http.json<NetworkPolicy>({ method: "DELETE", path: this.path("network-policy"), safe: true, signal });
  }

  /** The allowed and refused traffic since its session began: counts by rule, names, bytes. */
  async state({ signal }: CallOptions = {}): Promise<NetworkState> {
    return this.http.json<NetworkState>({ ...get(this.path("network")), signal });
  }
}
