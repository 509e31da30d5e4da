import type { ReactNode } from "react";
import { Toaster, toast } from "sonner";
import { said } from "@/bay";
import { useTheme } from "@/lib/theme";

/** The place for short messages. */
export function Toasts(): ReactNode {
  return <Toaster theme={useTheme()} position="bottom-right" closeButton richColors={false} />;
}

export function tell(message: string): void {
  toast(message);
}

export function tellError(error: unknown): void {
  toast.error(said(error), { duration: 10_000 });
}
