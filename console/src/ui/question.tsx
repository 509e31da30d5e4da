import { type ReactNode, useState } from "react";
import { said } from "@/bay";
import { useWords } from "@/lib/words";
import { shared } from "@/words";
import { Button } from "./button";
import { Dialog } from "./dialog";

/** Asks before an act that cannot be taken back. It stays open, with the error, when the act fails. */
export function Question({
  title,
  yes,
  act,
  onClose,
  children,
}: {
  title: string;
  /** The words of the button that acts. */
  yes: string;
  act(): Promise<void>;
  onClose(): void;
  children: ReactNode;
}): ReactNode {
  const say = useWords(shared);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  const go = async (): Promise<void> => {
    setBusy(true);
    setProblem("");
    try {
      await act();
      onClose();
    } catch (failure) {
      setProblem(said(failure));
      setBusy(false);
    }
  };
  return (
    <Dialog open onOpenChange={(open) => open || onClose()} title={title}>
      <div className="grid gap-4">
        <div className="text-sm break-words text-muted">{children}</div>
        {problem ? (
          <p role="alert" className="text-sm break-words text-bad">
            {problem}
          </p>
        ) : null}
        <div className="flex justify-end gap-2">
          <Button onClick={onClose}>{say("cancel")}</Button>
          <Button kind="danger" busy={busy} onClick={() => void go()}>
            {yes}
          </Button>
        </div>
      </div>
    </Dialog>
  );
}
