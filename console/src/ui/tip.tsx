import { Tooltip } from "radix-ui";
import type { ReactNode } from "react";

/** A few words about a thing that shows none. */
export function Tip({ text, children }: { text: string; children: ReactNode }): ReactNode {
  return (
    <Tooltip.Root>
      <Tooltip.Trigger asChild>{children}</Tooltip.Trigger>
      <Tooltip.Portal>
        <Tooltip.Content
          sideOffset={6}
          collisionPadding={8}
          className="z-50 max-w-72 rounded-lg bg-ink px-2.5 py-1.5 text-xs text-panel shadow-lg"
        >
          {text}
        </Tooltip.Content>
      </Tooltip.Portal>
    </Tooltip.Root>
  );
}
