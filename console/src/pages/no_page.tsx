import { Compass } from "lucide-react";
import type { ReactNode } from "react";
import { Link } from "react-router";
import { useWords } from "@/lib/words";
import { Empty } from "@/ui/states";
import { pageWords } from "./words";

export function NoPage(): ReactNode {
  const say = useWords(pageWords);
  return (
    <Empty icon={<Compass />} title={say("noPage")}>
      <p>{say("noPageAbout")}</p>
      <Link className="text-accent underline" to="/console/sandboxes">
        {say("toSandboxes")}
      </Link>
    </Empty>
  );
}
