/** One file: its text to read and change, or a preview of what it is. */

import { useQuery, useQueryClient } from "@tanstack/react-query";
import { FileMissing, type Sandbox } from "bay-sandbox";
import { ArrowLeft, Binary, Download, FileX, Save, TriangleAlert } from "lucide-react";
import { lazy, type ReactNode, Suspense, useCallback, useEffect, useMemo, useRef, useState } from "react";
import { bytes } from "@/lib/format";
import { useWords } from "@/lib/words";
import { Badge } from "@/ui/badge";
import { Button, IconButton } from "@/ui/button";
import { cx } from "@/ui/class_names";
import { Dialog } from "@/ui/dialog";
import { Empty, Failed, Loading } from "@/ui/states";
import { tell, tellError } from "@/ui/toasts";
import { shared } from "@/words";
import { download } from "./downloads";
import { draftOf, dropDraft, keepDraft } from "./drafts";
import type { Edited } from "./editor";
import { extensionOf, imageType, kindOf, SHOWN_BYTES } from "./kinds";
import { Name } from "./name";
import { nameOf, parentOf, plain } from "./paths";
import { type Content, contentQuery, fileKeys, filesOf, infoQuery, isSame, write } from "./sandbox_files";
import type { View } from "./view";
import { filesWords } from "./words";

const Editor = lazy(() => import("./editor"));
const Markdown = lazy(() => import("./preview/markdown"));
const Table = lazy(() => import("./preview/table"));
const Html = lazy(() => import("./preview/html"));
const Picture = lazy(() => import("./preview/image"));

type TextContent = Extract<Content, { kind: "text" }>;

interface Given {
  box: Sandbox;
  view: View;
  path: string;
  isAwake: boolean;
  mayChange: boolean;
}

export function FileView({ box, view, path, isAwake, mayChange }: Given): ReactNode {
  const say = useWords(filesWords);
  const { data: content, error, refetch } = useQuery(contentQuery(box.id, path, isAwake));
  const name = plain(nameOf(path));
  useEffect(() => {
    if (content?.kind === "folder") view.openFolder(path);
  }, [content, path, view.openFolder]);

  if (content?.kind === "text") {
    return (
      <TextView box={box} view={view} path={path} isAwake={isAwake} mayChange={mayChange} content={content} />
    );
  }
  return (
    <>
      <Bar box={box} view={view} path={path} content={content} onClose={view.closeFile} />
      {error instanceof FileMissing ? (
        <Empty icon={<FileX />} title={say("missingTitle", { name })}>
          <p>{say("missing")}</p>
          <Button onClick={view.closeFile}>{say("backToFolder")}</Button>
        </Empty>
      ) : error && content === undefined ? (
        <Failed error={error} retry={() => void refetch()} />
      ) : content === undefined || content.kind === "folder" ? (
        isAwake ? (
          <Loading />
        ) : null
      ) : content.kind === "image" ? (
        <Body>
          <Picture blob={content.blob} name={name} />
        </Body>
      ) : content.kind === "special" ? (
        <Empty icon={<Binary />} title={say("specialTitle")}>
          <p>{say("special")}</p>
        </Empty>
      ) : (
        <Empty icon={<Binary />} title={content.isLarge ? say("largeTitle") : say("binaryTitle")}>
          <p>
            {content.isLarge
              ? say("large", { name, size: bytes(content.info.size ?? 0) })
              : say("binary", { name, size: bytes(content.info.size ?? 0) })}
          </p>
          <DownloadButton box={box} path={path} content={content} />
        </Empty>
      )}
    </>
  );
}

function Body({ children }: { children: ReactNode }): ReactNode {
  return (
    <div className="relative h-[calc(100dvh-18rem)] min-h-72 grow bg-panel">
      <div className="absolute inset-0 overflow-hidden">
        <Suspense fallback={<Loading />}>{children}</Suspense>
      </div>
    </div>
  );
}

function DownloadButton({ box, path, content }: { box: Sandbox; path: string; content: Content }): ReactNode {
  const say = useWords(filesWords);
  return (
    <Button
      kind="primary"
      icon={<Download aria-hidden />}
      onClick={() => void download(box.id, path, nameOf(path), content.info.size).catch(tellError)}
    >
      {say("download")}
    </Button>
  );
}

function Bar({
  box,
  view,
  path,
  content,
  onClose,
  children,
}: {
  box: Sandbox;
  view: View;
  path: string;
  content: Content | undefined;
  onClose(): void;
  children?: ReactNode;
}): ReactNode {
  const say = useWords(filesWords);
  return (
    <div className="flex flex-wrap items-center gap-2 border-b bg-panel px-3 py-2">
      <IconButton label={say("closeFile")} onClick={onClose}>
        <ArrowLeft aria-hidden />
      </IconButton>
      <h2 className="min-w-0 flex-1 basis-[70%] truncate text-sm sm:basis-0" title={plain(path)}>
        <button
          type="button"
          className="hidden max-w-full text-muted hover:underline sm:inline"
          onClick={() => view.openFolder(parentOf(path))}
        >
          <Name text={parentOf(path) === "/" ? "/" : `${parentOf(path)}/`} />
        </button>
        <span className="font-semibold">
          <Name text={nameOf(path)} />
        </span>
        {content?.info.size != null ? (
          <span className="ml-2 text-xs text-muted">{bytes(content.info.size)}</span>
        ) : null}
      </h2>
      {children}
      {content && content.kind !== "special" && content.kind !== "folder" ? (
        <IconButton
          label={say("download")}
          onClick={() => void download(box.id, path, nameOf(path), content.info.size).catch(tellError)}
        >
          <Download aria-hidden />
        </IconButton>
      ) : null}
    </div>
  );
}

type Question = { kind: "close" } | { kind: "conflict"; isGone: boolean } | null;

function TextView({
  box,
  view,
  path,
  isAwake,
  mayChange,
  content,
}: Given & { content: TextContent }): ReactNode {
  const say = useWords(filesWords);
  const sayShared = useWords(shared);
  const cache = useQueryClient();
  const kind = kindOf(path);
  const hasPreview = kind !== "text";
  const [isPreview, setPreview] = useState(hasPreview && kind !== "html" && view.line === null);
  const [isDirty, setDirty] = useState(draftOf(box.id, path) !== null);
  const [isBusy, setBusy] = useState(false);
  const [question, setQuestion] = useState<Question>(null);
  const info = useQuery(infoQuery(box.id, path, isAwake)).data;
  const isReadOnly = !mayChange || content.isPart;
  const isBehind = info !== undefined && !isSame(info, content.info);
  const latest = useRef(content);
  latest.current = content;

  // What nobody changes here follows the sandbox; changes of one's own are never thrown away by themselves.
  useEffect(() => {
    if (isBehind && !isDirty) void cache.invalidateQueries({ queryKey: fileKeys.content(box.id, path) });
  }, [isBehind, isDirty, cache, box.id, path]);

  const onChange = useCallback(
    ({ read, isDirty: dirty }: Edited) => {
      setDirty(dirty);
      if (dirty) {
        const began = draftOf(box.id, path)?.info ?? latest.current.info;
        keepDraft(box.id, path, { read, info: began });
      } else dropDraft(box.id, path);
    },
    [box.id, path],
  );

  const save = async (isForced: boolean): Promise<boolean> => {
    const draft = draftOf(box.id, path);
    if (draft === null || isReadOnly || isBusy) return false;
    setBusy(true);
    try {
      const now = await (await filesOf(box.id)).stat(path).catch((error: unknown) => {
        if (error instanceof FileMissing) return null;
        throw error;
      });
      if (!isForced && (now === null || !isSame(now, draft.info))) {
        setQuestion({ kind: "conflict", isGone: now === null });
        return false;
      }
      const text = draft.read();
      const written = await write(box.id, path, text);
      dropDraft(box.id, path); // what is typed since then begins a draft of its own
      cache.setQueryData(fileKeys.info(box.id, path), written);
      const shown: TextContent = { ...latest.current, info: written, text: { ...latest.current.text, text } };
      cache.setQueryData<TextContent>(fileKeys.content(box.id, path).slice(), shown);
      setQuestion(null);
      tell(say("saved"));
      return true;
    } catch (error) {
      tellError(error);
      return false;
    } finally {
      setBusy(false);
    }
  };
  const readAgain = (): void => {
    dropDraft(box.id, path);
    setDirty(false);
    setQuestion(null);
    void cache.invalidateQueries({ queryKey: fileKeys.content(box.id, path) });
  };
  const close = (): void => (isDirty ? setQuestion({ kind: "close" }) : view.closeFile());

  const draft = draftOf(box.id, path);
  const name = plain(nameOf(path));
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: the key saves, as the button does
    <div
      className="flex min-h-0 flex-1 flex-col"
      onKeyDown={(event) => {
        if (event.key.toLowerCase() !== "s" || !(event.ctrlKey || event.metaKey) || event.shiftKey) return;
        event.preventDefault();
        void save(false);
      }}
    >
      <Bar box={box} view={view} path={path} content={content} onClose={close}>
        {isDirty ? <Badge tone="warn">{say("unsaved")}</Badge> : null}
        {isReadOnly ? <Badge>{say("readOnly")}</Badge> : null}
        {hasPreview ? (
          <fieldset className="flex rounded-lg border border-strong-line/60 p-0.5 text-sm">
            {[true, false].map((one) => (
              <button
                key={String(one)}
                type="button"
                aria-pressed={isPreview === one}
                onClick={() => setPreview(one)}
                className={cx(
                  "min-h-8 rounded-md px-2.5",
                  isPreview === one ? "bg-accent-soft font-medium text-accent" : "text-muted hover:text-ink",
                )}
              >
                {one ? say("preview") : say("source")}
              </button>
            ))}
          </fieldset>
        ) : null}
        {isReadOnly || (isPreview && !isDirty) ? null : (
          <Button
            kind="primary"
            icon={<Save aria-hidden />}
            busy={isBusy}
            disabled={!isDirty}
            onClick={() => void save(false)}
          >
            {sayShared("save")}
          </Button>
        )}
      </Bar>
      {content.isPart ? (
        <p role="status" className="border-b bg-warn-soft px-4 py-2 text-sm text-warn">
          {say("partTitle", { shown: bytes(SHOWN_BYTES), size: bytes(content.info.size ?? 0) })}
        </p>
      ) : null}
      {isBehind && isDirty ? (
        <div
          role="alert"
          className="flex flex-wrap items-center gap-2 border-b bg-warn-soft px-4 py-2 text-sm text-warn"
        >
          <TriangleAlert aria-hidden className="size-4 shrink-0" />
          <p className="min-w-0 flex-1">
            <strong>{say("changedTitle")}.</strong> {say("changed")}
          </p>
          <Button onClick={readAgain}>{say("takeTheirs")}</Button>
        </div>
      ) : null}
      <Body>
        {isPreview ? (
          <Preview path={path} text={draft?.read() ?? content.text.text} />
        ) : (
          <Editor
            key={content.text.ends}
            path={path}
            text={content.text}
            readAt={content.readAt}
            draft={draft?.read() ?? null}
            isReadOnly={isReadOnly}
            label={say("editor", { name })}
            line={view.line}
            onChange={onChange}
          />
        )}
      </Body>
      <Dialog
        open={question?.kind === "close"}
        onOpenChange={() => setQuestion(null)}
        title={say("closeTitle", { name })}
        about={say("closeAbout")}
      >
        <div className="flex flex-wrap justify-end gap-2">
          <Button onClick={() => setQuestion(null)}>{sayShared("cancel")}</Button>
          <Button
            kind="danger"
            onClick={() => {
              dropDraft(box.id, path);
              view.closeFile();
            }}
          >
            {say("lose")}
          </Button>
          <Button
            kind="primary"
            busy={isBusy}
            onClick={() => void save(false).then((ok) => ok && view.closeFile())}
          >
            {sayShared("save")}
          </Button>
        </div>
      </Dialog>
      <Dialog
        open={question?.kind === "conflict"}
        onOpenChange={() => setQuestion(null)}
        title={say("conflictSaveTitle")}
        about={question?.kind === "conflict" && question.isGone ? say("goneSave") : say("conflictSave")}
      >
        <div className="flex flex-wrap justify-end gap-2">
          <Button onClick={() => setQuestion(null)}>{sayShared("cancel")}</Button>
          {question?.kind === "conflict" && !question.isGone ? (
            <Button onClick={readAgain}>{say("takeTheirs")}</Button>
          ) : null}
          <Button kind="danger" busy={isBusy} onClick={() => void save(true)}>
            {say("keepMine")}
          </Button>
        </div>
      </Dialog>
    </div>
  );
}

function Preview({ path, text }: { path: string; text: string }): ReactNode {
  const name = plain(nameOf(path));
  const blob = useMemo(() => new Blob([text], { type: imageType(path) }), [text, path]);
  switch (kindOf(path)) {
    case "markdown":
      return (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls is reached by keyboard
        <div tabIndex={0} className="h-full overflow-y-auto">
          <Markdown text={text} />
        </div>
      );
    case "table":
      return <Table text={text} isTabs={extensionOf(path) === "tsv"} />;
    case "html":
      return <Html text={text} name={name} />;
    case "svg":
      return <Picture blob={blob} name={name} />;
    default:
      return null;
  }
}
