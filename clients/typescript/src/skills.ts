/** The skills of an owner: what executions showed to work, and its releases. */

import { get, nounPath, once, type CallOptions, type Query } from "./call.js";
import { Noun } from "./http.js";
import { filters, wire, type Camel } from "./names.js";
import type { components } from "./schema.js";
import type {
  SkillCandidate, SkillDeletion, SkillEvaluation, SkillHealth, SkillPayload, SkillRelease,
} from "./types.js";

type Schemas = components["schemas"];
type Fields<Name extends keyof Schemas> = Camel<Partial<Schemas[Name]>>;

/** The options of calls that make something. */
interface Making extends CallOptions {
  idempotencyKey?: string;
}

export interface PayloadOptions extends Making {
  /** A word of yours; `generic` unless given. */
  kind?: string;
}
export interface CandidateOptions extends Omit<Fields<"CreateCandidate">, "skillKey" | "sourceExecutionIds">, Making {}
export interface EvaluateOptions extends Omit<Fields<"Evaluate">, "passed">, Making {
  passed: boolean;
}
export interface PromoteOptions extends Fields<"Promote">, Making {}

interface Paging extends CallOptions {
  /** How many one request asks for: 100, at most 500. */
  limit?: number;
}

export interface CandidatesOptions extends Paging {
  status?: SkillCandidate["status"];
  skillKey?: string;
}

export interface ReleasesOptions extends Paging {
  skillKey?: string;
  stage?: SkillRelease["stage"];
  activeOnly?: boolean;
}

export interface DeleteSkillOptions extends CallOptions {
  reason?: string;
}

/**
 * The skills of the key's owner: payloads, candidates, and releases. Calls that make something are sent again by
 * themselves when the connection fails, under one idempotency key.
 */
export class Skills extends Noun {
  /** Store a JSON object or list, 1 MiB at most; gives its reference. Throws QuotaExceeded. */
  async keep(
    payload: SkillPayload["payload"],
    { kind = "generic", idempotencyKey, signal }: PayloadOptions = {},
  ): Promise<string> {
    const call = once("/v1/skills/payloads", { payload, kind }, idempotencyKey, { signal });
    return (await this.http.json<{ payload_ref: string }>(call)).payload_ref;
  }

  /** A stored JSON value. Throws NotFound. */
  async payload(payloadRef: string, { signal }: CallOptions = {}): Promise<SkillPayload> {
    return this.http.json<SkillPayload>({ ...get(nounPath("skills/payloads", payloadRef)), signal });
  }

  /** Remove a stored JSON value. Throws Conflict while a candidate or a release has it. */
  async deletePayload(payloadRef: string, { signal }: CallOptions = {}): Promise<void> {
    await this.http.json({ method: "DELETE", path: nounPath("skills/payloads", payloadRef), signal });
  }

  /**
   * A candidate of the skill `skillKey`, seen in 1 to 100 executions of your history. `payloadRef` may be of any
   * store. Throws NotFound for an execution that is in no history of yours, QuotaExceeded.
   */
  async create(
    skillKey: string,
    sourceExecutionIds: readonly string[],
    { signal, idempotencyKey, ...rest }: CandidateOptions = {},
  ): Promise<SkillCandidate> {
    const body = wire({ skillKey, sourceExecutionIds: [...sourceExecutionIds], ...rest });
    return this.http.json<SkillCandidate>(once("/v1/skills/candidates", body, idempotencyKey, { signal }));
  }

  /** Every candidate that matches, newest first. */
  candidates({ signal, ...options }: CandidatesOptions = {}): AsyncGenerator<SkillCandidate, void> {
    return this.listed<SkillCandidate>("/v1/skills/candidates", filters(options), signal);
  }

  /** One candidate. Throws NotFound. */
  async candidate(candidateId: string, { signal }: CallOptions = {}): Promise<SkillCandidate> {
    return this.http.json<SkillCandidate>({ ...get(nounPath("skills/candidates", candidateId)), signal });
  }

  /** Delete a candidate. A second delete answers as the first. Throws Conflict while a release of it is active. */
  async deleteCandidate(candidateId: string, options: DeleteSkillOptions = {}): Promise<SkillDeletion> {
    return this.deleted("candidates", candidateId, options);
  }

  /** Note the outcome of an evaluation, the latest of which counts. Throws NotFound. */
  async evaluate(
    candidateId: string,
    { signal, idempotencyKey, ...outcome }: EvaluateOptions,
  ): Promise<SkillEvaluation> {
    const path = nounPath("skills/candidates", candidateId, "evaluate");
    return this.http.json<SkillEvaluation>(once(path, wire(outcome), idempotencyKey, { signal }));
  }

  /** Release a candidate in place of the active release of its key. Throws Conflict unless its latest evaluation passed. */
  async promote(
    candidateId: string,
    { signal, idempotencyKey, ...rest }: PromoteOptions = {},
  ): Promise<SkillRelease> {
    const path = nounPath("skills/candidates", candidateId, "promote");
    return this.http.json<SkillRelease>(once(path, wire(rest), idempotencyKey, { signal }));
  }

  /** Every release that matches, newest first. */
  releases({ signal, activeOnly, ...options }: ReleasesOptions = {}): AsyncGenerator<SkillRelease, void> {
    const query = filters({ ...options, activeOnly: activeOnly || undefined });
    return this.listed<SkillRelease>("/v1/skills/releases", query, signal);
  }

  /** How the runs of a release went, beside those of the version before it. Throws NotFound. */
  async health(releaseId: string, { signal }: CallOptions = {}): Promise<SkillHealth> {
    return this.http.json<SkillHealth>({ ...get(nounPath("skills/releases", releaseId, "health")), signal });
  }

  /** A new, active release of what the nearest lower version has. Throws Conflict without one. */
  async rollback(releaseId: string, { signal, idempotencyKey }: Making = {}): Promise<SkillRelease> {
    const path = nounPath("skills/releases", releaseId, "rollback");
    return this.http.json<SkillRelease>(once(path, {}, idempotencyKey, { signal }));
  }

  /** Delete a release, active or not. A second delete answers as the first. Throws NotFound. */
  async deleteRelease(releaseId: string, options: DeleteSkillOptions = {}): Promise<SkillDeletion> {
    return this.deleted("releases", releaseId, options);
  }

  private async deleted(
    noun: "candidates" | "releases",
    thing: string,
    { reason, signal }: DeleteSkillOptions,
  ): Promise<SkillDeletion> {
    const path = nounPath(`skills/${noun}`, thing);
    return this.http.json<SkillDeletion>({ method: "DELETE", path, body: wire({ reason }), safe: true, signal });
  }

  /** The items of pages by offset. One that moves to the next page because another was made is not given again. */
  private async *listed<Item extends { id: string }>(
    path: string,
    { limit = 100, ...query }: Query,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Item, void> {
    const seen = new Set<string>();
    for (let offset = 0, total = 1; offset < total; ) {
      const call = { ...get(path, { ...query, limit, offset }), signal };
      const page = await this.http.json<{ items: Item[]; total: number }>(call);
      for (const item of page.items) {
        if (!seen.has(item.id)) yield item;
        signal?.throwIfAborted();
        seen.add(item.id);
      }
      total = page.items.length ? page.total : 0;
      offset += page.items.length;
    }
  }
}
