/** Sends what was dropped or chosen into a folder, and finds what it would replace. */

import type { Dropped } from "./dropped";
import { join } from "./paths";
import { filesOf } from "./sandbox_files";
import { transfers, upload } from "./transfers";

const MOST_LOOKED_AT = 50_000;

/** The paths of those files that are there already. */
export async function conflictsOf(sandbox: string, folder: string, dropped: Dropped): Promise<Set<string>> {
  const files = await filesOf(sandbox);
  const wanted = new Set(dropped.files.map((one) => join(folder, one.path)));
  const here = new Map((await files.list(folder, { limit: MOST_LOOKED_AT })).map((one) => [one.path, one]));
  const found = new Set<string>();
  const tops = new Set(dropped.files.map((one) => join(folder, one.path.split("/")[0] ?? "")));
  for (const top of tops) {
    const entry = here.get(top);
    if (entry === undefined) continue;
    if (wanted.has(top)) found.add(top);
    if (entry.type !== "directory") continue;
    for await (const below of files.walk(top, { limit: MOST_LOOKED_AT })) {
      if (wanted.has(below.path)) found.add(below.path);
    }
  }
  return found;
}

/** Begin to send them, without those in `left`. */
export async function send(
  sandbox: string,
  folder: string,
  dropped: Dropped,
  left: Set<string>,
): Promise<void> {
  for (const { path, file } of dropped.files) {
    const target = join(folder, path);
    if (left.has(target)) continue;
    const work = upload(sandbox, target, file);
    transfers.add({ sandbox, direction: "up", path: target, total: file.size }, work);
  }
  const files = await filesOf(sandbox);
  for (const path of dropped.folders) await files.mkdir(join(folder, path));
}
