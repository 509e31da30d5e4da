/** The client of one Bay, the entry to its sandboxes. */

import { Admin } from "./admin.js";
import { Audit } from "./audit.js";
import type { Box } from "./box.js";
import { get, sandboxPath, type Call, type CallOptions } from "./call.js";
import { Cargos } from "./cargos.js";
import { resolve, type ClientOptions } from "./config.js";
import { CallerError, CapabilityNotSupported, DriverUnavailable, InvalidArgument, SandboxNotReady } from "./errors.js";
import { events, type EventOptions } from "./events.js";
import { Http } from "./http.js";
import { Images } from "./images.js";
import { Keys } from "./keys.js";
import { LEASE_S } from "./leases.js";
import { newId } from "./names.js";
import { Registries } from "./registries.js";
import { cleanUp } from "./retries.js";
import { RemoteCheckpoints } from "./remote.js";
import { Sandboxes } from "./sandboxes.js";
import { Secrets } from "./secrets.js";
import { Skills } from "./skills.js";
import { Templates } from "./templates.js";
import type { ConsoleCode, CreateOptions, Event, Profile, Sandbox, ServerCapabilities } from "./types.js";
import { Webhooks } from "./webhooks.js";

/** The default wait of `client.sandbox()` until the sandbox is ready. */
const READY_S = 60;

/** A client of one Bay. `baseUrl` and `apiKey` default to `BAY_URL` (else this machine) and `BAY_API_KEY`. */
export class Client implements Disposable {
  readonly sandboxes: Sandboxes;
  readonly cargos: Cargos;
  readonly remoteCheckpoints: RemoteCheckpoints;
  readonly secrets: Secrets;
  readonly images: Images;
  readonly templates: Templates;
  readonly skills: Skills;
  readonly registries: Registries;
  readonly webhooks: Webhooks;
  readonly keys: Keys;
  readonly audit: Audit;
  readonly admin: Admin;
  private readonly http: Http;

  constructor(options: ClientOptions = {}) {
    this.http = new Http(resolve(options));
    this.sandboxes = new Sandboxes(this.http);
    this.cargos = new Cargos(this.http);
    this.remoteCheckpoints = new RemoteCheckpoints(this.http);
    this.secrets = new Secrets(this.http);
    this.images = new Images(this.http);
    this.templates = new Templates(this.http);
    this.skills = new Skills(this.http);
    this.registries = new Registries(this.http);
    this.webhooks = new Webhooks(this.http);
    this.keys = new Keys(this.http);
    this.audit = new Audit(this.http);
    this.admin = new Admin(this.http);
  }

  /** Where it sends its calls. */
  get baseUrl(): string {
    return this.http.config.url;
  }

  /** Renew no leases any more. Sandboxes and commands go on. */
  close(): void {
    this.http.leases.dropAll();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** `{ status: "ok", version }`; needs no key. */
  async health({ signal }: CallOptions = {}): Promise<{ status: string; version: string }> {
    return this.http.json({ ...get("/health"), signal });
  }

  /** The kinds of sandbox there are; needs no key. */
  async profiles({ signal }: CallOptions = {}): Promise<Profile[]> {
    return this.http.all<Profile>({ ...get("/v1/profiles"), signal });
  }

  /** The abilities of the server, by its driver and its storage. */
  async capabilities({ signal }: CallOptions = {}): Promise<ServerCapabilities> {
    return this.http.json<ServerCapabilities>({ ...get("/v1/capabilities"), signal });
  }

  /** A code that signs one browser in to the console as you, once and within 60 seconds; its `url` opens it. */
  async consoleCode({ signal }: CallOptions = {}): Promise<ConsoleCode> {
    return this.http.json<ConsoleCode>({ method: "POST", path: "/v1/console/codes", safe: true, signal });
  }

  /** The answer to any call of the API that this client has no method for. */
  async request<T>(call: Call): Promise<T> {
    return this.http.json<T>(call);
  }

  /**
   * The events of all the owner's sandboxes, in order, without end; or of one, until it is deleted.
   *
   * It begins with what happens after the first event is asked for, or behind the event whose id is `since`
   * (`"0"`: with the oldest still kept). A dropped connection is taken up again where it broke.
   */
  events({ sandbox, ...options }: EventOptions & { sandbox?: string } = {}): AsyncGenerator<Event, void> {
    const path = sandbox === undefined ? "/v1/events" : sandboxPath(sandbox, "events");
    return events(this.http, path, options, sandbox !== undefined);
  }

  /**
   * A sandbox that is ready, and is deleted at the end of an `await using` block, or by its `delete`.
   *
   * Takes what `sandboxes.create` takes but `existOk`. Unless a `ttl` is given it lives for ten minutes that this
   * client renews until it is deleted, so that a program that is killed leaves nothing for longer.
   */
  async sandbox(options: CreateOptions = {}): Promise<Box> {
    options.signal?.throwIfAborted();
    if (options.existOk) throw new InvalidArgument("existOk is not for sandbox(), whose sandbox is deleted at the end");
    const isLeased = options.ttl === undefined;
    const wait = options.wait ?? READY_S;
    const wanted = await this.withImage(options);
    const begun = Date.now();
    const box = await this.createOrNothing({ ...wanted, wait, ...(isLeased && { ttl: LEASE_S }) });
    try {
      checkReady(box.info, wait);
    } catch (error) {
      await box.delete();
      throw error;
    }
    if (isLeased) this.http.leases.hold(box.id, begun);
    return box;
  }

  /**
   * The same options with the image here: a pull may take longer than any start. As they are where the server's
   * nodes fetch images themselves.
   */
  private async withImage(options: CreateOptions): Promise<CreateOptions> {
    const { image, pull = "missing", signal } = options;
    if (!image || image === "host") return options;
    try {
      const { id } = await this.images.pull(image, { pull, signal });
      return { ...options, image: id, pull: "missing" };
    } catch (error) {
      const isFetchedByNodes =
        error instanceof CapabilityNotSupported && [error.details.available].flat().includes("name");
      if (isFetchedByNodes) return options;
      throw error;
    }
  }

  /** A create that, when it fails or is aborted, takes back what the server may have made by then. */
  private async createOrNothing(options: CreateOptions): Promise<Box> {
    const keyed = { idempotencyKey: newId("key"), ...options };
    try {
      return await this.sandboxes.create(keyed);
    } catch (error) {
      if (!(error instanceof CallerError)) {
        await cleanUp((signal) => this.takeBack({ ...keyed, wait: undefined, signal }));
      }
      throw error;
    }
  }

  // The same key gives the same sandbox, which is how its id is learnt.
  private async takeBack(options: CreateOptions): Promise<void> {
    const box = await this.sandboxes.create(options);
    await box.delete({ signal: options.signal });
  }
}

/** Throws what a sandbox failed with, or SandboxNotReady. */
function checkReady(info: Sandbox, waitS: number): void {
  if (info.status === "ready") return;
  const name = info.name ?? info.id;
  if (info.error) throw new DriverUnavailable(`${name} could not start: ${info.error.message}`);
  throw new SandboxNotReady(`${name} is still ${info.status} after ${waitS} s; raise \`wait\` if it needs longer`);
}
