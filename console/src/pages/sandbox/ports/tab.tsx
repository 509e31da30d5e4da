/** The ports on which programs listen, and what they show. The app in the frame is of another origin than this page. */

import { useQuery, useQueryClient } from "@tanstack/react-query";
import type { Port, Sandbox } from "bay-sandbox";
import { ExternalLink, Eye, EyeOff, Globe, Link2, Lock, Plug, RotateCw } from "lucide-react";
import { type ReactNode, useState } from "react";
import { bay } from "@/bay";
import { useWords } from "@/lib/words";
import { keys } from "@/live";
import { mayWrite, useMe } from "@/sign_in";
import { Badge } from "@/ui/badge";
import { IconButton } from "@/ui/button";
import { Panel } from "@/ui/panel";
import { Empty, Failed, Loading } from "@/ui/states";
import { tell, tellError } from "@/ui/toasts";
import { portWords } from "./words";

const LINK_S = 3600;
/** The link in a frame opens once, in this page. */
const FRAME_S = 60;

/** A preview: the app in a frame, or why there is none. A frame of another origin does not tell this page. */
type Shown = { port: number; url: string } | { port: number; error: unknown };

export default function Ports({ box }: { box: Sandbox }): ReactNode {
  const say = useWords(portWords);
  const key = keys.of(box.id, "ports");
  const { data, error, refetch } = useQuery({
    queryKey: key,
    queryFn: async ({ signal }) => (await bay.sandboxes.get(box.id, { signal })).ports.list({ signal }),
  });
  const [shown, setShown] = useState<Shown | null>(null);
  if (error) return <Failed error={error} retry={() => void refetch()} />;
  if (data === undefined) return <Loading />;
  const preview = async (port: number): Promise<void> => {
    try {
      const { ports } = await bay.sandboxes.get(box.id);
      const answer = await ports.fetch(port); // throws where no app answers; one may say what it likes
      void answer.body?.cancel();
      const link = await ports.link(port, { expiresIn: FRAME_S, once: true });
      setShown({ port, url: link.url });
    } catch (failure) {
      setShown({ port, error: failure });
    }
  };
  const open = shown && data.some((port) => port.port === shown.port) ? shown : null;
  return (
    <div className="flex flex-1 flex-col gap-4 p-4">
      <Panel title={say("title")}>
        {data.length === 0 ? (
          <Nothing box={box} />
        ) : (
          <ul>
            {data.map((port) => (
              <Row
                key={port.port}
                box={box}
                port={port}
                open={open?.port === port.port}
                show={preview}
                hide={() => setShown(null)}
              />
            ))}
          </ul>
        )}
      </Panel>
      {open ? (
        <Panel
          title={say("frame", { port: open.port })}
          className="flex min-h-96 flex-1 flex-col"
          acts={
            <>
              <IconButton label={say("reload")} onClick={() => void preview(open.port)}>
                <RotateCw aria-hidden />
              </IconButton>
              <IconButton label={say("closePreview")} onClick={() => setShown(null)}>
                <EyeOff aria-hidden />
              </IconButton>
            </>
          }
        >
          {"error" in open ? (
            <Failed error={open.error} retry={() => void preview(open.port)} />
          ) : (
            <iframe
              key={open.url}
              src={open.url}
              title={say("frame", { port: open.port })}
              // Its origin is the app's own: it has its cookies, and nothing of this page.
              sandbox="allow-scripts allow-forms allow-same-origin allow-modals allow-downloads allow-popups"
              referrerPolicy="no-referrer"
              className="w-full flex-1 bg-white"
            />
          )}
        </Panel>
      ) : null}
    </div>
  );
}

function Nothing({ box }: { box: Sandbox }): ReactNode {
  const say = useWords(portWords);
  if (box.compute !== "running")
    return (
      <Empty icon={<Plug />} title={say("rests")}>
        <p>{say("restsAbout")}</p>
      </Empty>
    );
  return (
    <Empty icon={<Plug />} title={say("none")}>
      <p>{say("noneAbout")}</p>
      <pre className="max-w-full overflow-x-auto rounded-lg bg-raised px-3 py-2 text-left">
        python3 -m http.server 8000
      </pre>
    </Empty>
  );
}

function Row({
  box,
  port,
  open,
  show,
  hide,
}: {
  box: Sandbox;
  port: Port;
  open: boolean;
  show(port: number): Promise<void>;
  hide(): void;
}): ReactNode {
  const say = useWords(portWords);
  const cache = useQueryClient();
  const writes = mayWrite(useMe());
  const isPublic = port.access === "public";
  const copy = async (): Promise<void> => {
    try {
      const link = await (await bay.sandboxes.get(box.id)).ports.link(port.port, { expiresIn: LINK_S });
      await navigator.clipboard.writeText(link.url);
      tell(say("linkCopied"));
    } catch (failure) {
      tellError(failure);
    }
  };
  const change = async (): Promise<void> => {
    try {
      await (await bay.sandboxes.get(box.id)).ports.setAccess(port.port, isPublic ? "owner" : "public");
      await cache.invalidateQueries({ queryKey: keys.of(box.id, "ports") });
    } catch (failure) {
      tellError(failure);
    }
  };
  const openTab = async (): Promise<void> => {
    // Opened before the call: browsers allow a window only as the answer to a click.
    const tab = window.open("about:blank", "_blank");
    try {
      const link = await (await bay.sandboxes.get(box.id)).ports.link(port.port, {
        expiresIn: FRAME_S,
        once: true,
      });
      if (tab === null) return;
      tab.opener = null;
      tab.location.replace(link.url);
    } catch (failure) {
      tab?.close();
      tellError(failure);
    }
  };
  return (
    <li className="flex flex-wrap items-center gap-x-4 gap-y-2 border-t px-4 py-2.5 first:border-t-0">
      <span className="w-14 font-mono text-base font-semibold">{port.port}</span>
      <span className="min-w-0 flex-1 truncate text-sm">
        {port.process ?? "—"} <span className="text-muted">{port.addresses.join(", ")}</span>
      </span>
      <Badge tone={isPublic ? "warn" : "idle"}>
        {isPublic ? <Globe aria-hidden className="size-3.5" /> : <Lock aria-hidden className="size-3.5" />}
        {say(isPublic ? "public" : "owner")}
      </Badge>
      {writes ? (
        <span className="flex gap-1">
          <IconButton
            label={say(open ? "closePreview" : "preview")}
            aria-pressed={open}
            onClick={() => (open ? hide() : void show(port.port))}
          >
            {open ? <EyeOff aria-hidden /> : <Eye aria-hidden />}
          </IconButton>
          <IconButton label={say("open")} onClick={() => void openTab()}>
            <ExternalLink aria-hidden />
          </IconButton>
          <IconButton label={say("link")} onClick={() => void copy()}>
            <Link2 aria-hidden />
          </IconButton>
          <IconButton label={say(isPublic ? "makeOwn" : "makePublic")} onClick={() => void change()}>
            {isPublic ? <Lock aria-hidden /> : <Globe aria-hidden />}
          </IconButton>
        </span>
      ) : null}
    </li>
  );
}
