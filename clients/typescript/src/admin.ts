/** The operator's view of a Bay; takes an admin key. */

import { get, type Call, type CallOptions } from "./call.js";
import { Noun } from "./http.js";
import { wire } from "./names.js";
import type {
  GarbageRun,
  GarbageState,
  GarbageTask,
  HostOverview,
  PoolState,
  ReplicaState,
  RestartPreparation,
  SettingInForce,
} from "./types.js";

/** How long a collection may take before the client gives it up. */
const COLLECT_S = 120;

/** How long the memory of a whole host may take to reach its disk. */
const PREPARE_S = 3600;

/** The host behind the sandboxes. */
export class Admin extends Noun {
  /** The host of the Bay that answers: its load, memory and storage, and the sandboxes of all owners. */
  async host({ signal }: CallOptions = {}): Promise<HostOverview> {
    return this.http.json<HostOverview>({ ...get("/v1/admin/host"), signal });
  }

  /**
   * Have the memory of all sandboxes that may hibernate outlive a planned restart of the host.
   *
   * Hibernates them, running or frozen, and answers with every sandbox that has compute when all is on disk. It stops
   * none, and holds no caller off: one that is called afterwards runs again, and another call of this hibernates it
   * again. Stop Bay and restart the host next.
   */
  async prepareRestart({ signal }: CallOptions = {}): Promise<RestartPreparation> {
    const call: Call = { method: "POST", path: "/v1/admin/host/prepare_restart", safe: true, waitS: PREPARE_S };
    return this.http.json<RestartPreparation>({ ...call, signal });
  }

  /** The settings in force and where each comes from; of a secret only whether it is set. */
  async settings({ signal }: CallOptions = {}): Promise<SettingInForce[]> {
    return this.http.all<SettingInForce>({ ...get("/v1/admin/settings"), signal });
  }

  /** How full the pools of profiles and templates are, and what keeps each from being full. */
  async pool({ signal }: CallOptions = {}): Promise<PoolState[]> {
    return this.http.all<PoolState>({ ...get("/v1/admin/pool"), signal });
  }

  /**
   * Collect now what Bay collects by itself, of every owner; all tasks unless some are named. Answers when it is done.
   *
   * `idle_session` gives back the compute of idle sandboxes, frozen ones included; `expired_sandbox` ends those whose
   * time is over; `orphan_cargo` and `orphan_container` remove what is on the host and belongs to no sandbox.
   */
  async collectGarbage(tasks?: readonly GarbageTask[], { signal }: CallOptions = {}): Promise<GarbageRun> {
    const call: Call = { method: "POST", path: "/v1/admin/gc/run", body: wire({ tasks }), safe: true, waitS: COLLECT_S };
    return this.http.json<GarbageRun>({ ...call, signal });
  }

  /** Whether a collection is under way, and what the last one that was asked for did. */
  async garbageState({ signal }: CallOptions = {}): Promise<GarbageState> {
    return this.http.json<GarbageState>({ ...get("/v1/admin/gc/status"), signal });
  }

  /**
   * The Bays that share one database, which shards of sandboxes and which jobs each has, and which none has just now.
   * One that is alone has all.
   */
  async replicas({ signal }: CallOptions = {}): Promise<ReplicaState> {
    return this.http.json<ReplicaState>({ ...get("/v1/replicas"), signal });
  }
}
