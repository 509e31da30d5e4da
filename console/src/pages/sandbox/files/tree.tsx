/** The folders as a tree of WAI-ARIA: arrows move and open, Home and End jump, letters find. Each is read when opened. */

import { useQuery } from "@tanstack/react-query";
import type { Sandbox } from "bay-sandbox";
import { ChevronRight, Folder, FolderOpen, LoaderCircle } from "lucide-react";
import { type KeyboardEvent, type ReactNode, useState } from "react";
import { useWords } from "@/lib/words";
import { cx } from "@/ui/class_names";
import { Name } from "./name";
import { HOME, isUnreachable, isWithin, nameOf, plain, wayTo } from "./paths";
import { folderQuery } from "./sandbox_files";
import { neighbour, typed } from "./tree_keys";
import { filesWords } from "./words";

const INDENT_PX = 14;

interface Shared {
  box: Sandbox;
  isAwake: boolean;
  folder: string;
  opened: ReadonlySet<string>;
  onOpen(path: string): void;
  toggle(path: string, open: boolean): void;
}

export function Tree({
  box,
  isAwake,
  folder,
  onOpen,
}: Pick<Shared, "box" | "isAwake" | "folder" | "onOpen">): ReactNode {
  const say = useWords(filesWords);
  const [opened, setOpened] = useState<ReadonlySet<string>>(
    () => new Set([HOME, ...wayTo(folder).slice(1, -1)]),
  );
  const [seen, setSeen] = useState(folder);
  if (seen !== folder) {
    setSeen(folder);
    setOpened(new Set([...opened, ...wayTo(folder).slice(1, -1)]));
  }
  const toggle = (path: string, open: boolean): void => {
    const next = new Set(opened);
    if (open) next.add(path);
    else next.delete(path);
    setOpened(next);
  };
  const shared: Shared = { box, isAwake, folder, opened, onOpen, toggle };
  // The workspace first; the whole machine below it.
  const roots = [HOME, "/"];
  return (
    // biome-ignore lint/a11y/noNoninteractiveElementToInteractiveRole: WAI-ARIA's tree is a list of lists
    <ul role="tree" aria-label={say("tree")} className="text-sm" onKeyDown={(event) => onKey(event, shared)}>
      {roots.map((path) => (
        <Node key={path} path={path} level={1} shared={shared} isRoot />
      ))}
    </ul>
  );
}

function onKey(event: KeyboardEvent<HTMLElement>, { opened, onOpen, toggle }: Shared): void {
  const item = event.target instanceof Element ? event.target.closest<HTMLElement>("[role=treeitem]") : null;
  if (item === null || event.ctrlKey || event.metaKey || event.altKey) return;
  const path = item.dataset["path"] ?? "/";
  const items = [...event.currentTarget.querySelectorAll<HTMLElement>("[role=treeitem]")];
  const { key } = event;
  let next: HTMLElement | null = null;
  if (key === "Enter" || key === " ") onOpen(path);
  else if (key === "ArrowRight" && !opened.has(path)) toggle(path, true);
  else if (key === "ArrowLeft" && opened.has(path)) toggle(path, false);
  else if (key === "ArrowLeft") next = item.parentElement?.closest<HTMLElement>("[role=treeitem]") ?? null;
  else next = neighbour(items, item, key) ?? typed(items, item, key, (one) => one.dataset["name"] ?? "");
  const isOurs = next !== null || ["Enter", " ", "ArrowRight", "ArrowLeft"].includes(key);
  if (!isOurs) return;
  event.preventDefault();
  next?.focus();
}

function Node({
  path,
  level,
  shared,
  isRoot = false,
}: {
  path: string;
  level: number;
  shared: Shared;
  isRoot?: boolean;
}): ReactNode {
  const { box, isAwake, folder, opened, onOpen, toggle } = shared;
  const isOpen = opened.has(path);
  const isChosen = path === folder;
  const { data, isFetching, error } = useQuery(folderQuery(box.id, path, isAwake && isOpen));
  const isNameless = isUnreachable(path);
  const folders =
    isOpen && data
      ? data.entries.filter((entry) => entry.type === "directory" && !(path === "/" && entry.path === HOME))
      : [];
  const name = isRoot ? path : nameOf(path);
  // One item of the tree is reached by Tab: the chosen one, else its nearest that is shown.
  const isStop = isChosen || (isWithin(folder, path) && !isOpen && (path !== "/" || !isWithin(folder, HOME)));
  return (
    <li
      role="treeitem"
      aria-level={level}
      aria-expanded={isOpen}
      aria-selected={isChosen}
      aria-label={plain(name)}
      tabIndex={isStop || (isRoot && path === HOME && !isWithin(folder, HOME)) ? 0 : -1}
      data-path={path}
      data-name={name}
      className="outline-none [&:focus-visible>div]:outline-2 [&:focus-visible>div]:outline-accent"
    >
      <div
        className={cx(
          "flex min-h-8 items-center gap-1 rounded-lg pr-2",
          isChosen ? "bg-accent-soft font-medium text-accent" : "hover:bg-raised",
        )}
        style={{ paddingLeft: (level - 1) * INDENT_PX }}
      >
        <button
          type="button"
          tabIndex={-1}
          aria-hidden
          className="flex size-7 shrink-0 items-center justify-center text-muted"
          onClick={() => toggle(path, !isOpen)}
        >
          {isOpen && isFetching && data === undefined ? (
            <LoaderCircle className="size-3.5 animate-spin" />
          ) : (
            <ChevronRight className={cx("size-4 transition-transform", isOpen && "rotate-90")} />
          )}
        </button>
        <button
          type="button"
          tabIndex={-1}
          disabled={isNameless}
          className="flex min-w-0 flex-1 items-center gap-1.5 self-stretch text-left disabled:opacity-60"
          onClick={() => onOpen(path)}
          title={plain(path)}
        >
          {isOpen ? (
            <FolderOpen aria-hidden className="size-4 shrink-0" />
          ) : (
            <Folder aria-hidden className="size-4 shrink-0" />
          )}
          <span className="truncate">
            <Name text={name} />
          </span>
        </button>
      </div>
      {error && isOpen && data === undefined ? (
        <p className="py-1 pl-8 text-xs break-words text-bad">{error.message}</p>
      ) : null}
      {folders.length ? (
        // biome-ignore lint/a11y/useSemanticElements: WAI-ARIA's tree has groups of items
        <ul role="group">
          {folders.map((entry) => (
            <Node key={entry.path} path={entry.path} level={level + 1} shared={shared} />
          ))}
        </ul>
      ) : null}
    </li>
  );
}
