import { X } from "lucide-react";
import { Dialog as Parts } from "radix-ui";
import type { ReactNode } from "react";
import { useWords } from "@/lib/words";
import { shared } from "@/words";
import { IconButton } from "./button";
import { cx } from "./class_names";

/** A window over the page. The keyboard stays in it until it is closed. */
export function Dialog({
  open,
  onOpenChange,
  title,
  about,
  wide = false,
  steady = false,
  children,
}: {
  open: boolean;
  onOpenChange(open: boolean): void;
  title: string;
  about?: ReactNode;
  wide?: boolean;
  /** A click beside it does not close it: what it shows is shown once. */
  steady?: boolean;
  children: ReactNode;
}): ReactNode {
  const say = useWords(shared);
  return (
    <Parts.Root open={open} onOpenChange={onOpenChange}>
      <Parts.Portal>
        <Parts.Overlay className="fixed inset-0 z-40 bg-black/50" />
        <Parts.Content
          {...(about ? {} : { "aria-describedby": undefined })}
          {...(steady ? { onInteractOutside: (event: Event) => event.preventDefault() } : {})}
          className={cx(
            "fixed inset-x-0 bottom-0 z-50 mx-auto flex max-h-[92dvh] w-full flex-col rounded-t-2xl border bg-panel shadow-2xl sm:top-[10vh] sm:bottom-auto sm:max-h-[80vh] sm:rounded-2xl",
            wide ? "sm:max-w-3xl" : "sm:max-w-lg",
          )}
        >
          <header className="flex items-start gap-3 border-b py-2.5 pr-3 pl-5">
            <div className="min-w-0 flex-1 py-1.5">
              <Parts.Title className="text-base font-semibold">{title}</Parts.Title>
              {about ? (
                <Parts.Description className="mt-1 text-sm text-muted">{about}</Parts.Description>
              ) : null}
            </div>
            <Parts.Close asChild>
              <IconButton label={say("close")}>
                <X aria-hidden />
              </IconButton>
            </Parts.Close>
          </header>
          <div className="min-h-0 flex-1 overflow-y-auto px-5 py-4">{children}</div>
        </Parts.Content>
      </Parts.Portal>
    </Parts.Root>
  );
}
