import { DropdownMenu as Parts } from "radix-ui";
import type { ReactNode } from "react";
import { cx } from "./class_names";

export interface MenuItem {
  label: string;
  icon?: ReactNode;
  danger?: boolean;
  disabled?: boolean;
  checked?: boolean;
  onSelect(): void;
}

/** A list of acts behind a button. */
export function Menu({
  trigger,
  items,
  label,
}: {
  trigger: ReactNode;
  items: (MenuItem | "line" | null | false)[];
  label?: string;
}): ReactNode {
  return (
    <Parts.Root>
      <Parts.Trigger asChild>{trigger}</Parts.Trigger>
      <Parts.Portal>
        <Parts.Content
          align="end"
          sideOffset={4}
          collisionPadding={8}
          aria-label={label}
          className="z-50 min-w-44 rounded-xl border bg-panel p-1 shadow-xl"
        >
          {items.map((item, at) => {
            if (!item) return null;
            // biome-ignore lint/suspicious/noArrayIndexKey: lines have nothing else that tells them apart
            if (item === "line") return <Parts.Separator key={at} className="my-1 border-t" />;
            return (
              <Parts.Item
                key={item.label}
                disabled={item.disabled ?? false}
                onSelect={item.onSelect}
                aria-current={item.checked || undefined}
                className={cx(
                  "flex cursor-pointer items-center gap-2.5 rounded-lg px-2.5 py-1.5 text-sm outline-none data-disabled:cursor-not-allowed data-disabled:opacity-50 data-highlighted:bg-raised [&_svg]:size-4",
                  item.danger ? "text-bad" : "text-ink",
                  item.checked && "font-semibold",
                )}
              >
                {item.icon}
                {item.label}
              </Parts.Item>
            );
          })}
        </Parts.Content>
      </Parts.Portal>
    </Parts.Root>
  );
}
