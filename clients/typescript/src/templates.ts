/** The templates of an owner: named images of sandboxes, from which others start. */

import { beginBuild, cancelBuild, followBuild, type BuildOptions } from "./builds.js";
import { get, nounPath, once, SLICE_S, type CallOptions } from "./call.js";
import { BayError, errorFromWire } from "./errors.js";
import { Noun } from "./http.js";
import { filters, wire, type Camel } from "./names.js";
import type { components } from "./schema.js";
import type { Template } from "./types.js";

type Schemas = components["schemas"];
type Building = "dockerfile" | "image" | "steps" | "args" | "secrets" | "pull" | "stepTimeout" | "context" | "config";
type Frozen = Omit<Camel<Partial<Schemas["CreateTemplate"]>>, Building | "name" | "sandbox">;

export interface TemplateOptions extends Frozen, CallOptions {
  idempotencyKey?: string;
}

export interface UpdateTemplateOptions extends Camel<Partial<Schemas["UpdateTemplate"]>>, CallOptions {}

export interface ListTemplatesOptions extends CallOptions {
  name?: string;
  /** How many one request asks for. */
  limit?: number;
}

/** The templates of the key's owner, and those that are shared with all owners. */
export class Templates extends Noun {
  /**
   * Freeze a sandbox (by id or name) into a template; returns when it is ready.
   *
   * `tag` is `"latest"` unless given, and taken from an older template of that name. `startCommand` runs in each of
   * its sandboxes as the service `main`, which serves once `readyCommand` ends with 0; a text is run by a shell, a list
   * as it is. `profile` and the sizes are the sandbox's unless given. `poolSize` of its sandboxes, up to `poolMax`
   * when creates come fast, wait started for creates, and count in your quotas. `shared` lets every owner use it, and
   * needs an admin key. Throws Conflict for a sandbox without an image, or of a profile that does not keep the
   * machine, QuotaExceeded, and the error of a freeze that failed.
   */
  async create(
    name: string,
    sandbox: string,
    { signal, idempotencyKey, ...rest }: TemplateOptions = {},
  ): Promise<Template> {
    const call = once("/v1/templates", wire({ name, sandbox, ...rest }), idempotencyKey, { signal });
    return this.wait((await this.http.json<Template>(call)).id, { signal });
  }

  /**
   * Build the template `name`, or `name:tag`, of the Dockerfile in the local directory `context`. Needs `node:fs`.
   *
   * The server does the steps in a sandbox of yours, which is deleted at the end. A caller that leaves, by the signal
   * or since its `log` throws, cancels the build. Throws InvalidArgument for a Dockerfile that breaks a rule or needs
   * more than Bay's subset, and BuildFailed for a step that fails.
   */
  async build(context: string, name: string, options: BuildOptions = {}): Promise<Template> {
    const { signal, log = () => undefined } = options;
    const made = await beginBuild(this.http, context, name, options);
    let isTelling = false;
    const tell = (part: string): void => {
      isTelling = true;
      log(part);
      isTelling = false;
    };
    try {
      await followBuild(this.http, made.id, tell, { signal });
      return await this.wait(made.id, { signal });
    } catch (error) {
      // Any other error of Bay's says that the build is over by itself.
      if (isTelling || !(error instanceof BayError)) await cancelBuild(this.http, made.id);
      throw error;
    }
  }

  /** The output of the steps of a template's build so far, 16 MiB at most. Throws NotFound for one not built. */
  async log(ref: string, { signal }: CallOptions = {}): Promise<string> {
    let text = "";
    await followBuild(this.http, ref, (part) => void (text += part), { toTheEnd: false, signal });
    return text;
  }

  /** The template once it is made. Throws the error that it failed with. */
  async wait(ref: string, { signal }: CallOptions = {}): Promise<Template> {
    for (;;) {
      const call = { ...get(nounPath("templates", ref), { wait: SLICE_S }, SLICE_S), signal };
      const found = await this.http.json<Template>(call);
      if (found.state === "failed" && found.error) throw errorFromWire(0, { error: found.error });
      if (found.state !== "building") return found;
    }
  }

  /** The template of that id, `"name"` or `"name:tag"`. Throws NotFound. */
  async get(ref: string, { signal }: CallOptions = {}): Promise<Template> {
    return this.http.json<Template>({ ...get(nounPath("templates", ref)), signal });
  }

  /**
   * Put another tag in the place of a template's own, which any other of its name then loses, share it with every
   * owner, which needs an admin key, or give its pool another size; 0 for none. Throws Conflict for a tag of one that
   * is not ready, and QuotaExceeded.
   */
  async update(ref: string, { signal, ...changes }: UpdateTemplateOptions): Promise<Template> {
    const path = nounPath("templates", ref);
    return this.http.json<Template>({ method: "PATCH", path, body: wire(changes), safe: true, signal });
  }

  /**
   * Have a template be found by one more name, `"name"` or `"name:tag"`, which any other template of yours then
   * loses. Throws Conflict for one that is not ready.
   */
  async tag(ref: string, target: string, { signal }: CallOptions = {}): Promise<Template> {
    const [name, tag] = nameAndTag(target);
    const path = nounPath("templates", ref, "aliases");
    return this.http.json<Template>({ method: "POST", path, body: wire({ name, tag }), safe: true, signal });
  }

  /**
   * Remove a template with its image and files, or by one of several names that name alone. Throws Conflict while a
   * sandbox needs what would go.
   */
  async delete(ref: string, { signal }: CallOptions = {}): Promise<void> {
    await this.http.json({ method: "DELETE", path: nounPath("templates", ref), signal });
  }

  /** Every template that you may use, or of that name, oldest first. */
  list({ signal, ...options }: ListTemplatesOptions = {}): AsyncGenerator<Template, void> {
    return this.http.paged<Template>("/v1/templates", filters(options), signal);
  }
}

function nameAndTag(target: string): [string, string | undefined] {
  const at = target.indexOf(":");
  return at < 0 ? [target, undefined] : [target.slice(0, at), target.slice(at + 1)];
}
