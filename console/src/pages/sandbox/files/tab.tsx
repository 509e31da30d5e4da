/** The files of a sandbox: folders at the left, beside them a folder's list or a file. */

import { useQueryClient } from "@tanstack/react-query";
import type { Sandbox } from "bay-sandbox";
import { FolderTree, Moon, Play } from "lucide-react";
import { type ReactNode, useEffect, useState } from "react";
import { useWords } from "@/lib/words";
import { actsOf, useActs } from "@/sandboxes";
import { mayWrite, useMe } from "@/sign_in";
import { Button } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { Empty } from "@/ui/states";
import { hasDrafts } from "./drafts";
import { FileView } from "./file";
import { FolderView } from "./folder";
import { fileKeys } from "./sandbox_files";
import { TransferList } from "./transfer_list";
import { transfers } from "./transfers";
import { Tree } from "./tree";
import { useView } from "./view";
import { useWatch } from "./watch";
import { filesWords } from "./words";

export default function FilesTab({ box }: { box: Sandbox }): ReactNode {
  const say = useWords(filesWords);
  const cache = useQueryClient();
  const view = useView();
  const [showsTree, setShowsTree] = useState(false);
  // Every look at a file wakes the sandbox, so without compute nothing is asked.
  const isAwake = box.compute === "running";
  const isLive = useWatch(box.id, isAwake, view.folder);
  const wasSeen = cache
    .getQueriesData({ queryKey: fileKeys.all(box.id) })
    .some(([, data]) => data !== undefined);
  const may = mayWrite(useMe());

  useEffect(() => {
    const stay = (event: BeforeUnloadEvent): void => {
      if (hasDrafts() || transfers.isBusy) event.preventDefault();
    };
    window.addEventListener("beforeunload", stay);
    return () => window.removeEventListener("beforeunload", stay);
  }, []);

  if (!isAwake && !wasSeen) return <Asleep box={box} />;
  const tree = (
    <Tree
      box={box}
      isAwake={isAwake}
      folder={view.folder}
      onOpen={(path) => {
        setShowsTree(false);
        view.openFolder(path);
      }}
    />
  );
  return (
    <div className="flex min-h-0 flex-1 flex-col">
      {isAwake ? null : <AsWas box={box} />}
      <div className="flex min-h-0 flex-1">
        <aside className="hidden w-60 shrink-0 border-r bg-panel lg:block">
          <div className="sticky top-0 max-h-dvh overflow-auto p-2">{tree}</div>
        </aside>
        <div className="flex min-w-0 flex-1 flex-col">
          {view.file === null ? (
            <FolderView
              key={view.folder}
              box={box}
              view={view}
              isAwake={isAwake}
              isLive={isLive}
              mayChange={may && isAwake}
              treeButton={
                <Button
                  className="lg:hidden"
                  kind="quiet"
                  icon={<FolderTree aria-hidden />}
                  aria-label={say("folders")}
                  onClick={() => setShowsTree(true)}
                />
              }
            />
          ) : (
            <FileView
              key={view.file}
              box={box}
              view={view}
              path={view.file}
              isAwake={isAwake}
              mayChange={may}
            />
          )}
          <TransferList sandbox={box.id} />
        </div>
      </div>
      <Dialog open={showsTree} onOpenChange={setShowsTree} title={say("tree")}>
        {tree}
      </Dialog>
    </div>
  );
}

function StartButton({ box }: { box: Sandbox }): ReactNode {
  const say = useWords(filesWords);
  const acts = useActs();
  const [isBusy, setBusy] = useState(false);
  if (!mayWrite(useMe())) return null;
  return (
    <Button
      kind="primary"
      icon={<Play aria-hidden />}
      busy={isBusy || box.compute === "warming"}
      disabled={!actsOf(box).start}
      onClick={() => {
        setBusy(true);
        void acts.do("start", [box]).finally(() => setBusy(false));
      }}
    >
      {box.compute === "warm" ? say("resume") : say("start")}
    </Button>
  );
}

function Asleep({ box }: { box: Sandbox }): ReactNode {
  const say = useWords(filesWords);
  return (
    <Empty icon={<Moon />} title={box.compute === "warm" ? say("frozenTitle") : say("asleepTitle")}>
      <p>{say("asleep")}</p>
      <StartButton box={box} />
    </Empty>
  );
}

function AsWas({ box }: { box: Sandbox }): ReactNode {
  const say = useWords(filesWords);
  return (
    <div
      role="status"
      className="flex flex-wrap items-center gap-3 border-b bg-idle-soft px-4 py-2 text-sm text-idle"
    >
      <Moon aria-hidden className="size-4 shrink-0" />
      <span className="min-w-0 flex-1">{say("asWas")}</span>
      <StartButton box={box} />
    </div>
  );
}
