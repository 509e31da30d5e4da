/** The images of an owner: root file systems that sandboxes start from. */

import type { Source } from "./bytes.js";
import { COPY_S, get, nounPath, once, SLICE_S, type Call, type CallOptions } from "./call.js";
import { BayError, errorFromWire } from "./errors.js";
import { Noun } from "./http.js";
import { filters } from "./names.js";
import { saved } from "./saved.js";
import type { ContainerImage } from "./types.js";

/** The two blocks of zeros at the end of a tar. */
const TAR_END_BYTES = 1024;
/** How often `progress` hears of a pull. */
const LOOK_S = 1;

export interface PullOptions extends CallOptions {
  /** With `missing` one that is here already will do, and `never` wants such a one; `always` unless given. */
  pull?: "missing" | "always" | "never";
  /** Let every owner use it; needs an admin key. */
  shared?: boolean;
  /** Is called with the image about once a second. */
  progress?: (image: ContainerImage) => void;
  idempotencyKey?: string;
}

/** The images of the key's owner, and those that are shared with all owners. */
export class Images extends Noun {
  /**
   * Fetch the image that `ref` names in its registry now; returns when it is ready. Throws ImageNotFound, ImageDenied,
   * RegistryUnavailable and others when it fails.
   */
  async pull(
    ref: string,
    { pull = "always", shared = false, progress, idempotencyKey, signal }: PullOptions = {},
  ): Promise<ContainerImage> {
    const call = once("/v1/images", { ref, pull, shared }, idempotencyKey, { signal });
    return this.wait((await this.http.json<ContainerImage>(call)).id, { progress, signal });
  }

  /**
   * Make an image, named `ref`, of an archive: of `docker save`, or of an OCI layout in a tar. Returns when it is
   * ready. Throws ImageInvalid and others.
   */
  async importArchive(
    source: Source,
    ref: string,
    { shared = false, signal }: CallOptions & { shared?: boolean } = {},
  ): Promise<ContainerImage> {
    const headers = { "Content-Type": "application/x-tar" };
    const call: Call = { method: "POST", path: "/v1/images/import", query: { ref, shared }, headers, waitS: COPY_S };
    const made = await this.http.json<ContainerImage>({ ...call, content: source, signal });
    return this.wait(made.id, { signal });
  }

  /**
   * Export an image into a stream, which is closed at its end, as a tar of an OCI layout; gives its bytes.
   *
   * `importArchive` takes it, as `skopeo` and `podman load` do. Throws Conflict for an image that is not ready, and
   * BayError for an answer that is not whole.
   */
  async export(ref: string, target: WritableStream<Uint8Array>, { signal }: CallOptions = {}): Promise<number> {
    const answer = await this.http.opened({ ...get(nounPath("images", ref, "export")), signal });
    try {
      return await saved(whole(answer.chunks()), target);
    } finally {
      answer.close();
    }
  }

  /** The image once its pull has ended. Throws the error that it failed with. */
  async wait(ref: string, { progress, signal }: Pick<PullOptions, "progress" | "signal"> = {}): Promise<ContainerImage> {
    const wait = progress ? LOOK_S : SLICE_S;
    for (;;) {
      const image = await this.http.json<ContainerImage>({ ...get(nounPath("images", ref), { wait }, wait), signal });
      progress?.(image);
      if (image.state === "failed" && image.error) throw errorFromWire(0, { error: image.error });
      if (image.state !== "pulling") return image;
    }
  }

  /** The image of that id or reference; of several the newest. Throws ImageNotFound. */
  async get(ref: string, { signal }: CallOptions = {}): Promise<ContainerImage> {
    return this.http.json<ContainerImage>({ ...get(nounPath("images", ref)), signal });
  }

  /** Remove an image, or cancel its pull. Throws Conflict while a sandbox or checkpoint needs it. */
  async delete(ref: string, { signal }: CallOptions = {}): Promise<void> {
    await this.http.json({ method: "DELETE", path: nounPath("images", ref), signal });
  }

  /** Remove your images that nothing uses, and nothing has started from for so many seconds; gives them. */
  async prune({ unusedFor = 0, signal }: CallOptions & { unusedFor?: number } = {}): Promise<ContainerImage[]> {
    const body = { unused_for: unusedFor };
    return this.http.all<ContainerImage>({ method: "POST", path: "/v1/images/prune", body, safe: true, signal });
  }

  /** Every image that you may use, oldest first; `limit` is the size of a page. */
  list({ signal, ...options }: CallOptions & { limit?: number } = {}): AsyncGenerator<ContainerImage, void> {
    return this.http.paged<ContainerImage>("/v1/images", filters(options), signal);
  }
}

/** The pieces of a tar. Throws BayError behind the last one when the end of the tar is missing. */
async function* whole(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void> {
  let zeros = 0;
  for await (const piece of pieces) {
    let at = piece.length;
    while (at > 0 && piece[at - 1] === 0) at -= 1;
    zeros = at ? piece.length - at : zeros + piece.length;
    yield piece;
  }
  if (zeros < TAR_END_BYTES) throw new BayError("the server's image is truncated; export it again");
}
