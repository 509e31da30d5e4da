import { words } from "@/lib/words";

export const eventWords = words(
  "events",
  {
    title: "Events",
    none: "No events are kept any more",
    noneAbout: "Bay keeps events for a time that its operator sets. New ones appear here by themselves.",
    older: "Show older ones",
    type: "Type",
    at: "When",
    data: "Facts",
    all: "All types",
  },
  {
    title: "事件",
    none: "没有保留的事件",
    noneAbout: "事件的保留时间由管理员设定。新事件会自动显示在这里。",
    older: "显示更早的",
    type: "类型",
    at: "时间",
    data: "详情",
    all: "所有类型",
  },
);
