/** What a folder has, and all that can be done with it. */

import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useVirtualizer } from "@tanstack/react-virtual";
import type { FileInfo, Sandbox } from "bay-sandbox";
import {
  ArrowUp,
  Download,
  FilePlus,
  Files,
  FolderPlus,
  FolderUp,
  RefreshCw,
  Search,
  Trash2,
  Upload,
  X,
} from "lucide-react";
import { type DragEvent, type ReactNode, useMemo, useRef, useState } from "react";
import { count } from "@/lib/format";
import { useWords } from "@/lib/words";
import { Button, IconButton } from "@/ui/button";
import { cx } from "@/ui/class_names";
import { Menu } from "@/ui/menu";
import { Empty, Failed, Loading } from "@/ui/states";
import { Tip } from "@/ui/tip";
import { tellError } from "@/ui/toasts";
import { shared } from "@/words";
import { Conflicts, type Pending } from "./conflicts";
import { Crumbs } from "./crumbs";
import { MakeDialog, MoveDialog, RenameDialog } from "./dialogs";
import { download } from "./downloads";
import { type Dropped, ofDrop, ofField } from "./dropped";
import { Entry, GRID } from "./entry";
import { type Column, inOrder, type Order } from "./order";
import { HOME, isWithin, parentOf, plain } from "./paths";
import { removals, useRemovals } from "./removals";
import { fileKeys, filesOf, folderQuery } from "./sandbox_files";
import { SearchPanel } from "./search";
import { conflictsOf, send } from "./uploads";
import type { View } from "./view";
import { filesWords } from "./words";

const ROW_PX = 44;
const OVERSCAN = 12;

type Asked = { kind: "file" | "folder" } | { kind: "rename" | "move"; entry: FileInfo } | null;

export function FolderView({
  box,
  view,
  isAwake,
  isLive,
  mayChange,
  treeButton,
}: {
  box: Sandbox;
  view: View;
  isAwake: boolean;
  isLive: boolean;
  mayChange: boolean;
  treeButton: ReactNode;
}): ReactNode {
  const say = useWords(filesWords);
  const cache = useQueryClient();
  const { folder } = view;
  const { data, error, refetch, isFetching } = useQuery(folderQuery(box.id, folder, isAwake));
  const [asked, setAsked] = useState<Asked>(null);
  const [isSearching, setSearching] = useState(false);
  const [pending, setPending] = useState<Pending | null>(null);
  const [isOver, setOver] = useState(false);
  const picker = useRef<HTMLInputElement>(null);
  const folderPicker = useRef<HTMLInputElement>(null);
  const refresh = (): void => void cache.invalidateQueries({ queryKey: fileKeys.all(box.id) });

  const close = (): void => {
    setAsked(null);
    refresh();
  };

  const take = async (given: Promise<Dropped> | Dropped): Promise<void> => {
    try {
      const dropped = await given;
      const found = await conflictsOf(box.id, folder, dropped);
      if (found.size) setPending({ dropped, found });
      else await send(box.id, folder, dropped, new Set());
    } catch (failure) {
      tellError(failure);
    }
  };
  const onDrop = (event: DragEvent): void => {
    event.preventDefault();
    setOver(false);
    if (mayChange) void take(ofDrop(event.dataTransfer));
  };

  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: files are dropped here; the buttons do the same by keyboard
    <div
      className="relative flex min-h-0 flex-1 flex-col"
      onDragOver={(event) => {
        event.preventDefault();
        event.dataTransfer.dropEffect = mayChange ? "copy" : "none";
        if (mayChange && event.dataTransfer.types.includes("Files")) setOver(true);
      }}
      onDragLeave={(event) => {
        if (!event.currentTarget.contains(event.relatedTarget as Node | null)) setOver(false);
      }}
      onDrop={onDrop}
    >
      <div className="flex flex-wrap items-center gap-1.5 border-b bg-panel px-3 py-2">
        {treeButton}
        <IconButton
          label={say("up")}
          disabled={folder === "/"}
          onClick={() => view.openFolder(parentOf(folder))}
        >
          <ArrowUp aria-hidden />
        </IconButton>
        <Crumbs path={folder} onOpen={view.openFolder} />
        <Tip text={isLive ? say("live") : say("notLive")}>
          <span
            role="img"
            aria-label={isLive ? say("live") : say("notLive")}
            className={cx("mr-auto ml-1 size-2 rounded-full sm:mr-1", isLive ? "bg-good" : "bg-strong-line")}
          />
        </Tip>
        <IconButton label={say("refresh")} disabled={!isAwake} onClick={refresh}>
          <RefreshCw aria-hidden className={cx(isFetching && "animate-spin")} />
        </IconButton>
        <IconButton
          label={say("search", { folder: plain(folder) })}
          aria-pressed={isSearching}
          disabled={!isAwake}
          onClick={() => setSearching(!isSearching)}
        >
          <Search aria-hidden />
        </IconButton>
        {mayChange ? (
          <>
            <IconButton label={say("newFile")} onClick={() => setAsked({ kind: "file" })}>
              <FilePlus aria-hidden />
            </IconButton>
            <IconButton label={say("newFolder")} onClick={() => setAsked({ kind: "folder" })}>
              <FolderPlus aria-hidden />
            </IconButton>
            <Menu
              trigger={<Button icon={<Upload aria-hidden />}>{say("add")}</Button>}
              items={[
                {
                  label: say("upload"),
                  icon: <Files aria-hidden />,
                  onSelect: () => picker.current?.click(),
                },
                {
                  label: say("uploadFolder"),
                  icon: <FolderUp aria-hidden />,
                  onSelect: () => folderPicker.current?.click(),
                },
              ]}
            />
            <Picker at={picker} onTake={(dropped) => void take(dropped)} />
            <Picker at={folderPicker} isFolder onTake={(dropped) => void take(dropped)} />
          </>
        ) : null}
      </div>
      {isSearching ? <SearchPanel box={box} view={view} onClose={() => setSearching(false)} /> : null}
      {error && isAwake ? <Failed error={error} retry={() => void refetch()} /> : null}
      {data === undefined ? (
        error || !isAwake ? null : (
          <Loading />
        )
      ) : data.entries.length === 0 ? (
        <Empty icon={<Files />} title={say("emptyTitle")}>
          <p>{mayChange ? say("empty") : say("emptyRead")}</p>
          {mayChange ? (
            <div className="flex gap-2">
              <Button icon={<FilePlus aria-hidden />} onClick={() => setAsked({ kind: "file" })}>
                {say("newFile")}
              </Button>
              <Button icon={<Upload aria-hidden />} onClick={() => picker.current?.click()}>
                {say("upload")}
              </Button>
            </div>
          ) : null}
        </Empty>
      ) : (
        <>
          <Table
            box={box}
            entries={data.entries}
            view={view}
            mayChange={mayChange}
            onAsk={setAsked}
            onGone={refresh}
          />
          {data.isCut ? (
            <p className="border-t px-4 py-2 text-sm text-warn">
              {say("cut", { number: count(data.entries.length) })}
            </p>
          ) : null}
        </>
      )}
      {isOver ? (
        <div className="pointer-events-none absolute inset-2 z-20 flex items-center justify-center rounded-2xl border-2 border-dashed border-accent bg-accent-soft/90 p-6 text-center text-lg font-medium text-accent">
          {say("drop", { folder: plain(folder) })}
        </div>
      ) : null}
      {asked?.kind === "file" || asked?.kind === "folder" ? (
        <MakeDialog
          box={box}
          folder={folder}
          kind={asked.kind}
          taken={data?.entries.map((one) => one.name) ?? []}
          onDone={(path) => {
            setAsked(null);
            refresh();
            if (path !== null && asked.kind === "file") view.openFile(path);
          }}
        />
      ) : null}
      {asked?.kind === "rename" ? <RenameDialog box={box} entry={asked.entry} onDone={close} /> : null}
      {asked?.kind === "move" ? <MoveDialog box={box} entry={asked.entry} onDone={close} /> : null}
      {pending ? (
        <Conflicts
          pending={pending}
          folder={folder}
          onDone={(left) => {
            setPending(null);
            if (left !== null) void send(box.id, folder, pending.dropped, left).catch(tellError);
          }}
        />
      ) : null}
    </div>
  );
}

function Picker({
  at,
  isFolder = false,
  onTake,
}: {
  at: React.RefObject<HTMLInputElement | null>;
  isFolder?: boolean;
  onTake(dropped: Dropped): void;
}): ReactNode {
  return (
    <input
      ref={at}
      type="file"
      multiple
      hidden
      {...(isFolder ? { webkitdirectory: "" } : {})}
      onChange={(event) => {
        onTake(ofField(event.target.files ?? []));
        event.target.value = "";
      }}
    />
  );
}

function Table({
  box,
  entries,
  view,
  mayChange,
  onAsk,
  onGone,
}: {
  box: Sandbox;
  entries: FileInfo[];
  view: View;
  mayChange: boolean;
  onAsk(asked: Asked): void;
  onGone(): void;
}): ReactNode {
  const say = useWords(filesWords);
  const sayShared = useWords(shared);
  const isLeaving = useRemovals(box.id);
  const [order, setOrder] = useState<Order>({ column: "name", isDown: false });
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const shown = useMemo(() => inOrder(entries, order), [entries, order]);
  const place = useRef<HTMLDivElement>(null);
  const rows = useVirtualizer({
    count: shown.length,
    getScrollElement: () => place.current,
    estimateSize: () => ROW_PX,
    getItemKey: (at) => shown[at]?.path ?? at,
    overscan: OVERSCAN,
  });
  const picked = shown.filter((one) => chosen.has(one.path) && !isLeaving(one.path));
  const toggle = (path: string): void => {
    const next = new Set(chosen);
    if (!next.delete(path)) next.add(path);
    setChosen(next);
  };
  const open = async (entry: FileInfo): Promise<void> => {
    if (entry.type === "directory") return view.openFolder(entry.path);
    if (entry.type === "symlink") {
      try {
        if ((await (await filesOf(box.id)).stat(entry.path)).type === "directory")
          return view.openFolder(entry.path);
      } catch {
        // The page of the file says what is wrong with it.
      }
    }
    view.openFile(entry.path);
  };
  const remove = (gone: readonly FileInfo[]): void => {
    removals.begin(box.id, gone, onGone);
    setChosen(new Set());
  };
  const get = (entry: FileInfo): void => {
    const size = entry.type === "file" ? entry.size : null;
    void download(box.id, entry.path, entry.name, size).catch(tellError);
  };
  const head = (column: Column, text: string, className: string): ReactNode => (
    <th
      scope="col"
      className={cx("text-left font-medium", className)}
      aria-sort={order.column === column ? (order.isDown ? "descending" : "ascending") : "none"}
    >
      <button
        type="button"
        className="inline-flex min-h-8 items-center gap-1 hover:text-ink"
        onClick={() =>
          setOrder({ column, isDown: order.column === column ? !order.isDown : column !== "name" })
        }
      >
        {text}
        <span aria-hidden>{order.column === column ? (order.isDown ? "↓" : "↑") : ""}</span>
      </button>
    </th>
  );
  return (
    <>
      {picked.length ? (
        <div
          role="status"
          className="flex flex-wrap items-center gap-2 border-b bg-accent-soft px-4 py-1.5 text-sm"
        >
          <span className="font-medium text-accent">{say("chosen", { number: picked.length })}</span>
          {picked.length === 1 && picked[0] ? (
            <Button icon={<Download aria-hidden />} onClick={() => picked[0] && get(picked[0])}>
              {say("download")}
            </Button>
          ) : null}
          <Button icon={<Trash2 aria-hidden />} onClick={() => remove(picked)}>
            {say("delete")}
          </Button>
          <IconButton label={sayShared("cancel")} onClick={() => setChosen(new Set())}>
            <X aria-hidden />
          </IconButton>
        </div>
      ) : null}
      <div className="relative h-[55dvh] min-h-60 grow">
        <div ref={place} className="absolute inset-0 overflow-y-auto">
          <table
            className="block w-full text-sm"
            aria-label={say("table", { folder: plain(view.folder) })}
            aria-rowcount={shown.length + 1}
          >
            <thead className="sticky top-0 z-10 block border-b bg-page text-xs text-muted">
              <tr className={GRID}>
                <th scope="col" className="flex">
                  {mayChange ? (
                    <input
                      type="checkbox"
                      aria-label={say("chooseAll")}
                      className="size-4 accent-accent"
                      checked={shown.length > 0 && shown.every((one) => chosen.has(one.path))}
                      onChange={(event) =>
                        setChosen(event.target.checked ? new Set(shown.map((one) => one.path)) : new Set())
                      }
                    />
                  ) : (
                    <span className="sr-only">{say("nameColumn")}</span>
                  )}
                </th>
                {head("name", say("nameColumn"), "")}
                {head("size", say("size"), "flex justify-end")}
                {head("mode", say("mode"), "hidden md:block")}
                {head("mtime", say("modified"), "hidden sm:block")}
                <th scope="col">
                  <span className="sr-only">{sayShared("more")}</span>
                </th>
              </tr>
            </thead>
            <tbody className="relative block" style={{ height: rows.getTotalSize() }}>
              {rows.getVirtualItems().map((row) => {
                const entry = shown[row.index];
                if (entry === undefined) return null;
                return (
                  <Entry
                    key={row.key}
                    entry={entry}
                    at={row.index}
                    top={row.start}
                    height={row.size}
                    isChosen={mayChange ? chosen.has(entry.path) : null}
                    isLeaving={isLeaving(entry.path)}
                    sandbox={box.id}
                    onChoose={() => toggle(entry.path)}
                    onOpen={() => void open(entry)}
                    onDownload={() => get(entry)}
                    onRename={mayChange ? () => onAsk({ kind: "rename", entry }) : null}
                    onMove={mayChange ? () => onAsk({ kind: "move", entry }) : null}
                    onDelete={
                      mayChange && entry.path !== HOME && !isWithin(HOME, entry.path)
                        ? () => remove([entry])
                        : null
                    }
                  />
                );
              })}
            </tbody>
          </table>
        </div>
      </div>
    </>
  );
}
