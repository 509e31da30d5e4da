import type { FileInfo } from "bay-sandbox";
import {
  Copy,
  Download,
  EllipsisVertical,
  File,
  FileCode,
  FileImage,
  FileQuestionMark,
  FileSpreadsheet,
  FileText,
  Folder,
  FolderInput,
  Link2,
  Pencil,
  Trash2,
} from "lucide-react";
import type { KeyboardEvent, ReactNode } from "react";
import { bytes } from "@/lib/format";
import { useWords } from "@/lib/words";
import { IconButton } from "@/ui/button";
import { cx } from "@/ui/class_names";
import { Menu } from "@/ui/menu";
import { Moment } from "@/ui/moment";
import { hasDraft } from "./drafts";
import { extensionOf, kindOf } from "./kinds";
import { Name } from "./name";
import { modeSigns } from "./order";
import { isUnreachable, plain } from "./paths";
import { neighbour } from "./tree_keys";
import { filesWords } from "./words";

export const GRID =
  "grid grid-cols-[1.25rem_minmax(0,1fr)_5rem_2.25rem] items-center gap-2 px-3 sm:grid-cols-[1.25rem_minmax(0,1fr)_5.5rem_8rem_2.25rem] md:grid-cols-[1.25rem_minmax(0,1fr)_6rem_6.5rem_8rem_2.25rem] md:gap-3 md:px-4";

interface Given {
  entry: FileInfo;
  at: number;
  top: number;
  height: number;
  sandbox: string;
  /** null: the key may only read. */
  isChosen: boolean | null;
  isLeaving: boolean;
  onChoose(): void;
  onOpen(): void;
  onDownload(): void;
  onRename: (() => void) | null;
  onMove: (() => void) | null;
  onDelete: (() => void) | null;
}

/** One entry of a folder. */
export function Entry({
  entry,
  at,
  top,
  height,
  sandbox,
  isChosen,
  isLeaving,
  onChoose,
  onOpen,
  onDownload,
  onRename,
  onMove,
  onDelete,
}: Given): ReactNode {
  const say = useWords(filesWords);
  const name = plain(entry.name);
  const isNameless = isUnreachable(entry.path);
  const about = isNameless ? say("unreachable") : `${say(`type_${entry.type}`)} ${plain(entry.path)}`;
  return (
    <tr
      aria-rowindex={at + 2}
      style={{ height, transform: `translateY(${top}px)` }}
      className={cx(
        "absolute inset-x-0 top-0 border-b bg-panel hover:bg-raised",
        GRID,
        isChosen && "bg-accent-soft",
        isLeaving && "opacity-50",
      )}
    >
      <td className="flex">
        {isChosen === null ? null : (
          <input
            type="checkbox"
            aria-label={say("choose", { name })}
            className="size-4 accent-accent"
            checked={isChosen}
            disabled={isLeaving || isNameless}
            onChange={onChoose}
          />
        )}
      </td>
      <td className="min-w-0">
        <button
          type="button"
          data-entry
          title={about}
          disabled={isLeaving || isNameless}
          onClick={onOpen}
          onKeyDown={toNeighbour}
          className={cx(
            "flex w-full min-w-0 items-center gap-2 text-left hover:underline disabled:no-underline",
            isLeaving && "line-through",
          )}
        >
          <Icon entry={entry} />
          <span className="truncate">
            <Name text={entry.name} />
          </span>
          {hasDraft(sandbox, entry.path) ? (
            <span
              role="img"
              aria-label={say("unsaved")}
              title={say("unsaved")}
              className="size-2 shrink-0 rounded-full bg-warn"
            />
          ) : null}
          {entry.target ? (
            <span
              className="min-w-0 truncate text-xs text-muted"
              title={say("link", { target: plain(entry.target) })}
            >
              → <Name text={entry.target} />
            </span>
          ) : null}
        </button>
      </td>
      <td className="truncate text-right text-muted tabular-nums">
        {entry.size === null ? "" : bytes(entry.size)}
      </td>
      <td className="hidden font-mono text-xs text-muted md:block" title={entry.mode}>
        {modeSigns(entry.mode)}
      </td>
      <td className="hidden truncate text-muted sm:block">
        <Moment at={new Date(entry.mtime * 1000).toISOString()} />
      </td>
      <td>
        <Menu
          label={say("actsOf", { name })}
          trigger={
            <IconButton label={say("actsOf", { name })} disabled={isLeaving || isNameless}>
              <EllipsisVertical aria-hidden />
            </IconButton>
          }
          items={[
            {
              label: entry.type === "directory" ? say("downloadFolder") : say("download"),
              icon: <Download aria-hidden />,
              disabled: !["file", "directory", "symlink"].includes(entry.type),
              onSelect: onDownload,
            },
            {
              label: say("copyPath"),
              icon: <Copy aria-hidden />,
              onSelect: () => void navigator.clipboard?.writeText(entry.path),
            },
            onRename && { label: say("rename"), icon: <Pencil aria-hidden />, onSelect: onRename },
            onMove && { label: say("move"), icon: <FolderInput aria-hidden />, onSelect: onMove },
            onDelete && "line",
            onDelete && {
              label: say("delete"),
              icon: <Trash2 aria-hidden />,
              danger: true,
              onSelect: onDelete,
            },
          ]}
        />
      </td>
    </tr>
  );
}

function toNeighbour(event: KeyboardEvent<HTMLElement>): void {
  const items = [
    ...(event.currentTarget.closest("tbody")?.querySelectorAll<HTMLElement>("[data-entry]") ?? []),
  ];
  // Rows are in the order in which they were made.
  items.sort((one, other) => one.getBoundingClientRect().top - other.getBoundingClientRect().top);
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  const next = neighbour(items, event.currentTarget, event.key);
  if (next === null) return;
  event.preventDefault();
  next.focus();
}

function Icon({ entry }: { entry: FileInfo }): ReactNode {
  const look = "size-4.5 shrink-0";
  if (entry.type === "directory")
    return <Folder aria-hidden className={cx(look, "fill-accent-soft text-accent")} />;
  if (entry.type === "symlink") return <Link2 aria-hidden className={cx(look, "text-muted")} />;
  if (entry.type !== "file") return <FileQuestionMark aria-hidden className={cx(look, "text-warn")} />;
  switch (kindOf(entry.name)) {
    case "image":
    case "svg":
      return <FileImage aria-hidden className={cx(look, "text-good")} />;
    case "table":
      return <FileSpreadsheet aria-hidden className={cx(look, "text-good")} />;
    case "markdown":
      return <FileText aria-hidden className={cx(look, "text-accent")} />;
    case "html":
      return <FileCode aria-hidden className={cx(look, "text-accent")} />;
    case "text":
      return extensionOf(entry.name) ? (
        <FileCode aria-hidden className={cx(look, "text-muted")} />
      ) : (
        <File aria-hidden className={cx(look, "text-muted")} />
      );
  }
}
