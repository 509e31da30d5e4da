/** The checkpoints of a sandbox that Bay's object store has. */

import type { RemoteCheckpoint, Sandbox } from "bay-sandbox";
import { CloudDownload, EllipsisVertical, Trash2 } from "lucide-react";
import type { ReactNode } from "react";
import { bay } from "@/bay";
import { bytes } from "@/lib/format";
import { useWords } from "@/lib/words";
import { Badge, type Tone } from "@/ui/badge";
import { IconButton } from "@/ui/button";
import { Menu } from "@/ui/menu";
import { Moment } from "@/ui/moment";
import { Panel } from "@/ui/panel";
import { tell, tellError } from "@/ui/toasts";
import { checkpointWords } from "./words";

const TONES: Record<RemoteCheckpoint["state"], Tone> = { ready: "good", pushing: "warn", failed: "bad" };

export function Remote({
  box,
  all,
  mayChange,
  onChange,
}: {
  box: Sandbox;
  all: RemoteCheckpoint[];
  mayChange: boolean;
  onChange(): void;
}): ReactNode {
  const say = useWords(checkpointWords);
  const run = async (work: () => Promise<unknown>): Promise<void> => {
    try {
      await work();
    } catch (error) {
      tellError(error);
    }
    onChange();
  };
  const pull = async (one: RemoteCheckpoint): Promise<void> => {
    await (await bay.sandboxes.get(box.id)).pullCheckpoint(one);
    tell(say("pulled"));
  };
  return (
    <Panel title={say("remote")}>
      {all.length === 0 ? <p className="px-4 py-3 text-sm text-muted">{say("remoteNone")}</p> : null}
      <ul>
        {all.map((one) => (
          <li key={one.key} className="flex items-center gap-2 border-b px-4 py-2 text-sm last:border-b-0">
            <div className="min-w-0 flex-1">
              <p className="truncate font-medium" title={one.key}>
                {one.name ?? one.key}
              </p>
              <p className="truncate text-xs text-muted">
                <Moment at={one.created_at} /> · {bytes(one.bytes)}
              </p>
            </div>
            <Badge tone={TONES[one.state]}>{say(one.state)}</Badge>
            {mayChange ? (
              <Menu
                trigger={
                  <IconButton label={say("actsOf", { name: one.name ?? one.key })}>
                    <EllipsisVertical aria-hidden />
                  </IconButton>
                }
                items={[
                  {
                    label: say("pull"),
                    icon: <CloudDownload aria-hidden />,
                    disabled: one.state !== "ready",
                    onSelect: () => void run(() => pull(one)),
                  },
                  "line",
                  {
                    label: say("removeRemote"),
                    icon: <Trash2 aria-hidden />,
                    danger: true,
                    onSelect: () => void run(() => bay.remoteCheckpoints.delete(one.key)),
                  },
                ]}
              />
            ) : null}
          </li>
        ))}
      </ul>
    </Panel>
  );
}
