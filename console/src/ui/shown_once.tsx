import { TriangleAlert } from "lucide-react";
import type { ReactNode } from "react";
import { Button } from "./button";
import { CopyField } from "./copy";
import { Dialog } from "./dialog";

/** A secret that no later answer has. A click beside the window does not close it. */
export function ShownOnce({
  title,
  label,
  secret,
  words,
  done,
  onClose,
  children,
}: {
  title: string;
  label: string;
  secret: string;
  /** That it is not shown again, and what it is good for. */
  words: string;
  /** The words of the button that closes. */
  done: string;
  onClose(): void;
  children?: ReactNode;
}): ReactNode {
  return (
    <Dialog open steady onOpenChange={(open) => open || onClose()} title={title}>
      <div className="grid gap-4">
        <p className="flex gap-2.5 rounded-lg bg-warn-soft px-3 py-2.5 text-sm text-warn">
          <TriangleAlert aria-hidden className="mt-0.5 size-4 shrink-0" />
          {words}
        </p>
        <CopyField label={label} value={secret} />
        <div className="text-sm text-muted">{children}</div>
        <div className="flex justify-end">
          <Button onClick={onClose}>{done}</Button>
        </div>
      </div>
    </Dialog>
  );
}
