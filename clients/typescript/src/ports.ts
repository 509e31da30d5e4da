/** The ports of a sandbox, and their access. */

import type { Source } from "./bytes.js";
import { get, type Call, type CallOptions } from "./call.js";
import { InvalidArgument, Timeout } from "./errors.js";
import { SandboxNoun, type Http } from "./http.js";
import { now, sleep } from "./retries.js";
import type { Port, PortLink, PortSettings } from "./types.js";

const POLL_S = 0.2;

export interface FetchOptions extends CallOptions {
  method?: Call["method"];
  headers?: Record<string, string>;
  content?: Source;
  /** The body as JSON. */
  json?: Record<string, unknown>;
  /** Until it answers: 60 seconds, or the client's `timeoutS`. */
  timeoutS?: number;
}

export interface LinkOptions extends CallOptions {
  expiresIn?: number | string;
  once?: boolean;
}

export class Ports extends SandboxNoun {
  constructor(http: Http, sandboxId: string) {
    super(http, sandboxId, ["ports"]);
  }

  /** Where something listens now, with a URL that leads there; empty for a sandbox that does not run. */
  async list({ signal }: CallOptions = {}): Promise<Port[]> {
    return this.http.all<Port>({ ...get(this.path()), signal });
  }

  /** The listener on a port, once there is one. Wakes nothing; throws Timeout after `timeoutS` seconds. */
  async waitFor(port: number, { timeoutS = 60, signal }: CallOptions & { timeoutS?: number } = {}): Promise<Port> {
    for (const deadline = now() + timeoutS; ; await sleep(POLL_S, signal)) {
      const found = (await this.list({ signal })).find((one) => one.port === port);
      if (found) return found;
      if (now() > deadline) throw new Timeout(`nothing listens on port ${port} after ${timeoutS} s`);
    }
  }

  /**
   * Ask an app that listens on a port by HTTP, with this client's key, which the app does not see. The answer is
   * the app's, whatever its status; redirects are not followed. Throws PortClosed when nothing listens.
   */
  async fetch(port: number, path = "/", options: FetchOptions = {}): Promise<Response> {
    const { method = "GET", headers = {}, content, json, timeoutS, signal } = options;
    const safe = ["GET", "HEAD", "OPTIONS"].includes(method);
    const base = `${this.path(checkedPort(port))}/${checkedWay(path)}`;
    const call = { method, path: base, headers: checkedHeaders(headers), content, body: json, safe, signal };
    return this.http.ask(call, timeoutS);
  }

  /** A URL that opens the port to its bearer, for `expiresIn` seconds (or `"10m"`); with `once` it opens once. */
  async link(port: number, { expiresIn = 3600, once = false, signal }: LinkOptions = {}): Promise<PortLink> {
    const body = { expires_in: expiresIn, once };
    const path = this.path(checkedPort(port), "links");
    return this.http.json<PortLink>({ method: "POST", path, body, safe: true, signal });
  }

  /** Say who may reach it: its `"owner"`, or everybody (`"public"`). */
  async setAccess(
    port: number,
    access: PortSettings["access"],
    { signal }: CallOptions = {},
  ): Promise<PortSettings> {
    const call: Call = { method: "PUT", path: this.path(checkedPort(port)), body: { access }, safe: true };
    return this.http.json<PortSettings>({ ...call, signal });
  }

  /** Undo its settings: it is its owner's again, listed only while something listens. */
  async forget(port: number, { signal }: CallOptions = {}): Promise<void> {
    await this.http.json({ method: "DELETE", path: this.path(checkedPort(port)), safe: true, signal });
  }
}

/** A port as a path or a query has it. Throws InvalidArgument for a number that is none. */
export function checkedPort(port: number): string {
  if (Number.isInteger(port) && port >= 1 && port <= 65_535) return String(port);
  throw new InvalidArgument(`${port} is not a port; give a number from 1 to 65535`);
}

/** A path of an app, which may not lead out of it. */
function checkedWay(path: string): string {
  const steps = (path.split("?")[0] ?? "").split("/").map((step) => step.replace(/%2e/gi, "."));
  if (!steps.some((step) => step === "." || step === "..")) return path.replace(/^\/+/, "");
  throw new InvalidArgument(`the path ${JSON.stringify(path)} has a . or .. segment; give it from the app's root`);
}

function checkedHeaders(headers: Record<string, string>): Record<string, string> {
  if (!Object.keys(headers).some((name) => name.toLowerCase() === "authorization")) return headers;
  const way = "for an app with a key of its own, make a URL with ports.link() and request that";
  throw new InvalidArgument(`fetch sends this client's key as Authorization; ${way}`);
}
