import { useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import { bay } from "@/bay";
import { useWords } from "@/lib/words";
import { Field, Select } from "@/ui/fields";
import { Question } from "@/ui/question";
import { tell } from "@/ui/toasts";
import { imagesQuery } from "./query";
import { imageWords } from "./words";

const DAY_S = 86_400;
const SPANS = { any: 0, day: DAY_S, week: 7 * DAY_S, month: 30 * DAY_S } as const;

/** Removes what nothing needs. */
export function Prune({ onClose }: { onClose(): void }): ReactNode {
  const say = useWords(imageWords);
  const cache = useQueryClient();
  const [unusedFor, setUnusedFor] = useState(0);
  return (
    <Question
      title={say("pruneTitle")}
      yes={say("prune")}
      onClose={onClose}
      act={async () => {
        const gone = await bay.images.prune({ unusedFor });
        await cache.invalidateQueries({ queryKey: imagesQuery.queryKey });
        tell(say("pruned", { count: gone.length }));
      }}
    >
      <p className="mb-4">{say("pruneAbout")}</p>
      <Field label={say("unusedFor")}>
        {(at) => (
          <Select {...at} value={unusedFor} onChange={(event) => setUnusedFor(Number(event.target.value))}>
            {(Object.keys(SPANS) as (keyof typeof SPANS)[]).map((name) => (
              <option key={name} value={SPANS[name]}>
                {say(name)}
              </option>
            ))}
          </Select>
        )}
      </Field>
    </Question>
  );
}
