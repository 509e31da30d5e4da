/** The command palette: every page, every sandbox and its acts, by keyboard. */

import { useQuery } from "@tanstack/react-query";
import { Command } from "cmdk";
import { BookOpen, Box, LogOut, Plus } from "lucide-react";
import { type ReactNode, useState } from "react";
import { useNavigate } from "react-router";
import { useWords } from "./lib/words";
import { listWords } from "./pages/list/words";
import { useShownPages } from "./pages/shown";
import { pageWords } from "./pages/words";
import { sandboxesQuery } from "./sandboxes";
import { mayWrite, useMe, useSignIn } from "./sign_in";

const MOST = 30;
const ITEM =
  "flex cursor-pointer items-center gap-2.5 rounded-lg px-2.5 py-2 text-sm aria-selected:bg-raised [&_svg]:size-4 [&_svg]:text-muted";
const GROUP =
  "[&_[cmdk-group-heading]]:px-2.5 [&_[cmdk-group-heading]]:pt-3 [&_[cmdk-group-heading]]:pb-1 [&_[cmdk-group-heading]]:text-xs [&_[cmdk-group-heading]]:text-muted";

export function Palette({
  open,
  onOpenChange,
}: {
  open: boolean;
  onOpenChange(open: boolean): void;
}): ReactNode {
  const say = useWords(pageWords);
  const sayList = useWords(listWords);
  const me = useMe();
  const pages = useShownPages();
  const { leave } = useSignIn();
  const go = useNavigate();
  const [typed, setTyped] = useState("");
  const { data = [] } = useQuery({ ...sandboxesQuery, enabled: open });
  const wanted = typed.trim().toLowerCase();
  const boxes = data
    .filter((box) => `${box.name ?? ""} ${box.id}`.toLowerCase().includes(wanted))
    .slice(0, MOST);
  const done = (act: () => unknown) => () => {
    onOpenChange(false);
    setTyped("");
    act();
  };
  return (
    <Command.Dialog
      open={open}
      onOpenChange={onOpenChange}
      label={say("palette")}
      overlayClassName="fixed inset-0 z-40 bg-black/50"
      contentClassName="fixed inset-x-3 top-[12vh] z-50 mx-auto max-w-xl overflow-hidden rounded-2xl border bg-panel shadow-2xl"
    >
      <Command.Input
        value={typed}
        onValueChange={setTyped}
        placeholder={say("paletteHint")}
        className="w-full border-b bg-transparent px-4 py-3.5 text-base outline-none placeholder:text-muted"
      />
      <Command.List className="max-h-[50vh] overflow-y-auto p-2">
        <Command.Empty className="p-6 text-center text-sm text-muted">{say("paletteNone")}</Command.Empty>
        <Command.Group heading={say("navigation")} className={GROUP}>
          {pages.map((page) => (
            <Command.Item
              key={page.path}
              value={`page ${say(page.name)}`}
              className={ITEM}
              onSelect={done(() => go(`/console/${page.path}`))}
            >
              {page.icon}
              {say(page.name)}
            </Command.Item>
          ))}
        </Command.Group>
        <Command.Group heading={say("sandboxes")} className={GROUP}>
          {boxes.map((box) => (
            <Command.Item
              key={box.id}
              value={`${box.name ?? ""} ${box.id}`}
              className={ITEM}
              onSelect={done(() => go(`/console/sandboxes/${box.name ?? box.id}`))}
            >
              <Box aria-hidden />
              <span className="truncate">{box.name ?? box.id}</span>
            </Command.Item>
          ))}
        </Command.Group>
        <Command.Group heading={say("acts")} className={GROUP}>
          {mayWrite(me) ? (
            <Command.Item className={ITEM} onSelect={done(() => go("/console/sandboxes?new=1"))}>
              <Plus aria-hidden />
              {sayList("new")}
            </Command.Item>
          ) : null}
          <Command.Item className={ITEM} onSelect={done(() => window.open("/docs/", "_blank", "noreferrer"))}>
            <BookOpen aria-hidden />
            {say("docs")}
          </Command.Item>
          <Command.Item className={ITEM} onSelect={done(leave)}>
            <LogOut aria-hidden />
            {say("signOut")}
          </Command.Item>
        </Command.Group>
      </Command.List>
    </Command.Dialog>
  );
}
