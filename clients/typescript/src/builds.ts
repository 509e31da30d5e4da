/** Builds of templates: the server does the steps; the client sends the files, and follows the log. */

import { get, nounPath, once, type Call, type CallOptions } from "./call.js";
import { contextOf, type BuildContext } from "./context.js";
import { InvalidArgument } from "./errors.js";
import type { Http } from "./http.js";
import { wire, type Json } from "./names.js";
import { cleanUp, Patience, sleep } from "./retries.js";
import type { components } from "./schema.js";
import type { Template } from "./types.js";

type Schemas = components["schemas"];
type CopySpec = Partial<Schemas["CopyStep"]> & Pick<Schemas["CopyStep"], "sources" | "target">;

/** One step, with one of the fields. */
export type BuildStep = Omit<Schemas["StepBody"], "copy"> & { copy?: CopySpec };

/** The options of `templates.build`; one left out is the default. */
export interface BuildOptions extends CallOptions {
  /** The path of the Dockerfile; `Dockerfile` in the context unless given. */
  dockerfile?: string;
  /** In place of a Dockerfile: the image that `steps` begin with. */
  image?: string;
  steps?: readonly BuildStep[];
  /** Values for the ARGs of the Dockerfile. */
  args?: Readonly<Record<string, string>>;
  /** Secrets of the owner that the commands are given by name; a text is the variable of that name. */
  secrets?: readonly (string | Schemas["SandboxSecret"])[];
  /** One that keeps the whole root file system (`persist: machine`). */
  profile?: string;
  /** When the base image is fetched. */
  pull?: Schemas["CreateTemplate"]["pull"];
  /** How many seconds one step may take: an hour unless given. */
  stepTimeoutS?: number;
  /** Gets the log as it comes, in parts that may end within a line. */
  log?: (part: string) => void;
  startCommand?: string | readonly string[];
  readyCommand?: string | readonly string[];
  shared?: boolean;
}

const REF = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,62})?$/;

/** Ask for a build, and send the files that its steps may copy. */
export async function beginBuild(http: Http, context: string, ref: string, options: BuildOptions): Promise<Template> {
  checkRef(ref);
  const { dockerfile, image, steps, signal } = options;
  if ((image === undefined) !== (steps === undefined) || (steps !== undefined && dockerfile !== undefined)) {
    throw new InvalidArgument("a build takes a Dockerfile, or an image and steps; name one of the two");
  }
  const found = await contextOf(context, { dockerfile, reads: steps === undefined });
  const made = await http.json<Template>(once("/v1/templates", bodyOf(ref, found, options), undefined, { signal }));
  if (!found.files.length) return made;
  try {
    const headers = { "Content-Type": "application/x-tar" };
    const call: Call = { method: "PUT", path: nounPath("templates", made.id, "context"), headers };
    await http.json({ ...call, content: found.tar(), signal });
  } catch (error) {
    await cancelBuild(http, made.id);
    throw error;
  }
  return made;
}

/** Give the log to `log` as it comes, until the build has ended; else as far as it has come. */
export async function followBuild(
  http: Http,
  ref: string,
  log: (part: string) => void,
  { toTheEnd = true, signal }: CallOptions & { toTheEnd?: boolean } = {},
): Promise<void> {
  const decoder = new TextDecoder();
  for await (const data of logged(http, ref, toTheEnd, signal)) log(decoder.decode(data, { stream: true }));
}

/** The log, over as many connections as it takes. An error of its reader is none of a connection. */
async function* logged(
  http: Http,
  ref: string,
  toTheEnd: boolean,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array, void> {
  const patience = new Patience(http.config.retryS);
  for (let at = 0; ; ) {
    try {
      const call = get(nounPath("templates", ref, "log"), { since: at, follow: toTheEnd });
      const answer = await http.open({ ...call, signal });
      try {
        patience.opened();
        for await (const data of answer.chunks()) {
          at += data.length;
          patience.renew();
          yield data;
          signal?.throwIfAborted();
        }
      } finally {
        answer.close();
      }
      // Bay may have ended the answer, and not the build.
      if (!toTheEnd || !(await isBuilding(http, ref, signal))) return;
    } catch (error) {
      await sleep(patience.pause(error), signal);
    }
  }
}

/** End a build whose caller leaves, and delete its template. */
export async function cancelBuild(http: Http, templateId: string): Promise<void> {
  const path = nounPath("templates", templateId);
  await cleanUp((signal) => http.json({ method: "DELETE", path, signal }));
}

async function isBuilding(http: Http, ref: string, signal: AbortSignal | undefined): Promise<boolean> {
  return (await http.json<Template>({ ...get(nounPath("templates", ref)), signal })).state === "building";
}

/** Throws InvalidArgument for what cannot call a template, before there is work that would be lost. */
function checkRef(ref: string): void {
  if (REF.test(ref)) return;
  const way = "write NAME or NAME:TAG, the name of a-z, 0-9 and inner hyphens";
  throw new InvalidArgument(`${JSON.stringify(ref.slice(0, 100))} cannot call a template; ${way}`);
}

function bodyOf(ref: string, context: BuildContext, options: BuildOptions): Json {
  const { signal: _, log: __, dockerfile: ___, stepTimeoutS, secrets, ...rest } = options;
  const [name, tag] = ref.split(":");
  return wire({
    ...rest,
    name,
    tag,
    dockerfile: context.dockerfile,
    secrets: secrets?.map((secret) => (typeof secret === "string" ? { name: secret } : secret)),
    stepTimeout: stepTimeoutS,
    context: context.files.length > 0,
  });
}
