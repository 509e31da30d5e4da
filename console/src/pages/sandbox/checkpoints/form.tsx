/** A dialog with fields, which shows what Bay answers when it refuses. */

import { type FormEvent, type ReactNode, useState } from "react";
import { said } from "@/bay";
import { useWords } from "@/lib/words";
import { Button } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { shared } from "@/words";

export function Form({
  title,
  about,
  act,
  isDanger = false,
  children,
  onClose,
  onSubmit,
}: {
  title: string;
  about: string;
  act: string;
  isDanger?: boolean;
  children?: ReactNode;
  onClose(): void;
  onSubmit(given: FormData): Promise<void>;
}): ReactNode {
  const sayShared = useWords(shared);
  const [problem, setProblem] = useState("");
  const [isBusy, setBusy] = useState(false);
  const submit = async (event: FormEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    setBusy(true);
    setProblem("");
    try {
      await onSubmit(new FormData(event.currentTarget));
    } catch (error) {
      setProblem(said(error));
    }
    setBusy(false);
  };
  return (
    <Dialog open onOpenChange={(open) => open || onClose()} title={title} about={about}>
      <form onSubmit={submit} className="flex flex-col gap-4">
        {children}
        {problem ? (
          <p role="alert" className="rounded-lg bg-bad-soft px-3 py-2 text-sm break-words text-bad">
            {problem}
          </p>
        ) : null}
        <div className="flex justify-end gap-2">
          <Button onClick={onClose}>{sayShared("cancel")}</Button>
          <Button kind={isDanger ? "danger" : "primary"} type="submit" busy={isBusy}>
            {act}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

/** What was typed into a field, without space around it. */
export function textOf(given: FormData, name: string): string {
  return String(given.get(name) ?? "").trim();
}
