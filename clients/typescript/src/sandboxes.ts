/** The sandboxes of the key's owner. */

import { Box } from "./box.js";
import { COPY_S, get, once, sandboxPath, type CallOptions } from "./call.js";
import { ref } from "./checkpoints.js";
import { Conflict, InvalidArgument, NotFound } from "./errors.js";
import type { Http } from "./http.js";
import { filters, newId, wire, type Json } from "./names.js";
import type { CreateOptions, ListOptions, Sandbox } from "./types.js";

/** How often `getOrCreate` looks, while others make and delete the sandbox of that name. */
const ATTEMPTS = 3;

export class Sandboxes {
  constructor(private readonly http: Http) {}

  /**
   * A new sandbox. With `wait` it answers when the sandbox is ready or has failed, or the seconds are over. Sent
   * again by itself when the connection fails, under one idempotency key: one call makes one sandbox. Throws
   * Conflict when the name is taken, unless `existOk`.
   */
  async create(options: CreateOptions = {}): Promise<Box> {
    const { existOk, idempotencyKey = newId("key"), signal, wait, ...rest } = options;
    if (existOk) return this.getOrCreate(named(options), { ...options, existOk: false });
    const waitS = Math.max(wait ?? 0, rest.fromCheckpoint ? COPY_S : 0);
    const call = once("/v1/sandboxes", createBody(rest), idempotencyKey, { query: { wait }, waitS, signal });
    return new Box(this.http, await this.http.json<Sandbox>(call));
  }

  /** The sandbox of that name as it is, or a new one that is as the options say. An expired one is removed first. */
  async getOrCreate(name: string, options: CreateOptions = {}): Promise<Box> {
    for (let attempt = 1; ; attempt += 1) {
      const box = await this.usable(name, options);
      if (box) return box;
      try {
        return await this.create({ ...options, name, existOk: false });
      } catch (error) {
        // Another client has made it just now.
        if (!(error instanceof Conflict) || attempt === ATTEMPTS) throw error;
      }
    }
  }

  /** The sandbox of that id or name. Throws NotFound. */
  async get(idOrName: string, { signal }: CallOptions = {}): Promise<Box> {
    return new Box(this.http, await this.http.json<Sandbox>({ ...get(sandboxPath(idOrName)), signal }));
  }

  /** All that match, oldest first, page by page as they are taken. */
  async *list({ signal, ...options }: ListOptions = {}): AsyncGenerator<Box, void> {
    const found = this.http.paged<Sandbox>("/v1/sandboxes", filters(options), signal);
    for await (const info of found) yield new Box(this.http, info);
  }

  /** Remove the sandbox of that id or name with its files. Again is no error. */
  async delete(idOrName: string, { signal }: CallOptions = {}): Promise<void> {
    this.http.leases.drop(idOrName);
    await this.http.json({ method: "DELETE", path: sandboxPath(idOrName), safe: true, signal });
  }

  private async usable(name: string, { wait, signal }: CreateOptions): Promise<Box | null> {
    try {
      const box = await this.get(name, { signal });
      if (box.info.status === "expired") await box.delete({ signal });
      else if (wait) await box.start({ wait, signal });
      return box.info.status === "expired" ? null : box;
    } catch (error) {
      if (error instanceof NotFound) return null;
      throw error;
    }
  }
}

function createBody({ url, secrets, template, fromCheckpoint, ...rest }: CreateOptions): Json {
  return wire({
    ...rest,
    url: typeof url === "number" ? { port: url } : url,
    secrets: secrets?.map((secret) => (typeof secret === "string" ? { name: secret } : secret)),
    template: template && (typeof template === "string" ? template : template.id),
    fromCheckpoint: fromCheckpoint && ref(fromCheckpoint),
  });
}

function named({ name }: CreateOptions): string {
  if (name) return name;
  throw new InvalidArgument("existOk needs a name, by which an existing sandbox is found");
}
