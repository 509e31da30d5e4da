import type { AuditEntry } from "bay-sandbox";
import type { ReactNode } from "react";
import { moment } from "@/lib/format";
import { useWords } from "@/lib/words";
import { Badge } from "@/ui/badge";
import { Button } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { Fact, Facts } from "@/ui/panel";
import { shared } from "@/words";
import { toneOf } from "./tones";
import { auditWords } from "./words";

/** All that is known of one call, and the way to others like it. */
export function Detail({
  entry,
  only,
  onClose,
}: {
  entry: AuditEntry;
  only(name: string, value: string): void;
  onClose(): void;
}): ReactNode {
  const say = useWords(auditWords);
  const sayShared = useWords(shared);
  const none = sayShared("none");
  return (
    <Dialog open onOpenChange={(open) => open || onClose()} title={say("detail")}>
      <p className="font-mono text-sm break-all">
        <strong>{entry.method}</strong> {entry.path}
      </p>
      <div className="-mx-4">
        <Facts>
          <Fact name={say("status")}>
            <Badge tone={toneOf(entry.status)}>{entry.status ?? say("underWay")}</Badge>
            {entry.status === null ? (
              <span className="mt-1 block text-muted">{say("underWayAbout")}</span>
            ) : null}
          </Fact>
          <Fact name={say("code")}>{entry.code ?? none}</Fact>
          <Fact name={say("time")}>{moment(entry.at)}</Fact>
          <Fact name={say("owner")}>{entry.owner ?? say("nobody")}</Fact>
          <Fact name={say("key")}>
            <code className="break-all">{entry.key_id ?? none}</code>
          </Fact>
          <Fact name={say("resource")}>
            <code className="break-all">{entry.resource_id ?? none}</code>
          </Fact>
          <Fact name={say("request")}>
            <code className="break-all">{entry.request_id}</code>
          </Fact>
        </Facts>
      </div>
      <div className="flex flex-wrap gap-2">
        {entry.owner ? (
          <Button onClick={() => only("owner", entry.owner ?? "")}>{say("onlyOwner")}</Button>
        ) : null}
        {entry.key_id ? (
          <Button onClick={() => only("key_id", entry.key_id ?? "")}>{say("onlyKey")}</Button>
        ) : null}
        {entry.resource_id ? (
          <Button onClick={() => only("resource_id", entry.resource_id ?? "")}>{say("onlyResource")}</Button>
        ) : null}
      </div>
    </Dialog>
  );
}
