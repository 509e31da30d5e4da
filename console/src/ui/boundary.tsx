import { Component, type ReactNode } from "react";
import { useWords } from "@/lib/words";
import { pageWords } from "@/pages/words";
import { Button } from "./button";
import { Failed } from "./states";

/** Keeps a defect of one part of the page to that part. */
export class Boundary extends Component<{ children: ReactNode }, { error: unknown }> {
  override state: { error: unknown } = { error: null };

  static getDerivedStateFromError(error: unknown): { error: unknown } {
    return { error };
  }

  override render(): ReactNode {
    return this.state.error === null ? this.props.children : <Defect error={this.state.error} />;
  }
}

function Defect({ error }: { error: unknown }): ReactNode {
  const say = useWords(pageWords);
  return (
    <div className="p-2">
      <p className="px-4 pt-4 text-sm font-semibold">{say("failed")}</p>
      <Failed error={error} />
      <Button className="mx-4" onClick={() => location.reload()}>
        {say("reload")}
      </Button>
    </div>
  );
}
