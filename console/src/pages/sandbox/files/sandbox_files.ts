/** The files of one sandbox, as the browser of files asks for them. */

import { queryOptions } from "@tanstack/react-query";
import type { Box, FileInfo } from "bay-sandbox";
import { bay, stream } from "@/bay";
import { keys } from "@/live";
import { EDITED_BYTES, imageType, kindOf, PICTURE_BYTES, SHOWN_BYTES, type Text, textOf } from "./kinds";

/** More entries of one folder than this are no help to anyone who looks. */
export const MOST_ENTRIES = 20_000;

const boxes = new Map<string, Promise<Box>>();
const watched = new Map<string, Promise<Box>>();

function once(kept: Map<string, Promise<Box>>, id: string, get: () => Promise<Box>): Promise<Box> {
  let found = kept.get(id);
  if (found === undefined) {
    found = get();
    kept.set(id, found);
    found.catch(() => kept.delete(id));
  }
  return found;
}

export async function filesOf(id: string): Promise<Box["files"]> {
  return (await once(boxes, id, () => bay.sandboxes.get(id))).files;
}

/** For a watch that never comes back by itself: that would wake a sandbox which was stopped meanwhile. */
export async function watchedFilesOf(id: string): Promise<Box["files"]> {
  return (await once(watched, id, () => stream.sandboxes.get(id))).files;
}

export interface Listing {
  entries: FileInfo[];
  isCut: boolean;
}

export const fileKeys = {
  all: (id: string) => keys.of(id, "files"),
  folder: (id: string, path: string) => keys.of(id, "files", "folder", path),
  content: (id: string, path: string) => keys.of(id, "files", "content", path),
  info: (id: string, path: string) => keys.of(id, "files", "info", path),
};

/** What a folder has, by name. Asking wakes the sandbox. */
export function folderQuery(id: string, path: string, isAwake: boolean) {
  return queryOptions({
    queryKey: fileKeys.folder(id, path),
    enabled: isAwake,
    queryFn: async ({ signal }): Promise<Listing> => {
      const files = await filesOf(id);
      const entries = await files.list(path, { limit: MOST_ENTRIES + 1, signal });
      return { entries: entries.slice(0, MOST_ENTRIES), isCut: entries.length > MOST_ENTRIES };
    },
  });
}

/** The file that a path leads to, through links. */
export function infoQuery(id: string, path: string, isAwake: boolean) {
  return queryOptions({
    queryKey: fileKeys.info(id, path),
    enabled: isAwake,
    queryFn: async ({ signal }): Promise<FileInfo> => (await filesOf(id)).stat(path, { signal }),
  });
}

export type Content =
  | { kind: "text"; info: FileInfo; text: Text; isPart: boolean; readAt: number }
  | { kind: "image"; info: FileInfo; blob: Blob }
  | { kind: "binary"; info: FileInfo; isLarge: boolean }
  | { kind: "folder"; info: FileInfo }
  | { kind: "special"; info: FileInfo };

/** What is in a file, with what was known of it before it was read. */
export function contentQuery(id: string, path: string, isAwake: boolean) {
  return queryOptions({
    queryKey: fileKeys.content(id, path),
    enabled: isAwake,
    // It may be long, and is read again when it is opened again.
    gcTime: 60_000,
    queryFn: ({ signal }) => read(id, path, signal),
  });
}

let reads = 0;

async function read(id: string, path: string, signal: AbortSignal): Promise<Content> {
  const files = await filesOf(id);
  // Looked at first: a change during the read is then noticed as one.
  const info = await files.stat(path, { signal });
  if (info.type === "directory") return { kind: "folder", info };
  if (info.type !== "file") return { kind: "special", info };
  const size = info.size ?? 0;
  if (kindOf(path) === "image") {
    if (size > PICTURE_BYTES) return { kind: "binary", info, isLarge: true };
    const bytes = await files.read(path, { signal });
    return { kind: "image", info, blob: new Blob([bytes as BlobPart], { type: imageType(path) }) };
  }
  const isPart = size > EDITED_BYTES;
  const bytes = await files.read(path, isPart ? { length: SHOWN_BYTES, signal } : { signal });
  const text = textOf(bytes, isPart);
  return text === null
    ? { kind: "binary", info, isLarge: false }
    : { kind: "text", info, text, isPart, readAt: ++reads };
}

/** Whether two looks at a file saw the same of it. */
export function isSame(one: FileInfo, other: FileInfo): boolean {
  return one.mtime === other.mtime && one.size === other.size && one.type === other.type;
}

/** Write a file; gives what it is then. */
export async function write(id: string, path: string, text: string): Promise<FileInfo> {
  return bay.request<FileInfo>({
    method: "PUT",
    path: `/v1/sandboxes/${id}/files/content`,
    query: { path },
    content: text,
    headers: { "Content-Type": "application/octet-stream" },
  });
}
