/** What profiles and this Bay's host can do. */

import { queryOptions, useQuery } from "@tanstack/react-query";
import type { Sandbox } from "bay-sandbox";
import { bay } from "./bay";
import { keys } from "./live";

export const profilesQuery = queryOptions({
  queryKey: keys.nouns("profiles"),
  queryFn: ({ signal }) => bay.profiles({ signal }),
});

export const capabilitiesQuery = queryOptions({
  queryKey: keys.nouns("capabilities"),
  queryFn: ({ signal }) => bay.capabilities({ signal }),
});

/** Whether the memory of a sandbox can go to disk, by its profile and this host; false until that is known. */
export function useSavesMemory(box: Sandbox): boolean {
  const profile = useQuery(profilesQuery).data?.find((one) => one.id === box.profile);
  const host = useQuery(capabilitiesQuery).data;
  return Boolean(profile?.hibernate && host?.memory.includes(box.isolation));
}
