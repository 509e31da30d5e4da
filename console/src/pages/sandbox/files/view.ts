/** The folder and the file that are shown: they are in the address, so that a reload and the way back find them. */

import { useCallback } from "react";
import { useSearchParams } from "react-router";
import { absolute, HOME, parentOf } from "./paths";

export interface View {
  folder: string;
  file: string | null;
  /** The line of the file to begin at. */
  line: number | null;
  openFolder(path: string): void;
  openFile(path: string, line?: number | null): void;
  closeFile(): void;
}

export function useView(): View {
  const [query, setQuery] = useSearchParams();
  const asked = query.get("file");
  const file = asked === null ? null : absolute(asked);
  const folder = absolute(query.get("at") ?? (file === null ? HOME : parentOf(file)));
  const line = Number(query.get("line")) || null;
  const openFolder = useCallback((path: string) => setQuery(path === HOME ? {} : { at: path }), [setQuery]);
  const openFile = useCallback(
    (path: string, at: number | null = null) =>
      setQuery({ at: parentOf(path), file: path, ...(at === null ? {} : { line: String(at) }) }),
    [setQuery],
  );
  return { folder, file, line, openFolder, openFile, closeFile: () => openFolder(folder) };
}
