/** The context of a build: the local files that its steps may copy. This part of the SDK needs `node:fs`. */

import { BayError, InvalidArgument } from "./errors.js";
import { Ignored } from "./ignored.js";
import { headerOf, padding, TAR_END, type Member } from "./tar.js";

const MAX_ENTRIES = 100_000;

interface Stats {
  isFile(): boolean;
  isDirectory(): boolean;
  isSymbolicLink(): boolean;
  mode: number;
  mtimeMs: number;
  size: number;
}

interface FileSystem {
  createReadStream(path: string, options: { end: number }): AsyncIterable<Uint8Array>;
  promises: {
    readFile(path: string): Promise<Uint8Array>;
    readdir(path: string): Promise<string[]>;
    readlink(path: string): Promise<string>;
    lstat(path: string): Promise<Stats>;
    stat(path: string): Promise<Stats>;
  };
}

/** The text of a Dockerfile, where there is one, and the files that are sent. */
export interface BuildContext {
  dockerfile: string | undefined;
  files: Member[];
  /** A tar of the files. */
  tar(): AsyncGenerator<Uint8Array, void>;
}

/** The context in a local directory. Throws InvalidArgument for one, or a Dockerfile, that is not there or not text. */
export async function contextOf(
  root: string,
  { dockerfile, reads }: { dockerfile: string | undefined; reads: boolean },
): Promise<BuildContext> {
  const fs = await fileSystem();
  const place = dockerfile ?? `${root}/Dockerfile`;
  const text = reads ? await textOf(fs, place) : undefined;
  if (reads && text === undefined) throw new InvalidArgument(`there is no file ${place}; name one with dockerfile`);
  const own = reads ? await textOf(fs, `${place}.dockerignore`) : undefined;
  const ignored = new Ignored(own ?? (await textOf(fs, `${root}/.dockerignore`)));
  const files = await scanned(fs, root, ignored);
  return { dockerfile: text, files, tar: () => packed(fs, root, files) };
}

async function fileSystem(): Promise<FileSystem> {
  const name = "node:fs"; // by a name, so that no bundler for browsers looks for it
  try {
    return (await import(name)) as FileSystem;
  } catch (cause) {
    throw new BayError("this platform has no node:fs, which a build reads its files by", { cause });
  }
}

/** The text of a file; undefined for one that is not there. Throws InvalidArgument for one that is not UTF-8. */
async function textOf(fs: FileSystem, path: string): Promise<string | undefined> {
  const data = await unlessMissing(fs.promises.readFile(path));
  if (data === undefined) return undefined;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
  } catch (cause) {
    throw new InvalidArgument(`${path} is no UTF-8 text`, { cause });
  }
}

/** What `looking` at a path gives; undefined when there is nothing, or a file where its directory should be. */
async function unlessMissing<T>(looking: Promise<T>): Promise<T | undefined> {
  try {
    return await looking;
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as { code?: string }).code ?? "")) return undefined;
    throw error;
  }
}

/** What is below a directory and not left out, each directory before what is in it. */
async function scanned(fs: FileSystem, root: string, ignored: Ignored): Promise<Member[]> {
  if (!(await unlessMissing(fs.promises.stat(root)))?.isDirectory()) {
    throw new InvalidArgument(`${root} is no directory; name the one with the files to copy`);
  }
  const found: Member[] = [];
  const look = async (above: string): Promise<void> => {
    for (const name of (await fs.promises.readdir(above ? `${root}/${above}` : root)).sort()) {
      const path = above ? `${above}/${name}` : name;
      const member = await memberOf(fs, root, path);
      if (member === null) continue;
      const isLeftOut = ignored.covers(path);
      if (!isLeftOut) found.push(member);
      if (found.length > MAX_ENTRIES) {
        throw new InvalidArgument(`${root} has more than ${MAX_ENTRIES} files; leave some out by .dockerignore`);
      }
      if (member.kind === "directory" && (!isLeftOut || ignored.bringsBack)) await look(path);
    }
  };
  await look("");
  return found;
}

/** A file, directory or link; null for anything else. */
async function memberOf(fs: FileSystem, root: string, name: string): Promise<Member | null> {
  const facts = await fs.promises.lstat(`${root}/${name}`);
  const common = { name, mode: facts.mode & 0o777, mtime: Math.floor(facts.mtimeMs / 1000) };
  if (facts.isDirectory()) return { ...common, kind: "directory" };
  if (facts.isFile()) return { ...common, kind: "file", size: facts.size };
  if (!facts.isSymbolicLink()) return null;
  return { ...common, kind: "link", target: await fs.promises.readlink(`${root}/${name}`) };
}

async function* packed(fs: FileSystem, root: string, files: readonly Member[]): AsyncGenerator<Uint8Array, void> {
  for (const member of files) {
    yield headerOf(member);
    if (member.size) yield* contentOf(fs, `${root}/${member.name}`, member.size);
  }
  yield TAR_END;
}

/** The first `size` bytes of a file, filled up to whole blocks. Throws when it has fewer by now. */
async function* contentOf(fs: FileSystem, path: string, size: number): AsyncGenerator<Uint8Array, void> {
  let left = size;
  for await (const piece of fs.createReadStream(path, { end: size - 1 })) {
    left -= piece.length;
    yield piece;
  }
  if (left) throw new BayError(`${path} shrank during the upload; send it again`);
  yield padding(size);
}
