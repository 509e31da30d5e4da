/** Brings files and folders to the user's disk: as a stream where the browser has one, else by way of a blob. */

import { plain } from "./paths";
import { filesOf } from "./sandbox_files";
import { transfers } from "./transfers";

interface SavePicker {
  showSaveFilePicker(options: { suggestedName: string }): Promise<FileSystemFileHandle>;
}

function hasPicker(place: Window): place is Window & SavePicker {
  return "showSaveFilePicker" in place;
}

const UNSAFE = /[\\/:*?"<>|]/g;

/** A name that the user's system takes. */
export function safeName(name: string): string {
  return plain(name).replace(UNSAFE, "_").replace(/^\.+/, "_").slice(0, 150) || "file";
}

/** Download a file, or a folder as a tar. Nothing happens when the user chooses no place. */
export async function download(
  sandbox: string,
  path: string,
  name: string,
  size: number | null,
): Promise<void> {
  const isFolder = size === null;
  const suggestedName = isFolder ? `${safeName(name)}.tar.gz` : safeName(name);
  let handle: FileSystemFileHandle | null = null;
  if (hasPicker(window)) {
    try {
      handle = await window.showSaveFilePicker({ suggestedName });
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") return;
      // Some browsers have the function and refuse it, as in a private window: then by way of a blob.
    }
  }
  transfers.add({ sandbox, direction: "down", path, total: size }, async (say, signal) => {
    const files = await filesOf(sandbox);
    const pieces = isFolder ? files.archive(path, { gzip: true, signal }) : files.stream(path, { signal });
    if (handle !== null) await toDisk(pieces, await handle.createWritable(), say);
    else give(await toBlob(pieces, say), suggestedName);
  });
}

async function toDisk(
  pieces: AsyncIterable<Uint8Array>,
  file: FileSystemWritableFileStream,
  say: (done: number) => void,
): Promise<void> {
  let done = 0;
  try {
    for await (const piece of pieces) {
      await file.write(piece as FileSystemWriteChunkType);
      done += piece.length;
      say(done);
    }
    await file.close();
  } catch (error) {
    await file.abort().catch(() => undefined); // the file that was there stays
    throw error;
  }
}

/** A blob in parts: the browser keeps long ones on its disk. */
async function toBlob(pieces: AsyncIterable<Uint8Array>, say: (done: number) => void): Promise<Blob> {
  const parts: Blob[] = [];
  let waiting: BlobPart[] = [];
  let done = 0;
  let kept = 0;
  for await (const piece of pieces) {
    waiting.push(piece as BlobPart);
    done += piece.length;
    say(done);
    if (done - kept < 16 * 1024 * 1024) continue;
    parts.push(new Blob(waiting));
    waiting = [];
    kept = done;
  }
  return new Blob([...parts, ...waiting], { type: "application/octet-stream" });
}

function give(blob: Blob, name: string): void {
  const address = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
