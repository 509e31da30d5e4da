/** The files and folders that were dropped or chosen, with their paths below the folder they go to. */

export interface Dropped {
  files: { path: string; file: File }[];
  /** Folders without a file in them. */
  folders: string[];
}

/** Of a drop. Call it within the event: the browser forgets what was dropped right after it. */
export async function ofDrop(data: DataTransfer): Promise<Dropped> {
  const entries = [...data.items].flatMap((item) => item.webkitGetAsEntry?.() ?? []);
  const found: Dropped = { files: [], folders: [] };
  for (const entry of entries) await walk(entry, entry.name, found);
  return found;
}

/** Of a field for files, or for a folder. */
export function ofField(files: Iterable<File>): Dropped {
  return {
    files: [...files].map((file) => ({ path: file.webkitRelativePath || file.name, file })),
    folders: [],
  };
}

async function walk(entry: FileSystemEntry, path: string, found: Dropped): Promise<void> {
  if (entry.isFile) {
    found.files.push({ path, file: await fileOf(entry as FileSystemFileEntry) });
    return;
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  let isEmpty = true;
  for (;;) {
    // It gives a hundred at a time, and none at the end.
    const part = await new Promise<FileSystemEntry[]>((resolve, reject) => {
      reader.readEntries(resolve, reject);
    });
    if (part.length === 0) break;
    isEmpty = false;
    for (const one of part) await walk(one, `${path}/${one.name}`, found);
  }
  if (isEmpty) found.folders.push(path);
}

function fileOf(entry: FileSystemFileEntry): Promise<File> {
  return new Promise((resolve, reject) => {
    entry.file(resolve, reject);
  });
}
