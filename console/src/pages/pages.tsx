/** The pages that the navigation and the command palette lead to, in their order. */

import { Boxes } from "lucide-react";
import type { ComponentType, ReactNode } from "react";
import { ListPage } from "./list/page";

export interface PageEntry {
  /** Below `/console/`. */
  path: string;
  /** Its name, a text of `src/pages/words.ts`. */
  name: "sandboxes";
  icon: ReactNode;
  Page: ComponentType;
  forAdmins?: boolean;
}

export const PAGES: readonly PageEntry[] = [
  { path: "sandboxes", name: "sandboxes", icon: <Boxes aria-hidden />, Page: ListPage },
];
