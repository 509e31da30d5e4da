import { useQuery } from "@tanstack/react-query";
import { bay } from "@/bay";
import { keys } from "@/live";
import { useMe } from "@/sign_in";
import { PAGES, type PageEntry } from "./pages";

/** The pages that the caller may see and that this Bay has something for. */
export function useShownPages(): PageEntry[] {
  const isAdmin = useMe().scope === "admin";
  const { data: isShared = false } = useQuery({
    queryKey: keys.nouns("shared"),
    // A replica names itself there; a Bay that is alone does not.
    queryFn: async ({ signal }) => {
      const ready = await bay.request<{ replica?: string | null }>({
        method: "GET",
        path: "/health/ready",
        safe: true,
        signal,
      });
      return Boolean(ready.replica);
    },
    enabled: isAdmin,
  });
  return PAGES.filter((page) => (isAdmin || !page.forAdmins) && (isShared || !page.forReplicas));
}
