/** The services of a sandbox: commands that start with it and are kept running. */

import { get, sandboxPath, type Call, type CallOptions } from "./call.js";
import { Conflict, Timeout } from "./errors.js";
import { SandboxNoun, type Http } from "./http.js";
import { Lined, type OutputChunk } from "./output.js";
import { Ports } from "./ports.js";
import { now, sleep } from "./retries.js";
import type { Service, ServiceSpec } from "./types.js";

const POLL_S = 0.2;

export class Services extends SandboxNoun {
  constructor(http: Http, sandboxId: string) {
    super(http, sandboxId, ["services"]);
  }

  /** All, and how they are. */
  async list({ signal }: CallOptions = {}): Promise<Service[]> {
    return this.http.all<Service>({ ...get(this.path()), signal });
  }

  /** One of them. Throws NotFound. */
  async get(name: string, { signal }: CallOptions = {}): Promise<Service> {
    return this.http.json<Service>({ ...get(this.path(name)), signal });
  }

  /**
   * Define a service: a new one, or in place of one of that name, restarted if it differs. With `wait` it answers
   * once the service is ready, as `waitReady` does within so many seconds.
   */
  async put(spec: ServiceSpec, { wait, signal }: CallOptions & { wait?: number } = {}): Promise<Service> {
    const { name, ...body } = spec;
    const made = await this.http.json<Service>({ method: "PUT", path: this.path(name), body, safe: true, signal });
    return wait ? this.waitReady(name, { timeoutS: wait, signal }) : made;
  }

  /**
   * The service once it is ready: running, healthy where it has a `health`, and listening on its `http_port`.
   * Starts its sandbox if need be. Throws Conflict when it has failed or is stopped, Timeout after `timeoutS`.
   */
  async waitReady(
    name: string,
    { timeoutS = 60, signal }: CallOptions & { timeoutS?: number } = {},
  ): Promise<Service> {
    const deadline = now() + timeoutS;
    const path = sandboxPath(this.sandboxId, "start");
    await this.http.json({ method: "POST", path, query: { wait: timeoutS }, safe: true, waitS: timeoutS, signal });
    for (; ; await sleep(POLL_S, signal)) {
      const service = await this.get(name, { signal });
      if (isReady(service) && (await this.listens(service, signal))) return service;
      if (now() > deadline) throw new Timeout(`the service ${name} is not ready after ${timeoutS} s: ${how(service)}`);
    }
  }

  /** End it and forget it, with its output. Throws Conflict while another needs it. */
  async delete(name: string, { signal }: CallOptions = {}): Promise<void> {
    await this.http.json({ method: "DELETE", path: this.path(name), signal });
  }

  /** Have it run, now and with every session to come. Again is no error. */
  async start(name: string, options: CallOptions = {}): Promise<Service> {
    return this.post(name, "start", true, options);
  }

  /** End it, and leave it ended until `start`. Again is no error. */
  async stop(name: string, options: CallOptions = {}): Promise<Service> {
    return this.post(name, "stop", true, options);
  }

  /** End it and start it anew. */
  async restart(name: string, options: CallOptions = {}): Promise<Service> {
    return this.post(name, "restart", false, options);
  }

  /** Send a signal (`HUP`, `SIGHUP` or 1) to its process group. Throws Conflict unless it runs. */
  async signal(name: string, signal: string | number, options: CallOptions = {}): Promise<Service> {
    const call: Call = { method: "POST", path: this.path(name, "signal"), body: { signal } };
    return this.http.json<Service>({ ...call, signal: options.signal });
  }

  /** Its output, as far back as it is kept, and with `follow` also the future, also over broken connections. */
  logs(
    name: string,
    { since, follow = false, signal }: CallOptions & { since?: number; follow?: boolean } = {},
  ): AsyncGenerator<OutputChunk, void> {
    const callFrom = (at: number): Call => ({ ...get(this.path(name, "logs"), { since: at, follow }), signal });
    const { retryS } = this.http.config;
    return this.http.followed(new Lined(`the service ${name}`, retryS, callFrom, { since, follow }));
  }

  private async listens({ http_port, state }: Service, signal: AbortSignal | undefined): Promise<boolean> {
    if (http_port === null || state === "exited") return true;
    const ports = await new Ports(this.http, this.sandboxId).list({ signal });
    return ports.some((port) => port.port === http_port);
  }

  private async post(name: string, what: string, safe: boolean, { signal }: CallOptions): Promise<Service> {
    return this.http.json<Service>({ method: "POST", path: this.path(name, what), safe, signal });
  }
}

function isReady(service: Service): boolean {
  const { state, exit_code, enabled, health, healthy } = service;
  if (state === "exited" && exit_code === 0) return true;
  if (state === "failed" || state === "exited" || !enabled) {
    throw new Conflict(`the service ${service.name} does not run: ${how(service)}; see services.logs`);
  }
  return state === "running" && (health === null || healthy === true);
}

/** How it is, in words. */
function how({ state, healthy, message }: Service): string {
  const health = healthy === null ? "" : healthy ? " and healthy" : " and not healthy";
  return `it is ${state}${health}${message ? `, ${message}` : ""}`;
}
