/** The files of a sandbox. A path is absolute, or relative to /workspace. */

import { joined, type Source } from "./bytes.js";
import { COPY_S, get, type Call, type CallOptions } from "./call.js";
import { Fetch } from "./content.js";
import { BayError, FileMissing, InvalidArgument, PayloadTooLarge } from "./errors.js";
import { SandboxNoun, type Http } from "./http.js";
import { lineObject, Lines } from "./lines.js";
import { sleep } from "./retries.js";
import { saved } from "./saved.js";
import type { FileInfo, SearchResult } from "./types.js";
import { Watch } from "./watch.js";

const LISTED_DEPTH = 64;
const LISTED_ENTRIES = 200_000;
/** How much longer than other calls a search may take; Bay gives it half of that. */
const SEARCH_S = 60;
const BYTES = { "Content-Type": "application/octet-stream" };

export interface ReadOptions extends CallOptions {
  offset?: number;
  length?: number;
}

export interface WriteOptions extends CallOptions {
  /** Permissions, `0o644` or `"0644"`; a file that was there keeps its own. */
  mode?: number | string;
}

export interface ListFilesOptions extends CallOptions {
  /** 1 unless given, 64 at most. */
  depth?: number;
  /** `*`, `?`, `[…]` and `**`, matched against the path relative to the directory. */
  glob?: string;
  /** Give the first so many. */
  limit?: number;
}

export interface SearchOptions extends CallOptions {
  path?: string;
  glob?: string;
  /** An expression of Python's `re`. */
  regex?: boolean;
  ignoreCase?: boolean;
  hidden?: boolean;
  gitignore?: boolean;
  limit?: number;
}

export interface ArchiveOptions extends CallOptions {
  gzip?: boolean;
}

/** The options of what puts something at another path. */
export interface MoveOptions extends CallOptions {
  overwrite?: boolean;
}

/**
 * The files of one sandbox: whatever its user may touch.
 *
 * Throws FileMissing for what is not there, Forbidden for what its user may not do, StorageFull when there is no
 * room; a write that fails leaves the file that was there.
 */
export class Files extends SandboxNoun {
  constructor(http: Http, sandboxId: string) {
    super(http, sandboxId, ["files"]);
  }

  /** A file's bytes in memory, or `length` from `offset`, fewer at its end. Large ones: `stream`. */
  async read(path: string, options: ReadOptions = {}): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    for await (const part of this.stream(path, options)) parts.push(part);
    return joined(parts);
  }

  /** A file as text, in UTF-8 unless an encoding is named; undecodable bytes are replaced. */
  async readText(
    path: string,
    { encoding = "utf-8", signal }: CallOptions & { encoding?: string } = {},
  ): Promise<string> {
    return new TextDecoder(encoding).decode(await this.read(path, { signal }));
  }

  /** A file piece by piece, in constant memory. A broken connection is taken up where it broke. */
  async *stream(path: string, { offset, length, signal }: ReadOptions = {}): AsyncGenerator<Uint8Array, void> {
    if ((offset ?? 0) < 0 || (length ?? 0) < 0) {
      throw new InvalidArgument("offset and length are numbers of bytes and may not be negative");
    }
    const call = { ...get(this.path("content"), { path }), signal };
    const fetching = new Fetch(call, path, this.http.config.retryS, offset, length);
    while (!fetching.ended) yield* this.part(fetching, signal);
  }

  /** Bring a file into a stream, which is closed at its end; gives its size in bytes. */
  async download(remote: string, target: WritableStream<Uint8Array>, options: ReadOptions = {}): Promise<number> {
    return saved(this.stream(remote, options), target);
  }

  /** Write a file whole (text as UTF-8), with its parent directories, in one step; gives its size in bytes. */
  async write(path: string, data: string | Uint8Array, options: WriteOptions = {}): Promise<number> {
    return this.upload(data, path, options);
  }

  /** Write a file from a blob, a stream or an iterable, in constant memory; gives its size in bytes. See `Source`. */
  async upload(source: Source, remote: string, { mode, signal }: WriteOptions = {}): Promise<number> {
    const query = { path: remote, mode: octal(mode) };
    const call: Call = { method: "PUT", path: this.path("content"), query, content: source, headers: BYTES, safe: true };
    return (await this.http.json<FileInfo>({ ...call, signal })).size ?? 0;
  }

  /** Put `replacement` in place of `old` in a text file; gives how many times. */
  async edit(
    path: string,
    old: string,
    replacement: string,
    { all = false, signal }: CallOptions & { all?: boolean } = {},
  ): Promise<number> {
    const body = { path, old, new: replacement, all };
    return (await this.post<{ replaced: number }>("edit", body, signal)).replaced;
  }

  /** The file at a path; of a symbolic link its target, unless `follow` is false. */
  async stat(path: string, { follow = true, signal }: CallOptions & { follow?: boolean } = {}): Promise<FileInfo> {
    return this.http.json<FileInfo>({ ...get(this.path("stat"), { path, follow }), signal });
  }

  /** Whether there is something at a path. A link that leads nowhere is nothing. */
  async exists(path: string, options: CallOptions = {}): Promise<boolean> {
    try {
      await this.stat(path, { signal: options.signal });
      return true;
    } catch (error) {
      if (error instanceof FileMissing) return false;
      throw error;
    }
  }

  /** The entries of a directory, by name, and those below it to `depth`, parents first. */
  async list(path = ".", { depth = 1, ...rest }: ListFilesOptions = {}): Promise<FileInfo[]> {
    const found: FileInfo[] = [];
    for await (const info of this.walk(path, { depth, ...rest })) found.push(info);
    return found;
  }

  /** As `list`, but everything below, one after the other as it comes, in constant memory. */
  async *walk(path = ".", options: ListFilesOptions = {}): AsyncGenerator<FileInfo, void> {
    const { depth = LISTED_DEPTH, glob, limit, signal } = options;
    const query = { path, depth, glob, limit: limit ?? LISTED_ENTRIES };
    let truncated: unknown = null;
    for await (const entry of this.lines({ ...get(this.path("list"), query), signal })) {
      if ("truncated" in entry && !("name" in entry)) truncated = entry["truncated"];
      else yield entry as unknown as FileInfo;
    }
    if (truncated === null) throw new BayError(`the listing of ${path} ended early; try again`);
    if (truncated === true && limit === undefined) throw tooMany(path, depth);
  }

  /** The paths below `path` that match: `*.py` in it, `**` + `/*.py` at any depth. */
  async glob(pattern: string, path = ".", { signal }: CallOptions = {}): Promise<FileInfo[]> {
    return this.list(path, { depth: LISTED_DEPTH, glob: pattern, signal });
  }

  /** Lines of text files that contain `query`; without a query, names that match `glob`. */
  async search(query: string | null, options: SearchOptions = {}): Promise<SearchResult> {
    const { path = ".", ignoreCase, signal, ...rest } = options;
    const asked = { path, query, ignore_case: ignoreCase, ...rest };
    return this.http.json<SearchResult>({ ...get(this.path("search"), asked, SEARCH_S), signal });
  }

  /** Watch a file, or a directory and all below it; iterate it for the events. Needs a WebSocket. The signal closes it. */
  async watch(
    path = ".",
    { recursive = true, signal }: CallOptions & { recursive?: boolean } = {},
  ): Promise<Watch> {
    const about = get(this.path("stat"), { path });
    const { sandboxId } = this;
    return Watch.open(this.http, { sandboxId, path: this.path("watch"), query: { path, recursive }, about, signal });
  }

  /** A directory with everything in it, or a file, as a tar that streams. Read once. */
  async *archive(path = ".", { gzip = false, signal }: ArchiveOptions = {}): AsyncGenerator<Uint8Array, void> {
    const answer = await this.http.opened({ ...get(this.path("archive"), { path, format: format(gzip) }), signal });
    try {
      yield* answer.chunks();
    } finally {
      answer.close();
    }
  }

  /** The same in memory. */
  async readArchive(path = ".", options: ArchiveOptions = {}): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    for await (const part of this.archive(path, options)) parts.push(part);
    return joined(parts);
  }

  /** Unpack a tar below a directory, which is made; gives the bytes of its files. Other files there stay. */
  async writeArchive(source: Source, path = ".", { gzip = false, signal }: ArchiveOptions = {}): Promise<number> {
    const query = { path, format: format(gzip) };
    const call: Call = { method: "PUT", path: this.path("archive"), query, content: source, safe: true };
    return (await this.http.json<{ bytes: number }>({ ...call, headers: BYTES, signal })).bytes;
  }

  /** Give it another path. Throws Conflict when something is there, unless `overwrite`. */
  async move(
    source: string,
    destination: string,
    { overwrite = false, signal }: MoveOptions = {},
  ): Promise<FileInfo> {
    return this.post<FileInfo>("move", { source, destination, overwrite }, signal);
  }

  /** Copy a file, or a directory with everything in it. Throws Conflict as `move` does. */
  async copy(
    source: string,
    destination: string,
    { overwrite = false, signal }: MoveOptions = {},
  ): Promise<FileInfo> {
    return this.post<FileInfo>("copy", { source, destination, overwrite }, signal);
  }

  /** Make a directory. One that is there already is no error. */
  async mkdir(
    path: string,
    { mode = 0o755, parents = true, signal }: WriteOptions & { parents?: boolean } = {},
  ): Promise<FileInfo> {
    return this.post<FileInfo>("mkdir", { path, mode: octal(mode), parents }, signal, true);
  }

  /** Change the permissions: `0o755`, or `"0755"`. */
  async chmod(
    path: string,
    mode: number | string,
    { recursive = false, signal }: CallOptions & { recursive?: boolean } = {},
  ): Promise<FileInfo> {
    return this.post<FileInfo>("chmod", { path, mode: octal(mode), recursive }, signal, true);
  }

  /**
   * Give it to a user, a group or both, by name or number, where the profile allows root (else Forbidden). With
   * `recursive` also what is in a directory.
   */
  async chown(
    path: string,
    user: string | number | null = null,
    group: string | number | null = null,
    { recursive = false, signal }: CallOptions & { recursive?: boolean } = {},
  ): Promise<FileInfo> {
    const whose = typeof user === "number" ? { uid: user } : { user: user ?? undefined };
    const of = typeof group === "number" ? { gid: group } : { group: group ?? undefined };
    return this.post<FileInfo>("chown", { path, recursive, ...whose, ...of }, signal, true);
  }

  /** Remove a file, or a directory with its content; Conflict if not empty and not `recursive`. */
  async delete(
    path: string,
    { recursive = true, signal }: CallOptions & { recursive?: boolean } = {},
  ): Promise<void> {
    await this.http.json({ method: "DELETE", path: this.path(), query: { path, recursive }, signal });
  }

  private async post<T>(
    what: string,
    body: Record<string, unknown>,
    signal: AbortSignal | undefined,
    safe = false,
  ): Promise<T> {
    return this.http.json<T>({ method: "POST", path: this.path(what), body, safe, waitS: COPY_S, signal });
  }

  /** The new bytes of one answer; returns when it has ended, or another should be asked for. */
  private async *part(fetching: Fetch, signal?: AbortSignal): AsyncGenerator<Uint8Array, void> {
    try {
      const answer = await this.http.open(fetching.call());
      try {
        fetching.begin(answer.response);
        for await (const data of answer.chunks()) {
          const piece = fetching.take(data);
          if (piece.length) yield piece;
        }
        fetching.finish();
      } finally {
        answer.close();
      }
    } catch (error) {
      await sleep(fetching.pause(error), signal);
    }
  }

  private async *lines(call: Call): AsyncGenerator<Record<string, unknown>, void> {
    const answer = await this.http.opened({ ...call, headers: { Accept: "application/x-ndjson" } });
    const lines = new Lines();
    try {
      for await (const data of answer.chunks()) {
        for (const line of lines.feed(data)) {
          yield lineObject(line);
          call.signal?.throwIfAborted();
        }
      }
    } finally {
      answer.close();
    }
  }
}

function octal(mode: number | string | undefined): string | undefined {
  return typeof mode === "number" ? mode.toString(8).padStart(4, "0") : mode;
}

function format(gzip: boolean): string {
  return gzip ? "tar.gz" : "tar";
}

function tooMany(path: string, depth: number): PayloadTooLarge {
  const fact = `has more than ${LISTED_ENTRIES} entries down to depth ${depth}`;
  return new PayloadTooLarge(`${path} ${fact}; list parts of it`);
}
